"""What the parts of bench/rating.py share: the load, its figures, and the checks by SQL at the end."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg

from app.db.engine import libpq_url
from bench.stage import CHECKOUT, K, Served, Stage, cpu_seconds, machine_cpu_seconds

RATERS = CHECKOUT / "bench" / "raters.py"

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
    before = cpu_seconds(served.process.pid), server_cpu(stage.url), machine_cpu_seconds()
    began = time.monotonic()
    log = finish_raters(start_raters(stage, served, tokens, **times))
    cycles = len(log["lease_ms"])
    every = max(1, len(log["acknowledged"]))
    took = time.monotonic() - began
    after = cpu_seconds(served.process.pid), server_cpu(stage.url), machine_cpu_seconds()
    app, postgresql, machine = (b - a for a, b in zip(before, after, strict=True))
    others = machine - app - postgresql - log["cpu_seconds"]
    return {
        "cycles_per_second": round(cycles / log["seconds"], 1),
        "lease_ms": percentiles(log["lease_ms"]),
        "submit_ms": percentiles(log["submit_ms"]),
        "cycles": cycles,
        "cpu_ms_per_cycle": {
            "app": round(app * 1000 / every, 2),
            "postgresql": round(postgresql * 1000 / every, 2),
            "raters": round(log["cpu_seconds"] * 1000 / every, 2),
        },
        "cores_that_others_used": round(max(0.0, others) / took, 2),
        "retries": log["retries"],
        "unexpected": log["unexpected"][:5],
        "ran_dry": log["ran_dry"],
        "log": log,
    }


def server_cpu(url: str) -> float:
    """What the server's processes have computed, where they are this machine's."""
    try:
        return cpu_seconds(int((data_directory(url) / "postmaster.pid").read_text().split("\n")[0]))
    except (OSError, ValueError, psycopg.Error):  # another machine's, or not for us to look at
        return 0.0


def data_directory(url: str) -> Path:
    """Where the server keeps its files."""
    with psycopg.connect(libpq_url(url)) as connection:
        row = connection.execute("SHOW data_directory").fetchone()
    assert row is not None
    return Path(row[0])


def broken(checks: Mapping[str, int]) -> list[str]:
    """The rules that do not hold."""
    return [name for name, count in checks.items() if count and name in CHECKS]


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
