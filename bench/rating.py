"""How fast the assignment engine is through its API, and whether load loses or doubles anything.

    python bench/rating.py                      cycles a second and latencies, 16 raters and one
    python bench/rating.py --scale              lease time at 1,000,000 open tasks beside 1,000; plans
    python bench/rating.py --kill               kill -9, restarts, SIGTERM in every state, a database that
                                                is away for a minute, a full disk, two demos at once
    python bench/rating.py --compare ../other   runs of this checkout and another in turn (same schema)

A PostgreSQL of its own (the embedded one, durable as in production) or, with DATABASE_URL, a database of
its own on that server; 100,000 open tasks, overlap 3, K = 4; `plackett serve` as people run it; the raters
of simulation/raters.py in a process of their own, on the same cores as all the rest. Each ends with checks
by SQL: no task over its overlap, no rater twice on a task, nothing acknowledged and missing.

Prints one JSON object; the exit code is 1 when a check fails. Figures are medians over the runs.
Other work on the machine makes them worse (`cores_that_others_used` tells of it); `--quiet 5` waits up to
five minutes in all for it to end.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psycopg

from app.db.engine import libpq_url
from app.db.migrate import migrate
from app.settings import CHECKOUT
from bench.drills import Size, run_drills, went_wrong
from bench.kill import drill
from bench.load import measure, middle
from bench.machine import tell, wait_for_quiet
from bench.scale import compare_sizes
from simulation.cluster import new_database, temporary_server
from simulation.load import broken, check
from simulation.served import serving
from simulation.stage import seed

TARGETS = {
    "cycles_per_second": (">=", 200),
    "lease_p99_ms": ("<", 150),
    "submit_p99_ms": ("<", 150),
    "one_rater_lease_p99_ms": ("<", 30),
    "one_rater_submit_p99_ms": ("<", 30),
    "lease_ratio_1m_to_1k": ("<=", 1.5),
}


def throughput(server: str, folder: Path, wanted: argparse.Namespace) -> dict[str, Any]:
    """The figures at many raters and at one, of one checkout or of several in turn."""
    checkouts = {"this": CHECKOUT} | {path.name: path.resolve() for path in wanted.compare}
    parts: dict[str, dict[str, list[dict[str, Any]]]] = {
        name: {"all_raters": [], "one_rater": []} for name in checkouts
    }
    acknowledged: list[Any] = []
    patience = time.monotonic() + 60 * wanted.quiet
    with new_database(server, "plackett_bench") as url:
        migrate(url)
        stage = seed(
            url, tasks=wanted.tasks or 100_000, raters=wanted.raters + 1, words=wanted.words
        )
        for number in range(wanted.runs):
            for name, checkout in checkouts.items():
                with serving(
                    checkout, url, workers=wanted.workers, log=folder / "app.log"
                ) as served:
                    wait_for_quiet(patience)
                    for part, tokens, seconds in (
                        ("all_raters", stage.tokens[:-1], wanted.seconds),
                        ("one_rater", stage.tokens[-1:], wanted.seconds / 3),
                    ):
                        times = {"seconds": seconds, "warmup": wanted.warmup, "seed": 1000 * number}
                        run = measure(stage, served, tokens, **times)
                        acknowledged += run.pop("log")["acknowledged"]
                        parts[name][part].append(run)
                        tell(f"run {number + 1} of {name}, {part}: {run}")
        checks = check(url, acknowledged)
    figures: dict[str, Any] = {
        name: {
            part: middle(runs)
            | {
                "runs": [
                    {each: run[each] for each in ("cycles_per_second", "cores_that_others_used")}
                    for run in runs
                ]
            }
            for part, runs in by_part.items()
        }
        for name, by_part in parts.items()
    }
    many, one = figures["this"]["all_raters"], figures["this"]["one_rater"]
    return {
        "figures": figures if wanted.compare else figures["this"],
        "targets": targets(
            cycles_per_second=many["cycles_per_second"],
            lease_p99_ms=many["lease_ms"]["p99"],
            submit_p99_ms=many["submit_ms"]["p99"],
            one_rater_lease_p99_ms=one["lease_ms"]["p99"],
            one_rater_submit_p99_ms=one["submit_ms"]["p99"],
        ),
        "unexpected": [
            words
            for by_part in parts.values()
            for runs in by_part.values()
            for run in runs
            for words in run["unexpected"]
        ],
        "checks": checks,
    }


def targets(**figures: float) -> dict[str, dict[str, Any]]:
    """Each figure beside what was to be reached."""
    told = {}
    for name, figure in figures.items():
        sign, bound = TARGETS[name]
        met = {"<": figure < bound, "<=": figure <= bound, ">=": figure >= bound}[sign]
        told[name] = {"figure": figure, "target": f"{sign} {bound:g}", "met": met}
    return told


@contextmanager
def a_server(folder: Path) -> Iterator[str]:
    """The server that DATABASE_URL names, or one of our own, which is gone afterwards."""
    given = os.environ.pop("DATABASE_URL", "")
    if given:
        yield given
        return
    with temporary_server(folder) as url:
        yield url


def main() -> int:
    """The command; 1 where a check by SQL failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, help="open tasks [100000; 1000000 for --scale]")
    parser.add_argument("--seconds", type=float, default=15, help="of each run [%(default)s]")
    parser.add_argument("--warmup", type=float, default=2, help="seconds before each [%(default)s]")
    parser.add_argument("--raters", type=int, default=16, help="at once [%(default)s]")
    parser.add_argument("--workers", type=int, default=2, help="app processes [%(default)s]")
    parser.add_argument("--runs", type=int, default=3, help="of each kind [%(default)s]")
    parser.add_argument("--words", type=int, default=100, help="in a candidate [%(default)s]")
    parser.add_argument("--compare", type=Path, action="append", default=[], metavar="CHECKOUT")
    parser.add_argument(
        "--quiet", type=float, default=0, metavar="MINUTES", help="wait for others' work to end"
    )
    parser.add_argument(
        "--scale", action="store_true", help="a million open tasks beside a thousand"
    )
    parser.add_argument("--kill", action="store_true", help="kill -9 and restarts under load")
    wanted = parser.parse_args()
    if wanted.kill and os.environ.get("DATABASE_URL"):
        parser.error("--kill restarts the server, so it takes none that DATABASE_URL names")
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="plackett-bench-"))
        folder.chmod(0o755)  # the server's account walks through it
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        url = stack.enter_context(a_server(folder))
        with psycopg.connect(libpq_url(url)) as connection:
            version = connection.info.server_version // 10000
        began = time.time()
        if wanted.scale:
            answer = compare_sizes(
                url,
                folder,
                tasks=wanted.tasks or 1_000_000,
                seconds=wanted.seconds,
                words=min(wanted.words, 30),  # a million tasks have four million candidates
            )
            answer["targets"] = targets(lease_ratio_1m_to_1k=answer["lease_ratio"])
        elif wanted.kill:
            size = Size(
                wanted.tasks or 100_000, wanted.raters, wanted.workers, wanted.seconds, wanted.words
            )
            answer = drill(url, folder, **asdict(size))
            answer["drills"] = run_drills(url, folder, size)
        else:
            answer = throughput(url, folder, wanted)
        answer["machine"] = {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "postgresql": version,
            "seconds_in_all": round(time.time() - began),
        }
    print(json.dumps(answer, indent=2))
    wrong = broken(answer["checks"]) or answer["unexpected"] or answer.get("sequential_scans")
    failed = [name for name, figures in answer.get("drills", {}).items() if went_wrong(figures)]
    return 1 if wrong or failed else 0


if __name__ == "__main__":
    sys.exit(main())
