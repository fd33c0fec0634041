"""How often somebody may be wrong: counted by account and by client, and whom a client is taken for."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.service import MOST_FAILURES, note_failure, refuse_guessing
from app.db.engine import open_sessions
from app.errors import TooManyTries
from app.main import create_app
from app.settings import CHECKOUT, Settings
from simulation.served import serving
from tests.accounts.test_sign_in import TOKEN
from tests.factories.accounts import PASSWORD, create_user

PROXY = "172.18.0.9"


async def fail(
    session: AsyncSession, count: int, *, emails: str = "{}@x.org", sources: str
) -> None:
    for number in range(count):
        await note_failure(session, emails.format(number), sources.format(number))


async def is_refused(session: AsyncSession, email: str, source: str) -> bool:
    try:
        await refuse_guessing(session, email, source)
    except TooManyTries:
        return True
    return False


async def test_a_client_that_fails_for_many_accounts_is_stopped_and_nobody_else(
    session: AsyncSession,
) -> None:
    await fail(session, MOST_FAILURES["source"] - 1, sources="203.0.113.7")
    assert not await is_refused(session, "ada@example.org", "203.0.113.7")
    await fail(session, 1, sources="203.0.113.7")
    assert await is_refused(session, "ada@example.org", "203.0.113.7")
    assert not await is_refused(session, "ada@example.org", "203.0.113.8")
    assert not await is_refused(session, "0@x.org", "203.0.113.8")


async def test_an_account_that_many_clients_guess_at_is_closed_and_no_other(
    session: AsyncSession,
) -> None:
    await fail(session, MOST_FAILURES["address"], emails="ada@x.org", sources="203.0.113.{}")
    assert await is_refused(session, "ADA@x.org", "198.51.100.1")
    assert not await is_refused(session, "bob@x.org", "203.0.113.1")


async def test_who_has_one_ipv6_address_has_its_whole_network(session: AsyncSession) -> None:
    await fail(session, MOST_FAILURES["source"], sources="2001:db8:1:2::{}")
    assert await is_refused(session, "ada@x.org", "2001:db8:1:2:ffff::1")
    assert not await is_refused(session, "ada@x.org", "2001:db8:1:3::1")


@pytest.fixture
async def behind(app: FastAPI, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client whose requests come through a trusted proxy of another machine."""
    proxied = create_app(settings.model_copy(update={"trusted_proxies": (f"{PROXY}/24",)}))
    proxied.state.engine, proxied.state.sessions = app.state.engine, app.state.sessions
    transport = httpx.ASGITransport(proxied, client=(PROXY, 40_000))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def attempt(
    client: httpx.AsyncClient, email: str, password: str, **headers: str
) -> httpx.Response:
    form = await client.get("/sign-in")
    token = TOKEN.search(form.text)
    assert token
    data = {"email": email, "password": password, "csrf_token": token[1]}
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post("/sign-in", data=data, headers=sent)


async def test_behind_a_trusted_proxy_one_client_locks_out_nobody_but_itself(
    behind: httpx.AsyncClient, session: AsyncSession
) -> None:
    user = await create_user(session, password=PASSWORD)
    await fail(session, MOST_FAILURES["source"], sources="203.0.113.7")
    await session.commit()
    blocked = await attempt(behind, user.email, PASSWORD, x_forwarded_for="203.0.113.7")
    assert blocked.status_code == 429
    other = await attempt(behind, user.email, PASSWORD, x_forwarded_for="203.0.113.8")
    assert other.status_code == 303


@pytest.mark.parametrize(
    "forwarded",
    [
        "198.51.100.1, 203.0.113.7",  # what stands before is the client's own invention
        "203.0.113.7, 172.18.0.20",  # two proxies of ours
        "203.0.113.7:55001",
        "::ffff:203.0.113.7",
        "[::ffff:203.0.113.7]:55001",
        "nonsense, 203.0.113.7",
    ],
)
async def test_the_client_is_whom_the_last_trusted_proxy_heard_from(
    behind: httpx.AsyncClient, session: AsyncSession, forwarded: str
) -> None:
    await fail(session, MOST_FAILURES["source"], sources="203.0.113.7")
    await session.commit()
    answer = await attempt(behind, "ada@x.org", "x", x_forwarded_for=forwarded)
    assert answer.status_code == 429


@pytest.mark.slow
async def test_by_default_no_header_says_who_a_client_is(
    fresh_database: str, tmp_path: Path
) -> None:
    """In the process that is really started: its server has an opinion on these headers too."""
    async with open_sessions(fresh_database) as sessions, sessions() as session:
        await fail(session, MOST_FAILURES["source"], sources="127.0.0.1")
        await session.commit()
    log = tmp_path / "web.log"
    with serving(CHECKOUT, fresh_database, workers=1, log=log) as served:
        async with httpx.AsyncClient(base_url=served.address) as client:
            for number in range(3):
                source = f"203.0.113.{number}"
                answer = await attempt(client, "ada@x.org", "x", x_forwarded_for=source)
                assert answer.status_code == 429
    assert log.read_text().count("a proxy that is not trusted") == 1


@pytest.mark.slow
async def test_a_trusted_proxy_is_believed_by_the_process_that_is_started(
    fresh_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACKETT_TRUSTED_PROXIES", "127.0.0.1, 10.0.0.0/8")
    async with open_sessions(fresh_database) as sessions, sessions() as session:
        await fail(session, MOST_FAILURES["source"], sources="127.0.0.1")
        await session.commit()
    with serving(CHECKOUT, fresh_database, workers=1, log=tmp_path / "web.log") as served:
        async with httpx.AsyncClient(base_url=served.address) as client:
            answer = await attempt(client, "ada@x.org", "x", x_forwarded_for="203.0.113.7")
            assert answer.status_code == 401
            assert (await attempt(client, "ada@x.org", "x")).status_code == 429


def test_a_proxy_is_named_by_address_or_network(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().trusted_proxies == ()
    monkeypatch.setenv("PLACKETT_TRUSTED_PROXIES", "nginx")
    with pytest.raises(ValueError, match="neither an address nor a network"):
        Settings()
