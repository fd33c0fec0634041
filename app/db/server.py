"""Which database: the one that DATABASE_URL names, or the embedded one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.db.embedded import EmbeddedServer
from app.db.failures import has_room
from app.private import PRIVATE, make_private
from app.settings import Settings

WALKED_THROUGH = 0o711


@contextmanager
def resolve_database(settings: Settings) -> Iterator[str]:
    """The URL to use, valid while the context lasts; the embedded server is held as long."""
    close_data_dir(settings.data_dir)
    if settings.database_url is not None:
        yield settings.database_url
        return
    with EmbeddedServer(settings.data_dir) as url:
        yield url


def close_data_dir(data_dir: Path) -> None:
    """Let nobody else look into the data folder: exports, models and logs are in it.

    Where root's folder holds a cluster from before, PostgreSQL's own account must still walk through.
    """
    ours_alone = os.geteuid() != 0 or not (data_dir / "postgres" / "cluster").exists()
    make_private(data_dir, PRIVATE if ours_alone else WALKED_THROUGH)


def embedded_disk_is_full(settings: Settings) -> bool:
    """Whether that is why the embedded server does not answer: it stops where it cannot write its log."""
    if settings.database_url is not None:
        return False
    server = EmbeddedServer(settings.data_dir)
    return server.home.exists() and not has_room(server.place)
