"""A PostgreSQL for the time of a test run or a bench, gone with its user, however that one ends.

A watchdog in a session of its own reads from a pipe that only its user holds. The pipe ends when the user
does, by SIGKILL too; the watchdog then stops the server and deletes the cluster, which as root may lie
outside the folder. Where several processes share a folder's server, the last one's watchdog does it.
"""

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg
from sqlalchemy.engine import make_url

from app.db.binaries import ROOTS_HOME
from app.db.embedded import OWNER_FILE, EmbeddedServer
from app.db.engine import libpq_url
from app.settings import CHECKOUT

ALL_IS_WELL = "leaving"
# A user that was killed while it started the server leaves initdb or pg_ctl at work for a moment.
PASSES_AFTER_A_KILL = 3
PASS_SECONDS = 1.0


@contextmanager
def swept(folder: Path, *, owned: Path | None = None) -> Iterator[None]:
    """No server of this data directory outlives the context or the process.

    Nor one of any data directory below `owned`, which has to be this run's alone: tests start servers of
    their own there, and kill those who would have stopped them.
    """
    EmbeddedServer(folder).remove()  # of a run whose watchdog was killed as well
    watchdog = subprocess.Popen(
        [sys.executable, "-m", "simulation.cluster", folder, *([owned] if owned else [])],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        yield
    finally:
        watchdog.communicate(ALL_IS_WELL, timeout=60)


@contextmanager
def temporary_server(
    folder: Path, *, options: Mapping[str, str] | None = None, owned: Path | None = None
) -> Iterator[str]:
    """The URL of an embedded server in that folder; for `owned` see `swept`."""
    with swept(folder, owned=owned), EmbeddedServer(folder, options=options) as url:
        yield url


@contextmanager
def new_database(server: str, name: str, *, template: str = "template1") -> Iterator[str]:
    """A database for the time of the context."""
    with psycopg.connect(libpq_url(server), autocommit=True) as admin:
        admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    try:
        yield database_url(server, name)
    finally:
        with psycopg.connect(libpq_url(server), autocommit=True) as admin:
            admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def database_url(server: str, name: str) -> str:
    """The URL of another database of the same server."""
    return make_url(server).set(database=name).render_as_string(hide_password=False)


def watch(folder: Path, owned: Path | None) -> None:
    """Wait for the user's end; then leave nothing behind."""
    passes = 1 if sys.stdin.read() == ALL_IS_WELL else PASSES_AFTER_A_KILL
    last = False
    for each in range(passes):
        if each:
            time.sleep(PASS_SECONDS)
        last = EmbeddedServer(folder).remove()
    # Where another process still has the folder's server, that one's watchdog does the rest.
    if last and owned is not None:
        for data_dir in find_data_dirs(owned):
            remove_soon(data_dir)


def find_data_dirs(base: Path) -> set[Path]:
    """The data directories below a folder that have, or had, a cluster; as root it may lie elsewhere."""
    inside = {cluster.parent.parent for cluster in base.rglob("postgres/cluster")}
    owners = {Path(file.read_text()) for file in ROOTS_HOME.glob(f"*/{OWNER_FILE}")}
    return inside | {home.parent for home in owners if home.is_relative_to(base)}


def remove_soon(data_dir: Path) -> None:
    """Remove a data directory's cluster; whoever was killed may hold it for a moment."""
    for _ in range(PASSES_AFTER_A_KILL):
        if EmbeddedServer(data_dir).remove():
            return
        time.sleep(PASS_SECONDS)


if __name__ == "__main__":
    watch(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
