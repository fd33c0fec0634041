"""The longer drills of `bench/rating.py --kill`: what stops, ends, fills up or goes away, under load.

After each the checks by SQL must hold (nothing acknowledged is missing, nobody has a task twice), and the
service must be back by itself: nobody starts anything again but what was told to stop.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url

from app.db.embedded import EmbeddedServer
from app.db.migrate import migrate
from bench.kill import longest_silence
from simulation.cluster import new_database, swept, temporary_server
from simulation.command import Running, running, server_of
from simulation.gate import Gate, gate_before
from simulation.load import broken, check, finish_raters, start_raters
from simulation.stage import Stage, seed

LONGEST_STOP = 15.0
AWAY_SECONDS = 60.0
SMALL_DISK = "256m"


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    tasks: int
    raters: int
    workers: int
    seconds: float
    words: int


def run_drills(server: str, folder: Path, size: Size) -> dict[str, dict[str, Any]]:
    """Every drill by its name. One that cannot be carried out here says why."""
    drills: Mapping[str, Callable[[], dict[str, Any]]] = {
        "kill -9 of the embedded postmaster": partial(postmaster_killed, folder / "killed", size),
        "database away for a minute": partial(database_away, server, folder / "away", size),
        **{
            f"SIGTERM, the database {state}": partial(
                stopped, server, folder / f"stopped-{state}", size, state
            )
            for state in ("at work", "shut", "silent")
        },
        "disk full": partial(disk_full, folder / "full", size),
        "two demos at once": partial(two_demos, folder / "demos"),
    }
    return {name: drill() for name, drill in drills.items()}


def went_wrong(figures: Mapping[str, Any]) -> bool:
    """Whether a drill has found something."""
    if "left_out" in figures:
        return False
    return bool(
        broken(figures["checks"])
        or figures["unexpected"]
        or not figures.get("back_by_itself", True)
        or not figures.get("stop_in_time", True)
        or figures.get("server_left_behind", False)
        or figures.get("ready_while_full", 503) != 503
        or figures.get("ready_at_the_end", 200) != 200
    )


def serve(size: Size) -> list[str]:
    """The words of the command."""
    return ["serve", "--workers", str(size.workers)]


def seeded(url: str, size: Size) -> Stage:
    """A database at work."""
    migrate(url)
    return seed(url, tasks=size.tasks, raters=size.raters, words=size.words)


@contextmanager
def under_load(stage: Stage, it: Running, seconds: float) -> Iterator[dict[str, Any]]:
    """Raters at work meanwhile; afterwards, what they noticed and what the checks say."""
    load = start_raters(stage, it, stage.tokens, seconds=seconds, warmup=0, seed=1)
    found: dict[str, Any] = {}
    began = time.time()
    yield found
    log = finish_raters(load)
    answers = log["answered_at"]
    found |= {
        "acknowledged": len(log["acknowledged"]),
        "nothing_answered_seconds": round(longest_silence(answers, began, max(answers)), 2),
        "back_by_itself": max(answers) > time.time() - seconds / 2,
        "retries": log["retries"],
        "of_them_after_503": log["unavailable"],
        "unexpected": log["unexpected"],
        "log": log["acknowledged"],
    }


def with_checks(url: str, found: dict[str, Any]) -> dict[str, Any]:
    """The figures, with the checks in the place of what was acknowledged."""
    acknowledged = found.pop("log")
    return {**found, "checks": check(url, acknowledged)}


def postmaster_killed(folder: Path, size: Size) -> dict[str, Any]:
    """`serve` on a data folder of its own loses its PostgreSQL."""
    data = folder / "data"
    with swept(data), running(serve(size), folder) as it:
        it.is_ready()
        with EmbeddedServer(data) as url:
            stage = seeded(url, size)
        with under_load(stage, it, size.seconds) as found:
            time.sleep(size.seconds / 3)
            postmaster = server_of(data)
            assert postmaster is not None
            os.kill(postmaster.pid, signal.SIGKILL)
        with EmbeddedServer(data) as url:
            found["same_address"] = url == stage.url
            return with_checks(url, found)


@contextmanager
def behind_gate(server: str, size: Size) -> Iterator[tuple[Gate, Stage, str]]:
    """A seeded database, the way to it, and its URL by that way."""
    with new_database(server, "plackett_drill") as url:
        stage = seeded(url, size)
        parts = make_url(url)
        with gate_before(parts.host or "127.0.0.1", parts.port or 5432) as gate:
            yield gate, stage, parts.set(port=gate.port).render_as_string(hide_password=False)


def database_away(server: str, folder: Path, size: Size) -> dict[str, Any]:
    """A server database ends, and is back after a minute."""
    with ExitStack() as stack:
        gate, stage, url = stack.enter_context(behind_gate(server, size))
        it = stack.enter_context(running(serve(size), folder, DATABASE_URL=url))
        it.is_ready()
        with under_load(stage, it, AWAY_SECONDS + size.seconds) as found:
            time.sleep(size.seconds / 3)
            gate.shut()
            time.sleep(AWAY_SECONDS)
            gate.let_through()
        return with_checks(stage.url, found)


def stopped(server: str, folder: Path, size: Size, state: str) -> dict[str, Any]:
    """`serve` is told to stop while raters are at work, and is started again."""
    with ExitStack() as stack:
        gate, stage, url = stack.enter_context(behind_gate(server, size))
        it = stack.enter_context(running(serve(size), folder, DATABASE_URL=url))
        it.is_ready()
        with under_load(stage, it, LONGEST_STOP + size.seconds) as found:
            time.sleep(size.seconds / 3)
            if state == "shut":
                gate.shut()
            elif state == "silent":
                gate.fall_silent()
            time.sleep(2)
            seconds = it.stop()
            found["stop_seconds"] = round(seconds, 2)
            found["stop_in_time"] = seconds < LONGEST_STOP
            gate.let_through()
            again = running(serve(size), folder / "again", port=it.port, DATABASE_URL=url)
            stack.enter_context(again).is_ready()
        return with_checks(stage.url, found)


def disk_full(folder: Path, size: Size) -> dict[str, Any]:
    """The disk of the database fills up, and is freed."""
    disk = folder / "disk"
    disk.mkdir(parents=True)
    options = ["-t", "tmpfs", "-o", f"size={SMALL_DISK},mode=755", "tmpfs", str(disk)]
    if subprocess.run(["mount", *options], check=False, capture_output=True).returncode:
        return {"left_out": "only root can make a disk that is small enough to fill"}
    try:
        with temporary_server(disk) as server, new_database(server, "plackett_drill") as url:
            few = Size(min(size.tasks, 2000), size.raters, size.workers, size.seconds, size.words)
            stage = seeded(url, few)
            with running(serve(size), folder, DATABASE_URL=url) as it:
                it.is_ready()
                with under_load(stage, it, size.seconds + 10) as found:
                    time.sleep(size.seconds / 3)
                    rest = disk / "rest"
                    fill(rest)
                    time.sleep(8)
                    found["ready_while_full"] = it.status()
                    rest.unlink()
                found["ready_at_the_end"] = it.status()
                return with_checks(url, found)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def fill(path: Path) -> None:
    """Use up the disk."""
    for size in (1 << 20, 1 << 12, 1):
        with suppress(OSError), path.open("ab", buffering=0) as file:
            while file.write(bytes(size)) == size:
                pass


def two_demos(folder: Path) -> dict[str, Any]:
    """Two demos start at the same moment on a fresh folder."""
    data = folder / "data"
    words = ["demo", "--no-browser", "--model", "somewhere/small"]  # nobody asks it to write
    with swept(data), ExitStack() as stack:
        two = [
            stack.enter_context(running(words, folder / name, PLACKETT_DATA_DIR=str(data)))
            for name in ("one", "two")
        ]
        for it in two:
            it.is_ready()
        with EmbeddedServer(data) as url:
            checks = check(url, [])
        stops: list[float] = []
        ending = [threading.Thread(target=lambda it=it: stops.append(it.stop())) for it in two]
        for each in ending:
            each.start()
        for each in ending:
            each.join()
        return {
            "stop_seconds": [round(each, 2) for each in stops],
            "stop_in_time": max(stops) < LONGEST_STOP,
            "server_left_behind": server_of(data) is not None,
            "unexpected": [],
            "checks": checks,
        }
