"""Figures of several processes are told as one sum, also of those that have ended."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.settings import CHECKOUT
from simulation.command import running

COUNT = """
import sys, time
from pathlib import Path
from prometheus_client import Counter, Histogram
from app import figures
counter, histogram = Counter("c", "C", ["of"]), Histogram("h", "H", ["of"])
figures.share(Path(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    counter.labels("x").inc()
    histogram.labels("x").observe(0.3)
print(figures.tell().decode(), flush=True)
if len(sys.argv) > 3:
    time.sleep(60)
"""


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Each figure by its name and the values of its labels, these by their own names."""
    return {
        (each.name, *(value for _, value in sorted(each.labels.items()))): each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
    }


def count(folder: Path, times: int) -> dict[tuple[str, ...], float]:
    done = subprocess.run(
        [sys.executable, "-c", COUNT, folder, str(times)],
        cwd=CHECKOUT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return samples(done.stdout)


def test_what_others_count_and_have_counted_is_told_by_each(tmp_path: Path) -> None:
    folder = tmp_path / "figures"
    living = subprocess.Popen(
        [sys.executable, "-c", COUNT, folder, "3", "stay"],
        cwd=CHECKOUT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert living.stdout is not None
    while "h_sum" not in living.stdout.readline():
        pass
    try:
        for run in range(1, 4):
            told = count(folder, 5)
            assert told["c_total", "x"] == 3 + 5 * run
            assert told["h_count", "x"] == 3 + 5 * run
            assert told["h_bucket", "0.25", "x"] == 0
            assert told["h_bucket", "0.5", "x"] == 3 + 5 * run
            # The ended ones' files are one: the living one's two, this run's two, and theirs.
            assert len(list(folder.glob("*.db"))) == (4 if run == 1 else 6)
    finally:
        living.send_signal(signal.SIGKILL)
        living.communicate()
    assert count(folder, 1)["c_total", "x"] == 3 + 15 + 1
    assert len(list(folder.glob("*.db"))) == 4


@pytest.mark.slow
def test_forty_requests_and_a_job_are_counted_by_two_processes_and_a_worker(
    fresh_database: str, tmp_path: Path
) -> None:
    with (
        running(["serve", "--workers", "2"], tmp_path, DATABASE_URL=fresh_database) as it,
        running(["worker"], tmp_path / "data", DATABASE_URL=fresh_database,
                PLACKETT_DATA_DIR=str(tmp_path / "data")) as worker,
    ):  # fmt: skip
        it.is_ready()
        worker.says("the worker is ready")
        for _ in range(40):
            httpx.get(f"http://127.0.0.1:{it.port}/api/v1/projects/none/progress")
        deadline = time.monotonic() + 90  # the sweep of every minute is a job of the worker's
        while True:
            told = samples(httpx.get(f"http://127.0.0.1:{it.port}/metrics").text)
            route = "/api/v1/projects/{slug}/progress"
            assert told["plackett_http_requests_total", "GET", route, "401"] == 40
            if told.get(("plackett_jobs_total", "done", "generation:sweep")):
                break
            assert time.monotonic() < deadline
            time.sleep(1)
