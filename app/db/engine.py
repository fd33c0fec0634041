"""Engines and sessions: async everywhere, psycopg 3 underneath."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from sqlalchemy import URL, make_url
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

SessionMaker = async_sessionmaker[AsyncSession]


def sqlalchemy_url(url: str) -> URL:
    """The URL that SQLAlchemy takes, with the psycopg 3 driver, for a plain `postgresql://` one."""
    return make_url(url).set(drivername="postgresql+psycopg")


def libpq_url(url: str) -> str:
    """The URL that psycopg and libpq take."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def create_engine(url: str, *, pool_size: int = 10) -> AsyncEngine:
    """An engine whose connections are checked before use, so a restarted server is survived."""
    return create_async_engine(
        sqlalchemy_url(url),
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=True,
        pool_timeout=10,
        connect_args={"connect_timeout": 5, "application_name": "plackett"},
    )


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
