"""A `plackett` command as a process, for tests and drills that start, watch, halt and stop it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from app.db.embedded import EmbeddedServer
from app.db.postmaster import Postmaster, find_postmaster
from app.settings import CHECKOUT
from simulation.served import free_port


class Running:
    """A `plackett` command at work."""

    def __init__(
        self, words: list[str], folder: Path, *, port: int = 0, **environment: str
    ) -> None:
        self.port = port or free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.log = folder / "log"
        folder.mkdir(parents=True, exist_ok=True)
        given = {name: text for name, text in os.environ.items() if name != "DATABASE_URL"}
        if words[0] in ("serve", "demo"):
            words = [*words, "--port", str(self.port)]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app", *words],
                cwd=CHECKOUT,
                env={**given, "PLACKETT_DATA_DIR": str(folder / "data"), **environment},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def says(self, words: str, *, seconds: float = 90) -> None:
        """Wait until its log has the words."""
        deadline = time.monotonic() + seconds
        while words not in self.log.read_text():
            self._go_on(deadline)
            time.sleep(0.05)

    def _go_on(self, deadline: float) -> None:
        if self.process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"exit code {self.process.poll()}: {self.log.read_text()[-3000:]}")

    def status(self, path: str = "/readyz") -> int | None:
        """What it answers; None where it does not."""
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=10).status_code
        except httpx.TransportError:
            return None

    def is_ready(self, *, seconds: float = 90) -> None:
        """Wait until it says so."""
        deadline = time.monotonic() + seconds
        while self.status() != 200:
            self._go_on(deadline)
            time.sleep(0.1)

    def stop(self, signum: int = signal.SIGTERM) -> float:
        """Tell it to end; how long it took."""
        began = time.monotonic()
        self.process.send_signal(signum)
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"it does not end: {self.log.read_text()[-3000:]}") from None
        return time.monotonic() - began


@contextmanager
def running(
    words: list[str], folder: Path, *, port: int = 0, **environment: str
) -> Iterator[Running]:
    """A command, gone at the end with everything that it started."""
    it = Running(words, folder, port=port, **environment)
    try:
        yield it
    finally:
        # Its session is its own group; a process of it may have outlived it.
        with suppress(ProcessLookupError):
            os.killpg(it.process.pid, signal.SIGKILL)
        it.process.wait()


def server_of(data_dir: Path) -> Postmaster | None:
    """The embedded server that lives for this folder."""
    return find_postmaster(EmbeddedServer(data_dir).place / "cluster")
