"""What the parts of bench/rating.py share: the figures of a load."""

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg

from app.db.engine import libpq_url
from bench.machine import cpu_seconds, machine_cpu_seconds
from simulation.load import finish_raters, start_raters
from simulation.served import Served
from simulation.stage import Stage


def percentiles(milliseconds: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99, in ms."""
    if len(milliseconds) < 2:
        return {}
    cuts = statistics.quantiles(milliseconds, n=100, method="inclusive")
    return {f"p{each}": round(cuts[each - 1], 2) for each in (50, 95, 99)}


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
