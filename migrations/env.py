"""How Alembic reaches the database: through the connection it is handed by `app.db.migrate`."""

from alembic import context
from sqlalchemy import Connection, create_engine

from app.db.engine import sqlalchemy_url
from app.db.migrate import is_ours
from app.settings import get_settings
from app.tables import metadata


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        include_object=is_ours,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


handed = context.config.attributes.get("connection")
if handed is not None:
    run(handed)
else:  # the `alembic` command, used by developers to write new migrations
    url = get_settings().database_url
    if url is None:
        raise SystemExit("set DATABASE_URL to a database of yours, made for this")
    with create_engine(sqlalchemy_url(url)).connect() as own:
        run(own)
