"""How fast the assignment engine is through its API, and whether load loses or doubles anything.

    python bench/rating.py                      cycles a second and latencies, 16 raters and one
    python bench/rating.py --scale              lease time at 1,000,000 open tasks beside 1,000; plans
    python bench/rating.py --kill               kill -9 of an app process, restarts of PostgreSQL
    python bench/rating.py --compare ../other   runs of this checkout and another in turn (same schema)

A PostgreSQL of its own (the embedded one, durable as in production) or, with DATABASE_URL, a database of
its own on that server; 100,000 open tasks, overlap 3, K = 4; `plackett serve` as people run it; the raters
of bench/raters.py in a process of their own, on the same cores as all the rest. Each ends with checks by
SQL: no task over its overlap, no rater twice on a task, nothing acknowledged and missing.

Prints one JSON object; the exit code is 1 when a check fails. Figures are medians over the runs.
`cpu_ms_per_cycle` holds still when the machine is busy with other work, which `load_before_runs` tells.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psycopg

from app.db.embedded import EmbeddedServer
from app.db.engine import libpq_url
from bench.stage import CHECKOUT, K, Served, Stage, cpu_seconds, new_database, seed, serving

RATERS = CHECKOUT / "bench" / "raters.py"
TARGETS = {
    "cycles_per_second": (">=", 200),
    "lease_p99_ms": ("<", 150),
    "submit_p99_ms": ("<", 150),
    "one_rater_lease_p99_ms": ("<", 30),
    "one_rater_submit_p99_ms": ("<", 30),
    "lease_ratio_1m_to_1k": ("<=", 1.5),
}

# What must hold at the end, whatever happened: each query counts what breaks a rule.
CHECKS = {
    "tasks_over_their_overlap": """
        SELECT count(*) FROM tasks AS task WHERE task.overlap < greatest(
            (SELECT count(*) FROM rankings WHERE task_id = task.id AND NOT extra),
            (SELECT count(*) FROM assignments WHERE task_id = task.id AND slot IS NOT NULL))
          AND EXISTS (SELECT FROM assignments WHERE task_id = task.id)""",
    "open_slots_that_do_not_add_up": """
        SELECT count(*) FROM tasks AS task WHERE task.overlap <> task.open_slots
            + (SELECT count(*) FROM assignments WHERE task_id = task.id AND slot IS NOT NULL)""",
    "raters_twice_on_a_task": """
        SELECT count(*) FROM (
            SELECT FROM rankings GROUP BY task_id, rater_id HAVING count(*) > 1) AS twice""",
    "acknowledged_and_missing": """
        SELECT count(*) FROM acknowledged AS ours WHERE NOT EXISTS (
            SELECT FROM rankings AS kept WHERE kept.id = ours.id
               AND kept.assignment_id = ours.assignment_id AND kept.ranks = ours.ranks)""",
    "acknowledged_twice": """
        SELECT count(*) FROM (
            SELECT FROM acknowledged GROUP BY assignment_id HAVING count(*) > 1) AS twice""",
    "submitted_without_a_ranking": """
        SELECT count(*) FROM assignments AS done WHERE state IN ('submitted', 'extra')
           AND NOT EXISTS (SELECT FROM rankings WHERE assignment_id = done.id)""",
    "rankings_without_all_their_pairs": f"""
        SELECT count(*) FROM rankings AS ranking WHERE {K * (K - 1) // 2} <>
            (SELECT count(*) FROM comparisons WHERE ranking_id = ranking.id)""",
}


def check(url: str, acknowledged: Sequence[Sequence[Any]]) -> dict[str, int]:
    """Every rule and how often it is broken; and how many rankings the rules were held against."""
    with psycopg.connect(libpq_url(url)) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE acknowledged (id uuid, assignment_id uuid, ranks jsonb)")
        with cursor.copy("COPY acknowledged FROM STDIN") as copy:
            for ranking, assignment, ranks in acknowledged:
                copy.write_row((ranking, assignment, json.dumps(ranks)))
        cursor.execute("ANALYZE acknowledged")
        found = {}
        for name, query in {
            **CHECKS,
            "rankings": "SELECT count(*) FROM rankings",
            "acknowledged": "SELECT count(*) FROM acknowledged",
        }.items():
            row = cursor.execute(query).fetchone()
            assert row is not None
            found[name] = int(row[0])
    return found


def percentiles(milliseconds: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99, in ms."""
    if len(milliseconds) < 2:
        return {}
    cuts = statistics.quantiles(milliseconds, n=100, method="inclusive")
    return {f"p{each}": round(cuts[each - 1], 2) for each in (50, 95, 99)}


def start_raters(
    stage: Stage, served: Served, tokens: Sequence[str], **times: Any
) -> subprocess.Popen[str]:
    """The load, at work in a process of its own."""
    plan = {"address": served.address, "slug": stage.slug, "tokens": list(tokens), **times}
    process = subprocess.Popen(
        [sys.executable, RATERS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(plan))
    process.stdin.close()
    return process


def finish_raters(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Their log. Raises RuntimeError where they broke."""
    assert process.stdout is not None
    text = process.stdout.read()
    if process.wait() != 0:
        raise RuntimeError("the load generator failed")
    log: dict[str, Any] = json.loads(text)
    return log


def measure(stage: Stage, served: Served, tokens: Sequence[str], **times: Any) -> dict[str, Any]:
    """One stretch of work: its figures, and the log under `log`."""
    before = cpu_seconds(served.process.pid), _server_cpu(stage.url)
    log = finish_raters(start_raters(stage, served, tokens, **times))
    cycles = len(log["lease_ms"])
    every = max(1, len(log["acknowledged"]))
    after = cpu_seconds(served.process.pid), _server_cpu(stage.url)
    return {
        "cycles_per_second": round(cycles / log["seconds"], 1),
        "lease_ms": percentiles(log["lease_ms"]),
        "submit_ms": percentiles(log["submit_ms"]),
        "cycles": cycles,
        "cpu_ms_per_cycle": {
            "app": round((after[0] - before[0]) * 1000 / every, 2),
            "postgresql": round((after[1] - before[1]) * 1000 / every, 2),
            "raters": round(log["cpu_seconds"] * 1000 / every, 2),
        },
        "retries": log["retries"],
        "unexpected": log["unexpected"][:5],
        "ran_dry": log["ran_dry"],
        "log": log,
    }


def _server_cpu(url: str) -> float:
    """What the server's processes have computed, where they are this machine's."""
    with psycopg.connect(libpq_url(url)) as connection:
        row = connection.execute("SHOW data_directory").fetchone()
    pid_file = Path(row[0] if row else "") / "postmaster.pid"
    try:
        return cpu_seconds(int(pid_file.read_text().split("\n", 1)[0]))
    except (OSError, ValueError):
        return 0.0


def middle(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The medians over runs, figure by figure."""
    found: dict[str, Any] = {}
    for name, first in runs[0].items():
        values = [run[name] for run in runs]
        if isinstance(first, Mapping):
            found[name] = middle(values)
        elif isinstance(first, int | float):
            found[name] = round(statistics.median(values), 2)
    return found


def throughput(server: str, folder: Path, wanted: argparse.Namespace) -> dict[str, Any]:
    """The figures at many raters and at one, of one checkout or of several in turn."""
    checkouts = {"this": CHECKOUT} | {path.name: path.resolve() for path in wanted.compare}
    parts: dict[str, dict[str, list[dict[str, Any]]]] = {
        name: {"all_raters": [], "one_rater": []} for name in checkouts
    }
    acknowledged: list[Any] = []
    loads = []
    with new_database(server, "plackett_bench") as url:
        stage = seed(url, tasks=wanted.tasks, raters=wanted.raters + 1, words=wanted.words)
        for number in range(wanted.runs):
            for name, checkout in checkouts.items():
                with serving(
                    checkout, url, workers=wanted.workers, log=folder / "app.log"
                ) as served:
                    for part, tokens, seconds in (
                        ("all_raters", stage.tokens[:-1], wanted.seconds),
                        ("one_rater", stage.tokens[-1:], wanted.seconds / 3),
                    ):
                        loads.append(os.getloadavg()[0])
                        times = {"seconds": seconds, "warmup": wanted.warmup, "seed": 1000 * number}
                        run = measure(stage, served, tokens, **times)
                        acknowledged += run.pop("log")["acknowledged"]
                        parts[name][part].append(run)
                        tell(f"run {number + 1} of {name}, {part}: {run}")
        checks = check(url, acknowledged)
    figures: dict[str, Any] = {
        name: {
            part: middle(runs) | {"runs": [run["cycles_per_second"] for run in runs]}
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
        "load_before_runs": [round(each, 2) for each in loads],
    }


def targets(**figures: float) -> dict[str, dict[str, Any]]:
    """Each figure beside what was to be reached."""
    told = {}
    for name, figure in figures.items():
        sign, bound = TARGETS[name]
        met = {"<": figure < bound, "<=": figure <= bound, ">=": figure >= bound}[sign]
        told[name] = {"figure": figure, "target": f"{sign} {bound:g}", "met": met}
    return told


def tell(words: str) -> None:
    """A line for whoever waits."""
    print(words, file=sys.stderr, flush=True)


@contextmanager
def server_of(folder: Path) -> Iterator[tuple[str, EmbeddedServer | None]]:
    """The server that DATABASE_URL names, or one of our own, which is gone afterwards."""
    given = os.environ.pop("DATABASE_URL", "")
    if given:
        yield given, None
        return
    server = EmbeddedServer(folder)
    with server as url:
        yield url, server


def main() -> int:
    """The command; 1 where a check by SQL failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=100_000, help="open tasks [%(default)s]")
    parser.add_argument("--seconds", type=float, default=15, help="of each run [%(default)s]")
    parser.add_argument("--warmup", type=float, default=2, help="seconds before each [%(default)s]")
    parser.add_argument("--raters", type=int, default=16, help="at once [%(default)s]")
    parser.add_argument("--workers", type=int, default=2, help="app processes [%(default)s]")
    parser.add_argument("--runs", type=int, default=3, help="of each kind [%(default)s]")
    parser.add_argument("--words", type=int, default=100, help="in a candidate [%(default)s]")
    parser.add_argument("--compare", type=Path, action="append", default=[], metavar="CHECKOUT")
    parser.add_argument(
        "--scale", action="store_true", help="a million open tasks beside a thousand"
    )
    parser.add_argument("--kill", action="store_true", help="kill -9 and restarts under load")
    wanted = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="plackett-bench-"))
        folder.chmod(0o755)  # the server's account walks through it
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        url, _ = stack.enter_context(server_of(folder))
        with psycopg.connect(libpq_url(url)) as connection:
            version = connection.info.server_version // 10000
        began = time.time()
        answer = throughput(url, folder, wanted)
        answer["machine"] = {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "postgresql": version,
            "seconds_in_all": round(time.time() - began),
        }
    print(json.dumps(answer, indent=2))
    broken = [
        name
        for name, count in answer["checks"].items()
        if count and name not in ("rankings", "acknowledged")
    ]
    return 1 if broken or answer["unexpected"] else 0


if __name__ == "__main__":
    sys.exit(main())
