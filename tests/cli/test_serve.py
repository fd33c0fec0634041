"""The processes of `plackett serve`: each listens for itself, and never where another program does."""

import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
import uvicorn
from uvicorn.supervisors import multiprocess

from app.serve import Supervisor, bind
from app.settings import CHECKOUT


def test_a_process_that_is_started_with_the_socket_gets_its_own_of_the_same_address() -> None:
    with bind(("127.0.0.1", 0)) as own, pickle.loads(pickle.dumps(own)) as other:
        assert other.getsockname() == own.getsockname()
        assert other.fileno() != own.fileno()
        other.listen()
        # The first one only keeps the address: who does not listen is dealt no connections.
        for _ in range(20):
            with socket.create_connection(own.getsockname(), timeout=5):
                other.accept()[0].close()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_port_that_another_program_has_is_refused_in_one_line(
    migrated_url: str, workers: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "app", "serve", "--port", port, "--workers", str(workers)],
            cwd=CHECKOUT,
            env=os.environ | {"DATABASE_URL": migrated_url},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith(f"plackett: --port: cannot listen on 127.0.0.1, port {port}")
    assert done.stderr.count("\n") == 1


@pytest.fixture
def untouched_signals() -> Iterator[None]:
    """The handlers as they were, whatever a supervisor sets."""
    before = {each: signal.getsignal(each) for each in multiprocess.SIGNALS}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.mark.parametrize("nohup", [False, True])
def test_a_closed_terminal_ends_serve_unless_it_was_started_to_stay(
    nohup: bool, untouched_signals: None
) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
    supervisor = Supervisor(uvicorn.Config("none:none", workers=2), [])
    assert (signal.getsignal(signal.SIGHUP) is signal.SIG_IGN) == nohup
    signal.raise_signal(signal.SIGHUP)
    assert supervisor.signal_queue == ([] if nohup else [signal.SIGHUP])
