"""The processes of `plackett serve`: each listens for itself, and never where another program does."""

import os
import pickle
import socket
import subprocess
import sys

import pytest

from app.serve import bind
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
