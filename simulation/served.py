"""`plackett serve` as a process of its own, and whether it answers."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx


def free_port() -> int:
    """A port that nobody listens on, for the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_ready(address: str, log: Path) -> None:
    """Until the application answers. Raises AssertionError, with its log, after a minute."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{address}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError(f"the server did not start:\n{log.read_text()}")


@dataclass(frozen=True)
class Served:
    """The running application."""

    address: str
    process: subprocess.Popen[bytes]
    log: Path
    began: int  # where in the log this run's words begin

    def started(self) -> int:
        """How many processes have ever said that they are up."""
        with self.log.open("rb") as text:
            text.seek(self.began)
            return len(re.findall(rb"Application startup complete", text.read()))

    def workers(self) -> list[int]:
        """The processes that answer requests."""
        return [
            pid
            for pid in children(self.process.pid)
            if b"spawn_main" in read_bytes(f"/proc/{pid}/cmdline")
        ] or [self.process.pid]


@contextmanager
def serving(checkout: Path, url: str, *, workers: int, log: Path) -> Iterator[Served]:
    """`plackett serve` of a checkout, until the context ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"DATABASE_URL": url, "PLACKETT_DATA_DIR": str(log.parent)}
    with log.open("ab") as out:
        began = out.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "serve", "--port", str(port), "--workers", str(workers)],
            cwd=checkout,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    served = Served(f"http://127.0.0.1:{port}", process, log, began)
    try:
        wait_for(lambda: served.started() >= workers and answers(served.address), process)
        yield served
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_for(ready: Any, process: subprocess.Popen[bytes], *, seconds: float = 60) -> None:
    """Until it is so. Raises RuntimeError when the process ends, or time does, before."""
    deadline = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the application is not ready (exit code {process.poll()})")
        time.sleep(0.1)


def answers(address: str) -> bool:
    """Whether the application says that it is ready."""
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()  # it holds its answer, and with it the connection
        return False
    except (OSError, urllib.error.URLError):
        return False


def read_bytes(path: str) -> bytes:
    """A file of /proc; nothing where its process is gone."""
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def children(pid: int) -> list[int]:
    """The processes that a process started (Linux)."""
    found = b"".join(read_bytes(str(path)) for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return [int(child) for child in found.split()]
