"""How people come in, and who is kept out."""

import re
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts import service
from app.accounts.guards import SESSION_COOKIE
from app.accounts.models import AuditEntry, Role, SignInFailure, SignInSession
from tests.factories.accounts import PASSWORD, bearer, create_user, sign_in

TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"')


async def test_a_password_signs_in_and_lands_on_the_roles_home(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    user = await create_user(session, Role.RESEARCHER, password=PASSWORD)
    await session.commit()
    form = await client.get("/sign-in")
    token = TOKEN.search(form.text)
    assert token
    answer = await client.post(
        "/sign-in",
        data={"email": user.email.upper(), "password": PASSWORD, "csrf_token": token[1]},
    )
    assert answer.status_code == 303
    home = await client.get("/")
    assert home.headers["location"] == "/research/exports"


async def test_a_wrong_password_says_nothing_of_what_was_wrong(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    user = await create_user(session, password=PASSWORD)
    await session.commit()
    found = TOKEN.search((await client.get("/sign-in")).text)
    assert found
    token = found[1]
    known, unknown = [
        await client.post(
            "/sign-in",
            data={"email": email, "password": "wrong password", "csrf_token": token},
        )
        for email in (user.email, "nobody@example.org")
    ]
    assert known.status_code == unknown.status_code == 401
    assert "The address or the password is not right" in known.text
    # The forms' token is masked anew for each answer.
    one, other = (re.sub(r"[\w-]{86,}", "", answer.text) for answer in (known, unknown))
    assert one.replace(user.email, "") == other.replace("nobody@example.org", "")


@pytest.mark.slow
async def test_guessing_is_stopped_and_a_right_password_waits_too(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    user = await create_user(session, password=PASSWORD)
    other = await create_user(session, password=PASSWORD)
    await session.commit()
    found = TOKEN.search((await client.get("/sign-in")).text)
    assert found
    token = found[1]

    async def attempt(email: str, password: str) -> int:
        data = {"email": email, "password": password, "csrf_token": token}
        return (await client.post("/sign-in", data=data)).status_code

    assert [await attempt(user.email, "guess") for _ in range(11)] == [401] * 10 + [429]
    assert await attempt(user.email.upper(), PASSWORD) == 429
    assert await attempt(other.email, PASSWORD) == 303  # somebody else is not shut out
    long_ago = func.now() - func.make_interval(0, 0, 0, 0, 0, 16)
    await session.execute(update(SignInFailure).values(at=long_ago))
    client.cookies.clear()
    found = TOKEN.search((await client.get("/sign-in")).text)
    assert found
    token = found[1]
    assert await attempt(user.email, PASSWORD) == 303


async def test_sign_ins_and_failures_stand_in_the_audit_log(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    user = await create_user(session, password=PASSWORD)
    link = await service.create_sign_in_link(session, user, lifetime=timedelta(days=1))
    await session.commit()
    found = TOKEN.search((await client.get("/sign-in")).text)
    assert found
    token = found[1]
    for email, password in (
        (user.email, "a wrong one"),
        ("my secret in the wrong field", PASSWORD),
        (user.email, PASSWORD),
    ):
        data = {"email": email, "password": password, "csrf_token": token}
        await client.post("/sign-in", data=data)
    client.cookies.clear()
    found = TOKEN.search((await client.get(f"/sign-in/{link}")).text)
    assert found
    for _ in range(2):  # the second time it is spent
        await client.post(f"/sign-in/{link}", data={"csrf_token": found[1]})
        client.cookies.delete(SESSION_COOKIE)
    rows = await session.scalars(
        select(AuditEntry).where(AuditEntry.action.startswith("sign_in")).order_by(AuditEntry.id)
    )
    told = [(row.action, row.subject, row.actor_id, row.detail) for row in rows]
    source = {"source": "127.0.0.1"}
    assert told == [
        ("sign_in.failure", user.email, None, source),
        ("sign_in.failure", "an unknown address", None, source),
        ("sign_in", user.email, user.id, source | {"by": "password"}),
        ("sign_in", user.email, user.id, source | {"by": "link"}),
        ("sign_in.failure", user.email, None, source | {"by": "link"}),
    ]


async def test_a_form_without_its_token_is_refused(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    user = await create_user(session)
    csrf = await sign_in(client, session, user)
    assert (await client.post("/sign-out")).status_code == 403
    assert (await client.post("/sign-out", data={"csrf_token": "x" * 43})).status_code == 403
    assert (await client.post("/sign-out", data={"csrf_token": csrf})).status_code == 303


async def test_each_answer_shows_the_forms_token_under_a_mask_of_its_own(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    """What a compressed page shows unchanged can be guessed, letter by letter, from its size (BREACH)."""
    user = await create_user(session)
    await sign_in(client, session, user)
    stored = (await session.scalars(select(SignInSession))).one()
    pages = [(await client.get("/account")).text for _ in range(3)]
    shown = [set(TOKEN.findall(page)) for page in pages]
    assert all(len(each) == 1 for each in shown)
    assert len(set.union(*shown)) == 3
    assert all(stored.csrf_token not in page for page in pages)
    for each in shown:  # every one is good, for as long as the session is
        data = {"name": "Ada", "csrf_token": each.pop()}
        assert (await client.post("/account/name", data=data)).status_code == 303
    # Before anybody has signed in, the cookie holds the token and the page a mask of it.
    client.cookies.clear()
    page = await client.get("/sign-in")
    assert client.cookies["plackett_csrf"] not in page.text


@pytest.mark.parametrize("given", ["", "x", "é" * 40, "=" * 60, "A" * 4000, "\x00"])
async def test_what_is_no_token_is_refused_and_breaks_nothing(
    client: httpx.AsyncClient, session: AsyncSession, given: str
) -> None:
    await sign_in(client, session, await create_user(session))
    answer = await client.post("/sign-out", data={"csrf_token": given})
    assert answer.status_code == 403
    client.cookies.clear()
    client.cookies.set("plackett_csrf", "x")
    answer = await client.post("/language", data={"language": "de", "csrf_token": given})
    assert answer.status_code == 403


async def test_signing_in_never_leads_to_another_site(client: httpx.AsyncClient) -> None:
    for address in ("https://evil.example", "//evil.example", "/\\evil.example"):
        form = await client.get("/sign-in", params={"next": address})
        assert 'name="next" value="/"' in form.text


async def test_an_unknown_api_token_is_a_problem_document(client: httpx.AsyncClient) -> None:
    answer = await client.get("/no-such-call", headers={"Accept": "application/json"})
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 404


async def test_a_token_speaks_for_its_owner_until_they_are_disabled(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    admin = await create_user(session, Role.ADMIN)
    headers = await bearer(session, admin)
    assert (await client.get("/", headers=headers)).headers["location"] == "/admin/projects"
    assert (await client.get("/readyz")).json()["status"] == "ok"
