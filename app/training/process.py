"""The trainer's process: started by one worker, and found again by another when that one has died.

Who holds the lock on a run directory's `trainer.lock` is at work on it. The worker takes the lock and lets
the trainer inherit it: the kernel drops it when the trainer ends, however it ends, and keeps it when the
worker dies alone. So there are never two trainers on one directory, and whether one still writes needs no
guess about process ids.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Protocol

from app.logs import get_request_id
from app.settings import CHECKOUT

LOCK_FILE = "trainer.lock"
LOOK_SECONDS = 0.5
# What a process that was adopted ended with, nobody is told: it is not our child. Its files tell the rest.
UNKNOWN_EXIT = -1


class Process(Protocol):
    """What a follower needs of a process."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    async def wait(self) -> int: ...

    def send_signal(self, signal: int) -> None: ...

    def kill(self) -> None: ...


class AdoptedProcess:
    """A trainer that another worker started, still at work on its run directory."""

    def __init__(self, folder: Path, pid: int) -> None:
        self.folder = folder
        self.pid = pid
        self.returncode: int | None = None

    async def wait(self) -> int:
        """Its exit code: 0 where it left its result, which is the last that a run writes."""
        while self.returncode is None:
            with (self.folder / LOCK_FILE).open("r") as lock:
                if take(lock):
                    done = (self.folder / "result.json").exists()
                    self.returncode = 0 if done else UNKNOWN_EXIT
                    break
            await asyncio.sleep(LOOK_SECONDS)
        return self.returncode

    def send_signal(self, signal: int) -> None:
        """Send a signal to it."""
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(self.pid, signal)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


def take(lock: IO[str]) -> bool:
    """Take the lock if it is free."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def adopt(folder: Path) -> AdoptedProcess | None:
    """The trainer that is at work on this directory, if there is one."""
    file = folder / LOCK_FILE
    if not file.exists():
        return None
    with file.open("r") as lock:
        if take(lock):
            return None
        said = lock.read().strip()
    # Between the lock and the line that tells its id, the worker that starts it has not died.
    return AdoptedProcess(folder, int(said)) if said.isdigit() else None


async def start(command: Sequence[str], folder: Path) -> asyncio.subprocess.Process:
    """Start the trainer on its directory. Raises BlockingIOError where one is at work already."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"}
    # The trainer's own lines carry the id of the request that wanted the run.
    environment["PLACKETT_REQUEST_ID"] = get_request_id() or ""
    with (folder / LOCK_FILE).open("a") as lock, (folder / "trainer.log").open("ab") as output:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=CHECKOUT,
            env=environment,
            start_new_session=True,
            pass_fds=[lock.fileno()],
        )
        lock.truncate(0)
        lock.write(f"{process.pid}\n")
    return process
