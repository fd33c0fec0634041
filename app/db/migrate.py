"""Bring the database to the newest schema, and know whether it is there."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.discretion import be_discreet
from app.db.engine import sqlalchemy_url
from app.settings import CHECKOUT

# Whatever number, as long as every process of ours agrees on it: two migrations never run at once.
MIGRATION_LOCK = 7_083_264_912


def alembic_config(connection: Connection | None = None) -> Config:
    """Alembic's configuration, bound to a connection where one is given."""
    config = Config()
    config.set_main_option("script_location", str(CHECKOUT / "migrations"))
    config.attributes["connection"] = connection
    return config


def migrate(url: str, revision: str = "head") -> None:
    """Upgrade the database to `revision`. Several processes may call this at once."""
    engine = create_engine(sqlalchemy_url(url), poolclass=NullPool, hide_parameters=True)
    be_discreet(engine)
    try:
        with engine.connect() as lock, engine.connect() as connection:
            lock.execute(text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
            command.upgrade(alembic_config(connection), revision)
            connection.commit()
    finally:
        engine.dispose()


def newest_revision() -> str:
    """The revision that this code needs."""
    head = ScriptDirectory(str(Path(CHECKOUT) / "migrations")).get_current_head()
    assert head is not None
    return head


async def current_revision(connection: AsyncConnection) -> str | None:
    """The revision that the database is at; None where nothing was ever migrated."""
    return await connection.run_sync(
        lambda plain: MigrationContext.configure(plain).get_current_revision()
    )


def is_ours(_: object, name: str | None, kind: str, *__: object) -> bool:
    """Whether Alembic compares it with our models: not the job queue's own tables."""
    return not (kind in ("table", "index") and "procrastinate" in (name or ""))
