"""One's own account: what a new password ends, what a token may do and until when, what is no password."""

import re
import subprocess
import sys
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts import service
from app.accounts.guards import SESSION_COOKIE
from app.accounts.models import ApiToken, Role, Scope, SignInSession, User
from app.accounts.secrets import check_password
from app.db.types import utc_now
from app.errors import InvalidInput
from app.settings import CHECKOUT
from tests.factories.accounts import PASSWORD, bearer, create_user, sign_in

NEW = "seven quiet lamps by a river"


@pytest.mark.parametrize(
    "password",
    [
        *("short", "aaaaaaaaaaaa", "abcabcabcabc", "password123", "qwertyuiop", "1234567890"),
        *("iloveyou2024", "Passwort1234", "ada@example.org", "ADA@example.org!", "example.org1"),
        *("Lovelace1815", "adalovelace", "x" * 1001),
    ],
)
def test_what_is_tried_first_is_no_password(password: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_password(password, ("ada@example.org", "Ada Lovelace"))
    assert caught.value.field == "password"


@pytest.mark.parametrize(
    "password", [PASSWORD, NEW, "k7#Vq2!zR9pw", "ein Pferd trägt Hüte 日本", "ab" + NEW * 30]
)
def test_a_good_password_is_taken_however_long_it_is(password: str) -> None:
    check_password(password, ("ada@example.org", "Ada Lovelace"))


async def ways_in(session: AsyncSession, user: User) -> dict[str, str]:
    """Another browser, a program and a link of this person's."""
    ways = {
        "sessions": await service.create_session(session, user, days=1),
        "tokens": await service.create_api_token(session, user),
        "links": await service.create_sign_in_link(
            session, user, lifetime=timedelta(days=1), reusable=True
        ),
    }
    await session.commit()
    return ways


async def working(client: httpx.AsyncClient, ways: dict[str, str]) -> set[str]:
    """Those of the ways that still lead in."""
    own = list(client.cookies.jar)
    client.cookies.clear()
    found = set()
    bearer = {"Authorization": f"Bearer {ways['tokens']}"}
    if (await client.get("/api/v1/projects", headers=bearer)).status_code == 200:
        found.add("tokens")
    answer = await client.get(
        "/account", headers={"Cookie": f"{SESSION_COOKIE}={ways['sessions']}"}
    )
    if answer.status_code == 200:
        found.add("sessions")
    if (await client.get(f"/sign-in/{ways['links']}")).status_code == 303:
        found.add("links")
    client.cookies.clear()
    for cookie in own:
        client.cookies.jar.set_cookie(cookie)
    return found


@pytest.mark.parametrize(
    "keep", [[], ["sessions"], ["tokens"], ["links"], ["sessions", "tokens", "links"]]
)
async def test_a_new_password_ends_every_other_way_in_but_those_that_are_kept(
    client: httpx.AsyncClient, session: AsyncSession, keep: list[str]
) -> None:
    user = await create_user(session, Role.ADMIN, password=PASSWORD)
    ways = await ways_in(session, user)
    csrf = await sign_in(client, session, user)
    assert await working(client, ways) == {"sessions", "tokens", "links"}
    given = {"csrf_token": csrf, "current": PASSWORD, "password": NEW, "keep": keep}
    assert (await client.post("/account/password", data=given)).status_code == 303
    assert (await client.get("/account")).status_code == 200  # this browser stays
    assert await working(client, ways) == set(keep)


async def test_the_same_password_again_is_not_a_new_one(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    user = await create_user(session, password=PASSWORD)
    ways = await ways_in(session, user)
    csrf = await sign_in(client, session, user)
    given = {"csrf_token": csrf, "current": PASSWORD, "password": PASSWORD}
    answer = await client.post("/account/password", data=given)
    assert answer.status_code == 422
    assert "This is the password that you have already" in answer.text
    assert await working(client, ways) == {"sessions", "tokens", "links"}


async def test_a_token_cannot_mint_tokens_nor_links_nor_set_a_password(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    user = await create_user(session, Role.ADMIN)
    headers = await bearer(session, user)
    for address, data in (
        ("/account/tokens", {"name": "another", "scopes": "admin"}),
        ("/account/password", {"password": NEW}),
        (f"/admin/people/{user.id}/link", {}),
        ("/admin/people", {"email": "new@example.org", "role": "admin"}),
    ):
        answer = await client.post(address, data=data, headers=headers)
        assert answer.status_code == 403, address
        assert "No token can do this" in answer.text
    assert len((await session.scalars(select(ApiToken))).all()) == 1


async def test_a_token_is_made_with_scopes_and_an_end_and_ends(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    user = await create_user(session, Role.RESEARCHER)
    csrf = await sign_in(client, session, user)
    form = {"csrf_token": csrf, "name": "notebook", "days": "30"}
    assert (await client.post("/account/tokens", data=form)).status_code == 422  # it may do nothing
    answer = await client.post("/account/tokens", data=form | {"scopes": ["read", "export"]})
    made = re.search(r"plk_[\w-]+", answer.text)
    assert made
    stored = (await session.scalars(select(ApiToken))).one()
    assert stored.scopes == ["read", "export"]
    assert stored.expires_at is not None
    assert timedelta(days=29) < stored.expires_at - utc_now() <= timedelta(days=30)
    assert "read, export" in answer.text
    headers = {"Authorization": f"Bearer {made[0]}"}
    client.cookies.clear()
    assert (await client.get("/api/v1/projects", headers=headers)).status_code == 200
    await session.refresh(stored)
    assert stored.last_used_at is not None
    stored.expires_at = utc_now()
    await session.commit()
    ended = await client.get("/api/v1/projects", headers=headers)
    assert (ended.status_code, "expired" in ended.json()["detail"]) == (401, True)
    await sign_in(client, session, user)
    assert "ended" in (await client.get("/account")).text


@pytest.mark.slow
def test_a_token_of_the_command_line_may_do_everything_unless_it_is_said(
    fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    from app.db.engine import libpq_url

    monkeypatch.setenv("DATABASE_URL", fresh_database)

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "app", *words],
            cwd=CHECKOUT, capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        return done.stdout.strip()

    run("user", "create", "ada@example.org", "--role", "admin")
    assert run("token", "create", "ada@example.org", "--name", "all").startswith("plk_")
    narrow = ("--scope", "read", "--scope", "rate", "--expires-days", "7")
    run("token", "create", "ada@example.org", *narrow)
    with psycopg.connect(libpq_url(fresh_database)) as connection:
        rows = connection.execute(
            "SELECT scopes, expires_at - now() FROM api_tokens ORDER BY created_at"
        ).fetchall()
    assert rows[0] == ([scope.value for scope in Scope], None)
    assert rows[1][0] == ["rate", "read"]
    assert timedelta(days=6) < rows[1][1] <= timedelta(days=7)


async def test_a_new_password_by_an_invitation_ends_the_link(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    user = await create_user(session)
    ways = await ways_in(session, user)
    csrf = await sign_in(client, session, user)
    weak = {"csrf_token": csrf, "password": user.email}
    assert (await client.post("/account/password", data=weak)).status_code == 422
    assert (
        await client.post("/account/password", data=weak | {"password": NEW})
    ).status_code == 303
    assert await working(client, ways) == set()
    assert len((await session.scalars(select(SignInSession))).all()) == 1
