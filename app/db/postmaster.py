"""The running server of a cluster, known by its own file: whether it lives, where it listens, its end."""

import os
import secrets
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

# Below those that systems hand out to whoever connects somewhere (Linux: from 32768 on): what is chosen
# from these is still free after years, so that the server keeps its address over restarts.
FIRST_PORT, LAST_PORT = 20_000, 32_000


@dataclass(frozen=True)
class Postmaster:
    """A living server, as its `postmaster.pid` tells."""

    pid: int
    port: int
    ready: bool


def find_postmaster(cluster: Path) -> Postmaster | None:
    """The cluster's living postmaster, if there is one. Costs two small reads."""
    lines = _pid_file(cluster)
    if not lines or not lines[0].isdigit() or not _is_of(int(lines[0]), cluster):
        return None
    # Line by line: pid, directory, start, port, socket directory, address, shared memory, status.
    port = int(lines[3]) if len(lines) > 3 and lines[3].isdigit() else 0
    return Postmaster(int(lines[0]), port, len(lines) > 7 and lines[7].strip() == "ready")


def remove_stale_pid_file(cluster: Path) -> None:
    """After a crash of the machine the old pid may belong to somebody else by now.

    Only then: the file of a dead postmaster keeps another from starting while its backends are at work.
    """
    lines = _pid_file(cluster)
    if (
        lines
        and lines[0].isdigit()
        and _exists(int(lines[0]))
        and not _is_of(int(lines[0]), cluster)
    ):
        (cluster / "postmaster.pid").unlink(missing_ok=True)


def kill(cluster: Path, *, seconds: float) -> None:
    """Make the server end as by a crash: nothing that was committed is lost, and no backend stays."""
    for signum in (signal.SIGQUIT, signal.SIGKILL):
        found = find_postmaster(cluster)
        if found is None:
            return
        try:
            os.kill(found.pid, signal.SIGCONT)  # one that was halted could not obey
            os.kill(found.pid, signum)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + seconds / 2
        while find_postmaster(cluster) is not None and time.monotonic() < deadline:
            time.sleep(0.05)


def is_free(port: int) -> bool:
    """Whether a server could listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as PostgreSQL does
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port for a server that has none yet, or has lost its own."""
    for _ in range(100):
        port = FIRST_PORT + secrets.randbelow(LAST_PORT - FIRST_PORT)
        if is_free(port):
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _pid_file(cluster: Path) -> list[str]:
    try:
        return (cluster / "postmaster.pid").read_text().split("\n")
    except FileNotFoundError:
        return []


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _is_of(pid: int, cluster: Path) -> bool:
    """Whether the process is a server of that cluster; one that has ended (a zombie) is not."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self").exists():
            return False
        told = subprocess.run(
            ["ps", "-o", "command=", "-p", str(pid)], capture_output=True, check=False
        )
        command = told.stdout
    return b"postgres" in command and str(cluster).encode() in command
