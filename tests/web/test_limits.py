"""Every request ends in time, and says what it failed on: a lock, a slow statement, a silence, a disk."""

import asyncio
import secrets
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts import service as accounts
from app.accounts.models import Role
from app.db.engine import create_engine, create_sessions, libpq_url, open_sessions
from app.db.failures import explain
from app.db.migrate import migrate
from app.main import create_app, lifespan
from app.settings import Settings
from simulation.cluster import temporary_server
from simulation.gate import gate_before


@asynccontextmanager
async def served(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application with an engine of its own, as in production."""
    app = create_app(settings)
    async with lifespan(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client


@asynccontextmanager
async def session_of(url: str) -> AsyncIterator[AsyncSession]:
    async with open_sessions(url) as sessions, sessions() as session:
        yield session


async def make_admin(url: str) -> dict[str, str]:
    """The headers of an admin."""
    async with session_of(url) as session:
        user = await accounts.create_user(session, "admin@example.org", Role.ADMIN)
        token = await accounts.create_api_token(session, user, name="test")
        await session.commit()
    return {"Authorization": f"Bearer {token}"}


async def test_nobody_waits_long_behind_a_locked_table(fresh_database: str, tmp_path: Path) -> None:
    headers = await make_admin(fresh_database)
    settings = Settings(database_url=fresh_database, data_dir=tmp_path, pool_size=5)
    async with served(settings) as client:
        with psycopg.connect(libpq_url(fresh_database)) as holder:
            holder.execute("LOCK TABLE projects IN ACCESS EXCLUSIVE MODE")
            began = time.monotonic()
            calls = [
                client.get("/api/v1/projects/none/progress", headers=headers) for _ in range(60)
            ]
            answers = await asyncio.gather(*calls)
            assert time.monotonic() - began < 20
        assert {answer.status_code for answer in answers} == {503}
        told = {answer.json()["place"] for answer in answers}
        assert "lock_timeout" in told and told <= {"lock_timeout", "pool_timeout"}
        assert {answer.json()["type"] for answer in answers} == {"urn:plackett:error:busy"}
        # The lock is gone, and so is every trace of it.
        answer = await client.get("/api/v1/projects/none/progress", headers=headers)
        assert answer.status_code == 404


async def test_a_statement_of_a_request_has_its_time_and_a_job_takes_its_own(
    fresh_database: str,
) -> None:
    engine = create_engine(fresh_database, statement_seconds=0.2)
    async with create_sessions(engine)() as session:
        with pytest.raises(DBAPIError) as caught:
            await session.execute(text("SELECT pg_sleep(20)"))
    reason = explain(caught.value)
    assert reason is not None
    assert (reason.code, reason.field) == ("busy", "statement_timeout")
    await engine.dispose()
    async with session_of(fresh_database) as session:
        for name in ("statement_timeout", "lock_timeout"):
            assert await session.scalar(text(f"SHOW {name}")) == "0"


async def test_what_the_url_asks_for_wins(fresh_database: str) -> None:
    asked = make_url(fresh_database).update_query_dict({"options": "-c lock_timeout=7000"})
    engine = create_engine(asked.render_as_string(hide_password=False), statement_seconds=4)
    async with create_sessions(engine)() as session:
        assert await session.scalar(text("SHOW lock_timeout")) == "7s"
        assert await session.scalar(text("SHOW statement_timeout")) == "4s"
    await engine.dispose()


async def test_a_database_that_falls_silent_keeps_nobody_waiting(
    fresh_database: str, tmp_path: Path
) -> None:
    parts = make_url(fresh_database)
    with gate_before(parts.host or "", parts.port or 0) as gate:
        url = parts.set(port=gate.port).render_as_string(hide_password=False)
        settings = Settings(database_url=url, data_dir=tmp_path, request_seconds=2)
        async with served(settings) as client:
            assert (await client.get("/readyz")).status_code == 200
            gate.fall_silent()
            began = time.monotonic()
            answer = await client.get(
                "/api/v1/projects/none", headers={"Authorization": "Bearer x"}
            )
            # Five seconds more: the driver tries to take its question back.
            assert time.monotonic() - began < 10
            assert answer.status_code == 503
            assert answer.headers["content-type"] == "application/problem+json"
            gate.let_through()
            assert (await client.get("/readyz")).status_code == 200


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 160 MB, where we may make one."""
    # PostgreSQL's account has to reach it, which it cannot through pytest's own folders.
    place = Path("/mnt") / f"plackett-{tmp_path.name}"
    place.mkdir(mode=0o755, parents=True)
    options = ["-t", "tmpfs", "-o", "size=160m,mode=755", "tmpfs", str(place)]
    mounted = subprocess.run(["mount", *options], check=False, capture_output=True).returncode == 0
    try:
        if not mounted:
            pytest.skip("only root can make a disk that is small enough to fill")
        yield place
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=True)
        place.rmdir()


def fill(disk: Path) -> Path:
    """Use up every byte."""
    rest = disk / "rest"
    with rest.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(1 << 20))
    with rest.open("ab", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"x")
    return rest


@pytest.mark.slow
async def test_a_full_disk_is_named_and_nothing_is_lost(small_disk: Path, tmp_path: Path) -> None:
    with temporary_server(small_disk) as url:
        migrate(url)
        headers = await make_admin(url)
        async with served(Settings(database_url=url, data_dir=tmp_path)) as client:
            made = {"slug": "p", "name": "P"}
            answer = await client.post("/api/v1/projects", json=made, headers=headers)
            assert answer.status_code == 201
            rest = fill(small_disk)
            rows = [
                {"prompt": secrets.token_hex(50_000)} for _ in range(200)
            ]  # it cannot be packed
            address = "/api/v1/projects/p/prompts"
            answer = await client.post(address, json=rows, headers=headers, timeout=60)
            assert answer.status_code == 503
            assert answer.json()["type"] == "urn:plackett:error:disk-full"
            assert "disk" in answer.json()["detail"]
            ready = await client.get("/readyz")
            assert ready.status_code == 503
            assert ready.json()["place"] == "disk"
            # What is read is there all the while.
            progress = await client.get("/api/v1/projects/p/progress", headers=headers)
            assert progress.status_code == 200
            rest.unlink()
            assert (await client.get("/readyz")).status_code == 200
            answer = await client.post(address, json=rows[:3], headers=headers)
            assert answer.json()["accepted"] == 3
