"""The embedded PostgreSQL: shared while somebody uses it, and never losing what was committed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from app.db.embedded import EmbeddedServer
from app.errors import Unavailable
from app.settings import CHECKOUT
from simulation.cluster import swept

HOLDER = """
import sys, time
from pathlib import Path
from app.db.embedded import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]))
print(server.acquire(), flush=True)
sys.stdin.readline()
server.release()
"""


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """A data directory whose server and cluster are gone afterwards."""
    with swept(tmp_path):
        yield tmp_path


def start_holder(data_dir: Path) -> tuple["subprocess.Popen[str]", str]:
    """Another process that holds the server; its URL as that process knows it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(data_dir)],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    return process, process.stdout.readline().strip()


def count(url: str) -> int:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (number int)")
        connection.execute("INSERT INTO kept VALUES (1)")
        row = connection.execute("SELECT count(*) FROM kept").fetchone()
    assert row
    return int(row[0])


def is_up(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def test_rows_are_there_after_a_stop_and_a_start(data_dir: Path) -> None:
    server = EmbeddedServer(data_dir)
    with server as url:
        assert count(url) == 1
    assert not is_up(url)
    with server as url:
        assert count(url) == 2


def test_the_last_to_leave_stops_the_server(data_dir: Path) -> None:
    process, url = start_holder(data_dir)
    with EmbeddedServer(data_dir) as same:
        assert same == url
    assert is_up(url)
    process.communicate("\n", timeout=30)
    assert not is_up(url)


def test_a_process_that_was_killed_holds_nothing(data_dir: Path) -> None:
    process, url = start_holder(data_dir)
    process.kill()
    process.communicate()
    assert is_up(url)  # nobody was left to stop it
    with EmbeddedServer(data_dir) as same:
        assert same == url
    assert not is_up(url)


def test_kill_of_everything_loses_nothing_committed(data_dir: Path) -> None:
    process, url = start_holder(data_dir)
    assert count(url) == 1
    with psycopg.connect(url) as connection:
        row = connection.execute("SHOW data_directory").fetchone()
    assert row
    postmaster = int((Path(row[0]) / "postmaster.pid").read_text().split()[0])
    process.kill()
    os.kill(postmaster, signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 10
    while is_up(url) and time.monotonic() < deadline:
        time.sleep(0.05)
    with EmbeddedServer(data_dir) as fresh:
        assert count(fresh) == 2


def test_a_lost_password_file_is_said_and_nothing_is_overwritten(data_dir: Path) -> None:
    server = EmbeddedServer(data_dir)
    with server as url:
        count(url)
    (data_dir / "postgres" / "connection.json").unlink()
    with pytest.raises(Unavailable, match="password file"):
        server.acquire()


def test_the_password_is_for_our_eyes_only(data_dir: Path) -> None:
    with EmbeddedServer(data_dir) as url:
        mode = (data_dir / "postgres" / "connection.json").stat().st_mode
        assert mode & 0o077 == 0
        without = url.replace(url.split(":")[2].split("@")[0], "wrong")
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(without, connect_timeout=5)


@pytest.mark.slow
def test_what_nobody_holds_can_be_removed(data_dir: Path) -> None:
    server = EmbeddedServer(data_dir)
    with server as url:
        assert not EmbeddedServer(data_dir).remove()
        assert is_up(url)
        with psycopg.connect(url) as connection:
            row = connection.execute("SHOW data_directory").fetchone()
        assert row
    assert Path(row[0]).exists()
    assert server.remove()
    assert not Path(row[0]).exists()
    with server as url:  # and begun anew, by the same data directory
        assert count(url) == 1
