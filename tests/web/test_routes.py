"""Who may do what is decided by the server, for every route that there is."""

import re

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import Role, Scope
from app.accounts.service import create_api_token
from app.main import ROUTERS
from app.settings import CHECKOUT
from tests.factories.accounts import bearer, create_user, sign_in

OPEN = {"/", "/sign-in", "/sign-in/{token}", "/language"}
SOME_ID = "01234567-89ab-7def-8123-456789abcdef"


def all_routes() -> list[tuple[str, str]]:
    return sorted(
        (method, route.path)
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute) and route.path not in OPEN
        for method in route.methods or ()
    )


def allowed(path: str) -> set[Role]:
    """The written rule: admins everything; raters rate; researchers export, train, and read the rest."""
    if path == "/rate/{slug}/preview":
        return {Role.ADMIN, Role.RESEARCHER}
    if path.startswith(("/rate", "/api/v1/assignments")) or path.endswith("/assignments"):
        return {Role.ADMIN, Role.RATER}
    if path.startswith("/research") or re.search(r"/(exports|runs|quality|leaderboard)\b", path):
        return {Role.ADMIN, Role.RESEARCHER}
    if path.startswith(("/account", "/sign-out")) or path.endswith("/progress"):
        return set(Role)
    if path == "/api/v1/policies":
        return {Role.ADMIN, Role.RESEARCHER}
    if path in ("/api/v1/projects", "/api/v1/projects/{slug}"):
        return set(Role)
    return {Role.ADMIN}


# No token will do.
IN_PERSON = re.compile(r"/account|/sign-out|/admin/people|/admin/projects/{slug}/members")
ADMIN_ONLY = {("POST", "/api/v1/projects"), ("POST", "/api/v1/policies")}
# What a researcher reads of the admins' pages, of figures and of the data itself; changing it stays theirs.
FIGURES = {"/admin/projects", "/admin/projects/{slug}", "/admin/policies"}
TABS = ("generation", "guidelines", "raters", "leaderboard")
FIGURES |= {f"/admin/projects/{{slug}}/{tab}" for tab in TABS}
DATA = {
    "/admin/projects/{slug}/imports",
    "/admin/projects/{slug}/prompts",
    "/admin/projects/{slug}/prompts/{prompt_id}",
}
DATA |= {"/rate/{slug}/preview", "/admin/projects/{slug}/notes"}
READ_ONLY = {("GET", path) for path in FIGURES | DATA}


@pytest.mark.parametrize("role", list(Role))
async def test_every_route_refuses_whoever_may_not(
    client: httpx.AsyncClient, session: AsyncSession, role: Role
) -> None:
    headers = await bearer(session, await create_user(session, role))
    assert len(all_routes()) > 50
    for method, path in all_routes():
        address = path.replace("{slug}", "none").replace("{name}", "none")
        address = re.sub(r"\{\w+\}", SOME_ID, address)
        answer = await client.request(method, address, headers=headers)
        may = role in allowed(path) and ((method, path) not in ADMIN_ONLY or role is Role.ADMIN)
        may = may or (role is Role.RESEARCHER and (method, path) in READ_ONLY)
        may = may and not IN_PERSON.match(path)
        assert (answer.status_code != 403) is may, (method, path, role, answer.status_code)
        assert answer.status_code < 500, (method, path, answer.text)


@pytest.mark.parametrize("role", list(Role))
async def test_what_decides_over_people_and_keys_takes_a_person(
    client: httpx.AsyncClient, session: AsyncSession, role: Role
) -> None:
    routes = [(method, path) for method, path in all_routes() if IN_PERSON.match(path)]
    assert len(routes) > 8
    user = await create_user(session, role)
    for method, path in routes:
        csrf = await sign_in(client, session, user)  # anew: one of them signs out
        address = re.sub(r"\{\w+\}", SOME_ID, path)
        answer = await client.request(method, address, headers={"X-CSRF-Token": csrf})
        assert (answer.status_code != 403) is (role in allowed(path)), (method, path, role)


def needed(method: str, path: str) -> Scope:
    """The written rule of what a token must be made for."""
    if (method, path) in READ_ONLY:
        return Scope.EXPORT if path in DATA else Scope.READ
    if allowed(path) == {Role.ADMIN, Role.RATER}:
        return Scope.RATE
    if path.endswith("/files/{name}"):
        return Scope.EXPORT
    if allowed(path) == {Role.ADMIN} or (method, path) in ADMIN_ONLY:
        return Scope.ADMIN
    return Scope.READ if method == "GET" else Scope.EXPORT


