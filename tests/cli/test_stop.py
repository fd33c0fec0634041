"""SIGTERM, in whatever state: what has begun is answered, the end comes within 15 s, no server stays."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from sqlalchemy.engine import make_url

from app.db.engine import libpq_url
from app.settings import CHECKOUT
from simulation.cluster import swept
from simulation.command import Running, running, server_of
from simulation.gate import Gate, gate_before

LONGEST = 15.0
COMMANDS = {"one process": ["serve"], "two": ["serve", "--workers", "2"], "worker": ["worker"]}


@pytest.fixture
def gate(fresh_database: str) -> Iterator[Gate]:
    """The way to the database, which a test may block."""
    parts = make_url(fresh_database)
    with gate_before(parts.host or "127.0.0.1", parts.port or 5432) as gate:
        yield gate


def through(gate: Gate, url: str) -> str:
    return make_url(url).set(port=gate.port).render_as_string(hide_password=False)


def up(words: list[str], it: Running) -> None:
    """Wait until it works."""
    if words[0] == "serve":
        it.is_ready()
    it.says("the worker is ready")


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["none", "shut", "silent"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_stop_is_obeyed_whatever_the_database_does(
    command: str, fault: str, gate: Gate, fresh_database: str, tmp_path: Path
) -> None:
    words = COMMANDS[command]
    with running(words, tmp_path, DATABASE_URL=through(gate, fresh_database)) as it:
        up(words, it)
        if fault == "shut":
            gate.shut()
        elif fault == "silent":
            gate.fall_silent()
        # Long enough that everything in it has noticed, or waits for what does not come.
        waiting = threading.Thread(target=it.status)
        if fault != "none":
            if words[0] == "serve":
                waiting.start()
            time.sleep(6)
        assert it.stop() < LONGEST
        # A question that is never answered cannot be taken back in order: the clock ends it.
        assert it.process.returncode in ((0, 143) if fault == "silent" else (0,))
        if waiting.ident:
            waiting.join()


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_stop_is_obeyed_where_the_database_never_answered(
    command: str, gate: Gate, fresh_database: str, tmp_path: Path
) -> None:
    gate.fall_silent()
    words = COMMANDS[command]
    with running(words, tmp_path, DATABASE_URL=through(gate, fresh_database)) as it:
        if words[0] == "serve":
            it.says("Application startup complete")
        time.sleep(6)
        assert it.process.poll() is None
        assert it.stop() < LONGEST
        if words[0] == "serve":
            assert it.process.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_was_begun_is_answered_before_the_end(
    workers: str, fresh_database: str, tmp_path: Path
) -> None:
    with running(["serve", "--workers", workers], tmp_path, DATABASE_URL=fresh_database) as it:
        it.is_ready()
        answered: list[Any] = []

        def ask() -> None:
            address = f"http://127.0.0.1:{it.port}/readyz"
            answered.append(httpx.get(address, timeout=30).status_code)

        with psycopg.connect(libpq_url(fresh_database)) as holder:
            holder.execute("LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE")
            asking = threading.Thread(target=ask)
            asking.start()
            time.sleep(1)
            it.process.send_signal(signal.SIGTERM)
            time.sleep(1)
            assert answered == []
        asking.join()
        assert answered == [200]
        assert it.process.wait(LONGEST) == 0


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A fresh folder with a data directory whose server is gone at the end."""
    with swept(tmp_path / "data"):
        yield tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "halted"),
    [("one process", False), ("one process", True), ("two", False), ("worker", False)],
)
def test_no_embedded_server_stays_behind(command: str, halted: bool, home: Path) -> None:
    words = COMMANDS[command]
    with running(words, home) as it:
        up(words, it)
        server = server_of(home / "data")
        assert server is not None
        if halted:  # as a debugger or a full machine may do: it lives, and does nothing
            os.kill(server.pid, signal.SIGSTOP)
        assert it.stop() < LONGEST
        assert it.process.returncode == 0
        assert server_of(home / "data") is None


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.7, 2.0, 4.0])
def test_a_stop_while_everything_starts(seconds: float, home: Path) -> None:
    with running(["serve"], home) as it:
        time.sleep(seconds)
        assert it.stop() < LONGEST
        time.sleep(0.5)
        assert server_of(home / "data") is None


