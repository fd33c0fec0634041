"""One real PostgreSQL for the whole run, one migrated database a worker process, and for each test a
transaction that is rolled back. Tests that need several connections take `fresh_database` instead.
"""

import os
import signal

# Before torch. Two workers, each with models too small to share out: one computing thread a process.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.ext.asyncio import async_sessionmaker as session_maker

from app.db.engine import sqlalchemy_url
from app.db.migrate import migrate
from app.main import create_app
from app.settings import CHECKOUT, Settings
from simulation.cluster import new_database, temporary_server

# Where the tests' own model servers listen; the processes that tests start have it too.
os.environ["PLACKETT_POLICY_PRIVATE_HOSTS"] = "127.0.0.0/8"
# A test's data may go with the machine: no need to wait for the disk.
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """What an unmarked test may compute: see `pytest_runtest_call`."""
    parser.addini(
        "unmarked_cpu_seconds", "CPU seconds of a test that is not marked slow", default="3"
    )


def pytest_configure() -> None:
    """SIGTERM ends a run as Ctrl-C does: what fixtures have started is stopped."""
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("ended by SIGTERM", returncode=143))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, where several workers share the tests: they then end at about the same time."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(
            key=lambda item: ("e2e" not in item.path.parts, not item.get_closest_marker("slow"))
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """A test that computes for long, itself or in processes that it waited for, is marked slow.

    CPU time, so that a busy machine fails nobody; fixtures have theirs outside this.
    """
    before = sum(os.times()[:4])
    yield
    took = sum(os.times()[:4]) - before
    allowed = float(item.config.getini("unmarked_cpu_seconds"))
    marked = any(item.get_closest_marker(name) for name in ("slow", "browser"))
    if took > allowed and not marked:
        pytest.fail(f"{took:.1f} s of CPU, more than {allowed:g}: mark it slow", pytrace=False)


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server that all worker processes share: `DATABASE_URL`, or an embedded one."""
    given = os.environ.get("PLACKETT_TEST_DATABASE_URL")
    if given:
        yield given
        return
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with temporary_server(shared / "server", options=FAST, owned=shared) as url:
        yield url


@pytest.fixture(scope="session")
def template_name(server_url: str) -> Iterator[str]:
    """A migrated database that nobody connects to, from which others are copied in an instant."""
    name = f"template_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}_{os.getpid()}"
    with new_database(server_url, name) as url:
        migrate(url)
        yield name


@pytest.fixture(scope="session")
def migrated_url(server_url: str, template_name: str) -> Iterator[str]:
    """This worker's own database, for tests that roll back."""
    with new_database(server_url, f"rolled_{template_name}", template=template_name) as url:
        yield url


@pytest.fixture
def fresh_database(server_url: str, template_name: str) -> Iterator[str]:
    """A migrated, empty database of the test's own, for tests that commit from several places."""
    with new_database(server_url, f"fresh_{template_name}", template=template_name) as url:
        yield url


@pytest.fixture
def settings(tmp_path: Path, migrated_url: str) -> Settings:
    """Settings of a test: its own data directory."""
    return Settings(database_url=migrated_url, data_dir=tmp_path / "data")


@pytest.fixture
async def connection(migrated_url: str) -> AsyncIterator[AsyncConnection]:
    """The connection whose transaction a test works in; rolled back at its end."""
    engine = create_async_engine(sqlalchemy_url(migrated_url), poolclass=NullPool)
    async with engine.connect() as connection:
        transaction = await connection.begin()
        yield connection
        await transaction.rollback()
    await engine.dispose()


@pytest.fixture
async def session(connection: AsyncConnection) -> AsyncIterator[AsyncSession]:
    """A session in the test's transaction: what it commits is a savepoint's."""
    async with AsyncSession(
        connection, join_transaction_mode="create_savepoint", expire_on_commit=False
    ) as session:
        yield session


@pytest.fixture
async def app(connection: AsyncConnection, settings: Settings) -> FastAPI:
    """The same application as in production, on the test's connection."""
    app = create_app(settings)
    app.state.engine = connection.engine
    app.state.sessions = session_maker(
        connection, join_transaction_mode="create_savepoint", expire_on_commit=False
    )
    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client that speaks to the application in this process, as nobody yet."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real human preferences, where this machine has it beside the checkout."""
    return Path(os.environ.get("PLACKETT_REAL_DATA", CHECKOUT.parent / "shared" / "data"))
