"""What an error of the database means for whoever asked: who is to blame, and whether to try again."""

import shutil
from pathlib import Path

import psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.errors import Busy, DiskFull, Unavailable

# PostgreSQL stops altogether where it cannot make the next file of its log.
LOG_SEGMENT_BYTES = 16 * 1024 * 1024

# By the class or the whole of the server's state (PostgreSQL's Appendix A).
DISK_FULL = "53100"
LOCK_TAKEN = "55P03"
CANCELLED = "57014"
COLLISIONS = {"40P01", "40001"}  # deadlock, serialisation
TOO_MANY_CONNECTIONS = "53300"
GONE = ("57P", "08")  # it ends or has ended


def explain(error: Exception) -> Unavailable | None:
    """The error as one of ours, where it is not the fault of what was asked; else None."""
    if isinstance(error, PoolTimeout):
        return Busy(
            "Every connection to the database is in use. Nothing of this request was stored; try again.",
            field="pool_timeout",
        )
    original = error.orig if isinstance(error, DBAPIError) else error
    state = getattr(original, "sqlstate", None) or ""
    if state == DISK_FULL or "No space left on device" in str(original):
        return full_database_disk()
    if state == LOCK_TAKEN:
        return Busy(
            "Something else has locked what this request needs. Nothing of it was stored; try again.",
            field="lock_timeout",
        )
    if state == CANCELLED:
        return Busy(
            "The database needed too long for this request. Nothing of it was stored.",
            field="statement_timeout",
        )
    if state in COLLISIONS:
        return Busy(
            "This request met another one half-way. Nothing of it was stored; try again.",
            field="deadlock_timeout",
        )
    if state == TOO_MANY_CONNECTIONS:
        return Busy(
            "The database takes no more connections. Nothing of this request was stored; try again.",
            field="max_connections",
        )
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    down = isinstance(original, psycopg.OperationalError | psycopg.InterfaceError)
    if lost or down or state.startswith(GONE):
        return Unavailable(
            "The database does not answer. Nothing of this request was stored; try again.",
            field="database",
        )
    return None


def full_database_disk() -> DiskFull:
    """The database's disk takes nothing more."""
    return DiskFull(
        "The disk of the database is full. Nothing of this request was stored, and nothing that was "
        "stored is lost; whoever runs this server has to make room.",
        field="disk",
    )


def full_own_disk() -> DiskFull:
    """A disk of this process takes nothing more: of the data folder, or of temporary files."""
    return DiskFull(
        "A disk of the web application is full. Nothing of this request was stored; whoever runs this "
        "server has to make room.",
        field="disk",
    )


def has_room(folder: Path) -> bool:
    """Whether the folder's disk takes another file of PostgreSQL's log."""
    try:
        return shutil.disk_usage(folder).free >= LOG_SEGMENT_BYTES
    except OSError:
        return True