DEMO = ["demo", "--no-browser", "--model", "somewhere/small"]


@pytest.mark.slow
def test_the_demo_ends_with_all_its_parts(home: Path) -> None:
    with running(DEMO, home) as it:
        it.is_ready()
        assert server_of(home / "data") is not None
        assert it.stop() < LONGEST
        assert it.process.returncode == 0
        assert it.status() is None
        assert server_of(home / "data") is None


@pytest.mark.slow
def test_two_demos_start_at_once_on_a_fresh_folder(home: Path) -> None:
    (home / "second").mkdir()
    data = str(home / "data")
    with (
        running(DEMO, home) as first,
        running(DEMO, home / "second", PLACKETT_DATA_DIR=data) as second,
    ):
        first.is_ready()
        second.is_ready()
        first.says("Sign in as")
        second.says("Sign in as")
        # A third at an address that is taken is told so in one line.
        words = [*DEMO, "--port", str(first.port)]
        third = subprocess.run(
            [sys.executable, "-m", "app", *words],
            cwd=CHECKOUT,
            env={**os.environ, "PLACKETT_DATA_DIR": data},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert third.returncode == 1
        assert third.stderr.count("\n") == 1
        assert f"http://127.0.0.1:{first.port}" in third.stderr
        assert first.stop() < LONGEST
        assert second.status() == 200
        assert second.stop() < LONGEST
    assert server_of(home / "data") is None


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "moved"), [("1", False), ("2", True)])
def test_an_embedded_server_that_was_killed_is_back_by_itself(
    workers: str, moved: bool, home: Path
) -> None:
    with running(["serve", "--workers", workers], home) as it:
        it.is_ready()
        before = server_of(home / "data")
        assert before is not None
        with ExitStack() as stack:
            os.kill(before.pid, signal.SIGKILL)
            if moved:
                stack.enter_context(taken(before.port))
            it.is_ready(seconds=30)
            after = server_of(home / "data")
            assert after is not None and after.pid != before.pid
            assert (after.port == before.port) == (not moved)
            # Every process has found it, and whoever comes now does.
            assert [it.status() for _ in range(10)] == [200] * 10
            done = subprocess.run(
                [sys.executable, "-m", "app", "migrate"],
                cwd=CHECKOUT,
                env={**os.environ, "PLACKETT_DATA_DIR": str(home / "data")},
                check=False,
            )
            assert done.returncode == 0
            assert server_of(home / "data") == after


@contextmanager
def taken(port: int) -> Iterator[None]:
    """The port in the hands of another program, as soon as it is free."""
    deadline = time.monotonic() + 10
    while True:
        with suppress(OSError):
            server = socket.create_server(("127.0.0.1", port))
            break
        assert time.monotonic() < deadline
    with server:
        yield


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "fault"), [("one process", "silent"), ("two", "shut"), ("worker", "shut")]
)
def test_a_database_that_comes_back_is_used_again(
    command: str, fault: str, gate: Gate, fresh_database: str, tmp_path: Path
) -> None:
    words = COMMANDS[command]
    with running(words, tmp_path, DATABASE_URL=through(gate, fresh_database)) as it:
        up(words, it)
        gate.shut() if fault == "shut" else gate.fall_silent()
        time.sleep(8)
        if words[0] == "serve":
            assert it.status() in (503, None)
        gate.let_through()
        if words[0] == "serve":
            it.is_ready(seconds=20)
        with psycopg.connect(libpq_url(fresh_database), autocommit=True) as direct:
            now = direct.execute("SELECT now()").fetchone()
            alive = "SELECT count(*) FROM procrastinate_workers WHERE last_heartbeat > %s"
            deadline = time.monotonic() + 90
            while direct.execute(alive, now).fetchone() == (0,):
                assert it.process.poll() is None and time.monotonic() < deadline
                time.sleep(0.2)
        assert it.stop() < LONGEST
