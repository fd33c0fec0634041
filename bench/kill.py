"""`bench/rating.py --kill`: what raters notice, and what is lost, when things die under load.

One app process is killed (SIGKILL), then PostgreSQL is restarted in order (`fast`), then as by a crash
(`immediate`). The raters make unanswered calls again; the checks by SQL must hold at the end.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

from app.db.migrate import migrate
from app.settings import CHECKOUT
from bench.load import data_directory, percentiles
from simulation.cluster import new_database
from simulation.load import check, finish_raters, start_raters
from simulation.served import serving, wait_for
from simulation.stage import seed


def restart(cluster: Path, mode: str) -> None:
    """Stop a server of this machine and start it again, with its own program and settings."""
    pid = int((cluster / "postmaster.pid").read_text().split("\n")[0])
    program = Path(f"/proc/{pid}/exe").readlink().with_name("pg_ctl")
    owner = cluster.stat()
    subprocess.run(
        [program, "-D", cluster, "-m", mode, "-w", "-l", cluster.parent / "server.log", "restart"],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,  # Ctrl-C is for us alone
        user=owner.st_uid,
        group=owner.st_gid,
        extra_groups=[],
    )


def longest_silence(answers: Sequence[float], begin: float, end: float) -> float:
    """Seconds in which nobody was told of a stored ranking, the longest within these moments."""
    inside = [begin, *(each for each in sorted(answers) if begin < each < end), end]
    return max(after - before for before, after in pairwise(inside))


def drill(
    server: str, folder: Path, *, tasks: int, raters: int, workers: int, seconds: float, words: int
) -> dict[str, Any]:
    """The figures of one drill."""
    with ExitStack() as stack:
        url = stack.enter_context(new_database(server, "plackett_bench"))
        migrate(url)
        stage = seed(url, tasks=tasks, raters=raters, words=words)
        log_file = folder / "app.log"
        served = stack.enter_context(serving(CHECKOUT, url, workers=workers, log=log_file))
        cluster = data_directory(url)
        before = served.workers()
        load = start_raters(stage, served, stage.tokens, seconds=seconds, warmup=0, seed=1)
        began = time.time()
        back: list[float] = []

        def kill_one() -> None:
            up, moment = served.started(), time.monotonic()
            os.kill(before[0], signal.SIGKILL)
            wait_for(lambda: served.started() > up, served.process)
            back.append(time.monotonic() - moment)

        events: list[tuple[str, Callable[[], None]]] = [
            ("kill -9 of one app process", kill_one),
            ("restart of PostgreSQL (fast)", lambda: restart(cluster, "fast")),
            ("restart of PostgreSQL (immediate: a crash)", lambda: restart(cluster, "immediate")),
        ]
        moments = []
        for number, (_, event) in enumerate(events, start=1):
            time.sleep(max(0.0, began + seconds * number / (len(events) + 1) - time.time()))
            moments.append(time.time())
            event()
        log = finish_raters(load)
        checks = check(url, log["acknowledged"])
        processes = len(served.workers())
    answers = log["answered_at"]
    ends = [*moments[1:], max(answers)]
    return {
        "events": [
            {
                "event": name,
                "second": round(moment - began, 1),
                "nothing_answered_seconds": round(longest_silence(answers, moment, end), 2),
            }
            for (name, _), moment, end in zip(events, moments, ends, strict=True)
        ],
        "quiet_hours_longest_silence_seconds": round(
            longest_silence(answers, min(answers), moments[0]), 2
        ),
        "app_process_back_after_seconds": round(back[0], 2),
        "app_processes_at_the_end": processes,
        "cycles": len(log["acknowledged"]),
        "lease_ms": percentiles(log["lease_ms"]),
        "submit_ms": percentiles(log["submit_ms"]),
        "retries": log["retries"],
        "of_them_after_503": log["unavailable"],
        "unexpected": log["unexpected"],
        "checks": checks,
    }
