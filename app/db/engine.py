"""Engines and sessions: async everywhere, psycopg 3 underneath."""

import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import URL, event, make_url
from sqlalchemy.engine import AdaptedConnection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from starlette.requests import Request

from app.db.discretion import be_discreet
from app.db.embedded import where_now

SessionMaker = async_sessionmaker[AsyncSession]

# How a server that went without a word (power, network) is noticed within about a minute.
KEEPALIVE = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}

# How long a request waits for a connection of its process, and for what another one has locked.
POOL_SECONDS = 5.0
LOCK_SECONDS = 3.0


def sqlalchemy_url(url: str) -> URL:
    """The URL that SQLAlchemy takes, with the psycopg 3 driver, for a plain `postgresql://` one."""
    return make_url(url).set(drivername="postgresql+psycopg")


def libpq_url(url: str) -> str:
    """The URL that psycopg and libpq take, with the embedded server's port as it is now."""
    parts = make_url(url).set(drivername="postgresql")
    parts = parts.set(port=where_now(parts.host, parts.port))
    return parts.render_as_string(hide_password=False)


def create_engine(
    url: str, *, pool_size: int = 10, statement_seconds: float | None = None
) -> AsyncEngine:
    """An engine whose connections are checked before use, so a restarted server is survived.

    With `statement_seconds`, for requests: no statement takes longer, and none waits long for a lock.
    Without, for jobs and commands, which may take hours.
    """
    limits = {}
    if statement_seconds is not None:
        # What the URL itself asks for comes later, and wins.
        asked = make_url(url).query.get("options", "")
        limits["options"] = (
            f"-c statement_timeout={int(statement_seconds * 1000)} "
            f"-c lock_timeout={int(LOCK_SECONDS * 1000)} {asked}"
        )
    engine = create_async_engine(
        sqlalchemy_url(url),
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=POOL_SECONDS,
        hide_parameters=True,
        connect_args={"connect_timeout": 5, "application_name": "plackett", **KEEPALIVE, **limits},
    )
    event.listen(engine.sync_engine, "do_connect", _find_server)
    event.listen(engine.sync_engine, "checkout", _replace_if_closed)
    be_discreet(engine.sync_engine)
    return engine


def _find_server(_: object, __: object, ___: object, parameters: dict[str, object]) -> None:
    """Follow the embedded server to another port, where it had to take one."""
    host, port = parameters.get("host"), parameters.get("port")
    if isinstance(host, str) and isinstance(port, int):
        parameters["port"] = where_now(host, port)


def _replace_if_closed(connection: AdaptedConnection, *_: object) -> None:
    """Let the pool open another connection where the server has closed this one.

    A server that ends a connection says so on its socket, where an idle one has nothing to read; to look
    there takes microseconds, a question to the server (pool_pre_ping) a round trip for every request.
    """
    plain = connection.driver_connection
    if not plain.closed:
        news = select.poll()
        news.register(plain.fileno(), select.POLLIN)
        if not news.poll(0):
            return
    raise DisconnectionError("the server has closed the connection")


def create_sessions(engine: AsyncEngine) -> SessionMaker:
    """A maker of sessions whose objects stay readable after the commit."""
    return async_sessionmaker(engine, expire_on_commit=False)


@asynccontextmanager
async def open_sessions(url: str, *, pool_size: int = 5) -> AsyncIterator[SessionMaker]:
    """Sessions for a command or a job, with an engine that is closed at the end."""
    engine = create_engine(url, pool_size=pool_size)
    try:
        yield create_sessions(engine)
    finally:
        await engine.dispose()


async def get_session(request: Request) -> AsyncIterator[AsyncSession]:
    """A request's session. The route commits; what was not committed is rolled back."""
    sessions: SessionMaker = request.app.state.sessions
    async with sessions() as session:
        yield session
        if request.method in ("GET", "HEAD"):
            # It has nothing to keep or to lose, and with a rollback the driver would drop all
            # statements that it has prepared on the connection: the next requests would pay for it.
            await session.commit()
