"""Which database: the one that DATABASE_URL names, or the embedded one."""

from collections.abc import Iterator
from contextlib import contextmanager

from app.db.embedded import EmbeddedServer
from app.db.failures import has_room
from app.settings import Settings


@contextmanager
def resolve_database(settings: Settings) -> Iterator[str]:
    """The URL to use, valid while the context lasts; the embedded server is held as long."""
    if settings.database_url is not None:
        yield settings.database_url
        return
    with EmbeddedServer(settings.data_dir) as url:
        yield url


def embedded_disk_is_full(settings: Settings) -> bool:
    """Whether that is why the embedded server does not answer: it stops where it cannot write its log."""
    return settings.database_url is None and not has_room(EmbeddedServer(settings.data_dir).place)