@pytest.mark.parametrize("scope", list(Scope))
async def test_a_token_does_what_it_was_made_for_and_nothing_else(
    client: httpx.AsyncClient, session: AsyncSession, scope: Scope
) -> None:
    admin = await create_user(session, Role.ADMIN)
    token = await create_api_token(session, admin, scopes=[scope])
    await session.commit()
    for method, path in all_routes():
        if IN_PERSON.match(path):
            continue
        address = path.replace("{slug}", "none").replace("{name}", "none")
        address = re.sub(r"\{\w+\}", SOME_ID, address)
        headers = {"Authorization": f"Bearer {token}"}
        answer = await client.request(method, address, headers=headers)
        may = needed(method, path) is scope
        assert (answer.status_code != 403) is may, (method, path, scope, answer.text)


async def test_nobody_gets_nowhere(client: httpx.AsyncClient) -> None:
    for method, path in all_routes():
        address = re.sub(r"\{\w+\}", SOME_ID, path)
        answer = await client.request(method, address, headers={"Accept": "text/html"})
        if path.startswith("/api/"):
            assert answer.status_code == 401, (method, path)
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["www-authenticate"] == "Bearer"
        elif method == "GET":
            assert answer.status_code == 303, (method, path)
            assert answer.headers["location"].startswith("/sign-in?next=")
        else:  # a form without a session has no token to show either
            assert answer.status_code in (303, 403), (method, path)


async def test_every_answer_carries_the_security_headers(client: httpx.AsyncClient) -> None:
    for path in ("/sign-in", "/api/v1/projects", "/no-such-page", "/healthz"):
        headers = (await client.get(path)).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe-inline" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


async def test_a_body_over_the_limit_is_refused(
    app: FastAPI, client: httpx.AsyncClient, session: AsyncSession
) -> None:
    headers = await bearer(session, await create_user(session, Role.ADMIN))
    limit = app.state.settings.max_request_bytes
    answer = await client.post(
        "/api/v1/projects/x/prompts",
        headers={**headers, "Content-Length": str(limit + 1), "Content-Type": "application/json"},
        content=b"[]",
    )
    assert answer.status_code == 413
    assert answer.json()["place"] == "body"


async def test_a_database_that_is_down_is_unavailable_and_said_so(app: FastAPI) -> None:
    from app.db.engine import create_engine, create_sessions

    app.state.engine = create_engine("postgresql://nobody@127.0.0.1:9/none")
    app.state.sessions = create_sessions(app.state.engine)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        ready = await client.get("/readyz", headers={"Accept": "application/json"})
        assert (ready.status_code, ready.json()["place"]) == (503, "database")
        call = await client.get("/api/v1/projects", headers={"Authorization": "Bearer x"})
        assert (call.status_code, call.json()["place"]) == (503, "database")
        assert call.headers["Retry-After"] == "1"
        assert (await client.get("/healthz")).status_code == 200


def test_the_apis_description_has_every_call(app: FastAPI) -> None:
    paths = app.openapi()["paths"]
    wanted = {
        ("post", "/api/v1/projects"),
        ("post", "/api/v1/projects/{slug}/prompts"),
        ("post", "/api/v1/projects/{slug}/assignments"),
        ("put", "/api/v1/assignments/{assignment_id}/ranking"),
        ("post", "/api/v1/assignments/{assignment_id}/skip"),
        ("get", "/api/v1/projects/{slug}/progress"),
        ("get", "/api/v1/projects/{slug}/quality"),
        ("get", "/api/v1/projects/{slug}/leaderboard"),
        ("post", "/api/v1/projects/{slug}/exports"),
        ("get", "/api/v1/exports/{export_id}"),
        ("get", "/api/v1/exports/{export_id}/files/{name}"),
        ("post", "/api/v1/projects/{slug}/runs"),
        ("get", "/api/v1/runs/{run_id}"),
        ("get", "/api/v1/runs/{run_id}/metrics"),
    }
    assert {(m, p) for m, p in wanted if m not in paths.get(p, {})} == set()


async def test_hostile_markdown_does_no_harm() -> None:
    from app.web.markdown import view_text

    hostile = "<script>x</script> [a](javascript:alert(1)) ![i](http://x/y.png) <b onclick=1>b</b>"
    html = str(view_text(hostile).shown)
    assert "<script" not in html
    assert "javascript:" not in re.sub(r"\(javascript:[^)]*\)", "", html)
    assert "<img" not in html
    assert "<b " not in html
    assert "<strong>bold</strong>" in str(view_text("**bold**").shown)
    assert "<table>" in str(view_text("| a |\n| --- |\n| 1 |").shown)


FORMS = re.compile(r"<form\b.*?</form>", re.DOTALL)


def test_nothing_with_consequences_is_sent_by_a_list_alone() -> None:
    found = [
        (file.name, form[:100])
        for file in (CHECKOUT / "templates").rglob("*.html")
        for form in FORMS.findall(file.read_text())
        if "data-submit-on-change" in form and 'method="get"' not in form
    ]
    assert found == []
