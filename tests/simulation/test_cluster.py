"""However a test run ends, its PostgreSQL and the cluster's files are gone soon after."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from app.settings import CHECKOUT
from simulation.cluster import swept

SOON = 30  # seconds; the watchdog of a quiet machine needs two or three
WAITING = """
import os, time
from pathlib import Path

def test_one(server_url):
    Path(os.environ["TOLD"]).write_text(server_url)
    time.sleep(float(os.environ["WAITS"]))

def test_other(server_url):
    pass
"""

LEAVING = """
import os, subprocess, sys

LEAVES_ITS_SERVER = {script!r}

def test_leaves_a_server_of_its_own(server_url, tmp_path):
    subprocess.run(
        [sys.executable, "-c", LEAVES_ITS_SERVER, tmp_path / "data", os.environ["TOLD"]], check=True
    )
"""

LEAVES_ITS_SERVER = """
import os, sys
from pathlib import Path
from app.db.embedded import EmbeddedServer
Path(sys.argv[2]).write_text(EmbeddedServer(Path(sys.argv[1])).acquire())
os._exit(0)
"""


def start(
    folder: Path, *, waits: float = 0, workers: int, tests: str = WAITING
) -> "subprocess.Popen[bytes]":
    """A run of pytest with our fixtures, and its server in the folder."""
    (folder / "test_run.py").write_text(tests)
    of_ours = ("PYTEST_XDIST_WORKER", "PLACKETT_TEST_DATABASE_URL", "PYTEST_ADDOPTS")
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-n", str(workers)),
            *("--rootdir", folder, "--basetemp", folder / "base", folder),
        ],
        cwd=CHECKOUT,
        env={name: value for name, value in os.environ.items() if name not in of_ours}
        | {"TOLD": str(folder / "url"), "WAITS": str(waits)},
        stdout=subprocess.DEVNULL,
    )


def until(is_so: Callable[[], bool], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)


def cluster_of(folder: Path) -> Path:
    """Where the run's server keeps its files."""
    url = folder / "url"
    until(lambda: url.exists() and bool(url.read_text()), seconds=60)
    with psycopg.connect(url.read_text()) as connection:
        row = connection.execute("SHOW data_directory").fetchone()
    assert row
    return Path(row[0])


def servers_of(cluster: Path) -> list[str]:
    """The processes that were started for a cluster."""
    listed = subprocess.run(
        ["ps", "-A", "-ww", "-o", "args="], capture_output=True, text=True, check=True
    )
    return [command for command in listed.stdout.splitlines() if str(cluster) in command]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "workers"), [(signal.SIGTERM, 0), (signal.SIGTERM, 2), (signal.SIGKILL, 2)]
)
def test_a_run_that_is_ended_leaves_nothing(
    tmp_path: Path, end: signal.Signals, workers: int
) -> None:
    with swept(tmp_path / "base" / "server"):  # whatever this very test finds
        run = start(tmp_path, waits=120, workers=workers)
        cluster = cluster_of(tmp_path)
        assert servers_of(cluster)
        run.send_signal(end)
        assert run.wait(timeout=SOON) != 0
        until(lambda: not servers_of(cluster) and not cluster.exists(), seconds=SOON)


@pytest.mark.slow
def test_a_run_that_passes_leaves_nothing_and_the_next_takes_the_same_folder(
    tmp_path: Path,
) -> None:
    with swept(tmp_path / "base" / "server"):
        for workers in (2, 0):
            run = start(tmp_path, waits=0.5, workers=workers)
            cluster = cluster_of(tmp_path)
            assert run.wait(timeout=60) == 0
            assert not servers_of(cluster)
            assert not cluster.exists()
            (tmp_path / "url").unlink()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_servers_that_tests_start_and_leave_end_with_the_run(tmp_path: Path, workers: int) -> None:
    with swept(tmp_path / "base" / "server"):
        run = start(tmp_path, workers=workers, tests=LEAVING.format(script=LEAVES_ITS_SERVER))
        cluster = cluster_of(tmp_path)
        assert run.wait(timeout=60) == 0
        until(lambda: not servers_of(cluster) and not cluster.exists(), seconds=SOON)


@pytest.mark.slow
def test_what_a_run_without_a_watchdog_left_does_not_stop_the_next(tmp_path: Path) -> None:
    base = tmp_path / "base" / "server"
    with swept(base):
        code = [sys.executable, "-c", LEAVES_ITS_SERVER]
        subprocess.run([*code, base, tmp_path / "url"], cwd=CHECKOUT, check=True)
        cluster = cluster_of(tmp_path)
        (tmp_path / "url").unlink()
        assert start(tmp_path, waits=0, workers=0).wait(timeout=60) == 0
        assert not servers_of(cluster)
        assert not cluster.exists()
