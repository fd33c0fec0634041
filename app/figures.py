"""Figures for Prometheus, of all processes that share a data folder: any of them tells the sum.

Each process counts in files of its own, mapped into its memory (prometheus_client's way for several
processes); whoever is asked adds them up. What a process that has ended had counted is kept, in one file
for all of those, so that no counter ever goes back while the folder is in use.
"""

import fcntl
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, generate_latest, values
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

from app.private import make_private

log = structlog.get_logger(__name__)

KINDS = ("counter", "histogram")
# Some four thousand figures; room that is not there would end the process when it writes, so it is taken
# from the disk at once.
FILE_BYTES = 1 << 20
ENDED = "ended"


class _Shared:
    """Where this process counts, if it shares; the locks say to others that it lives."""

    folder: Path | None = None
    locks: list[int] = []  # noqa: RUF012 - of the process, not of an object


def share(folder: Path) -> None:
    """Count for all from now on. On a disk that has no room this process counts for itself alone."""
    if _Shared.folder is not None:
        return
    make_private(folder)
    # Of several containers that share a folder each has a process 1.
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        with _alone(folder):
            _add_up_ended(folder)
            for kind in KINDS:
                _Shared.locks.append(_make(folder / f"{kind}_{name}.db", FILE_BYTES, hold=True))
    except OSError as error:
        log.warning("figures are this process's alone", error=str(error))
        return
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    values.ValueClass = values.MultiProcessValue(process_identifier=lambda: name)
    _Shared.folder = folder


def tell() -> bytes:
    """Everybody's figures, in Prometheus's text format."""
    folder = _Shared.folder
    if folder is None:
        return generate_latest()
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))
    with _alone(folder):
        return generate_latest(registry)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(path: Path, size: int, *, hold: bool) -> int:
    """A file with all its room on the disk, and with a lock that ends with this process."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if os.fstat(file).st_size == 0:
            os.posix_fallocate(file, 0, size)
        if hold:
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        os.close(file)
        path.unlink()
        raise
    return file


def _add_up_ended(folder: Path) -> None:
    """Move what ended processes had counted into one file of each kind."""
    for kind in KINDS:
        sum_path = folder / f"{kind}_{ENDED}.db"
        for path in sorted(folder.glob(f"{kind}_*.db")):
            if path == sum_path or _lives(path):
                continue
            os.close(_make(sum_path, FILE_BYTES, hold=False))
            total = MmapedDict(str(sum_path))
            for key, value, _, _ in MmapedDict.read_all_values_from_file(str(path)):
                total.write_value(key, total.read_value(key)[0] + value, 0.0)
            total.close()
            path.unlink()


def _lives(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
