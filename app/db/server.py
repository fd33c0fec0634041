"""Which database: the one that DATABASE_URL names, or the embedded one."""

from collections.abc import Iterator
from contextlib import contextmanager

from app.db.embedded import EmbeddedServer
from app.settings import Settings


@contextmanager
def resolve_database(settings: Settings) -> Iterator[str]:
    """The URL to use, valid while the context lasts; the embedded server is held as long."""
    if settings.database_url is not None:
        yield settings.database_url
        return
    with EmbeddedServer(settings.data_dir) as url:
        yield url
