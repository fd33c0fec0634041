"""The pool: what the server has closed is replaced before anybody uses it, and prepared work is kept."""

from collections.abc import AsyncIterator

import httpx
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engine import create_engine, create_sessions, libpq_url
from app.main import create_app
from app.settings import Settings


@pytest.fixture
async def engine(fresh_database: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(fresh_database, pool_size=3)
    yield engine
    await engine.dispose()


def end_all_connections(url: str) -> int:
    """What a restart of the server does to us."""
    with psycopg.connect(libpq_url(url), autocommit=True) as admin:
        ended = admin.execute(
            "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchone()
    assert ended is not None
    return int(ended[0])


async def test_connections_that_the_server_closed_are_replaced_unseen(
    engine: AsyncEngine, fresh_database: str
) -> None:
    sessions = create_sessions(engine)
    async with sessions() as one, sessions() as two, sessions() as three:
        for session in (one, two, three):
            await session.execute(text("SELECT 1"))
    assert end_all_connections(fresh_database) == 3
    async with sessions() as one, sessions() as two, sessions() as three:
        for session in (one, two, three):
            assert await session.scalar(text("SELECT 2")) == 2


async def test_taking_a_connection_asks_the_server_nothing(
    engine: AsyncEngine, fresh_database: str
) -> None:
    async with create_sessions(engine)() as session:
        pid = await session.scalar(text("SELECT pg_backend_pid()"))
        await session.commit()
    async with engine.connect():
        with psycopg.connect(libpq_url(fresh_database)) as admin:
            last = "SELECT query FROM pg_stat_activity WHERE pid = %s"
            assert admin.execute(last, [pid]).fetchone() == ("COMMIT",)


async def test_reading_requests_leave_prepared_statements_in_place(
    engine: AsyncEngine, settings: Settings
) -> None:
    app = create_app(settings)
    app.state.sessions = create_sessions(engine)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        headers = {"Authorization": "Bearer nobody"}
        for _ in range(8):  # the driver prepares what it has sent five times
            await client.get("/sign-in", headers=headers)
    async with engine.connect() as connection:
        kept = text("SELECT statement FROM pg_prepared_statements")
        assert any("api_tokens" in each for each in await connection.scalars(kept))
