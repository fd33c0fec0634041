"""The application behind a proxy, under a path: a browser that follows every address never leaves it."""

import re
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import Role
from app.datasets.models import Export, ExportState
from app.main import create_app
from app.rating import assign
from app.rating.schemas import RankingIn
from app.rating.submit import submit_ranking
from app.settings import CHECKOUT, Settings
from app.training.models import Run
from app.web.addresses import OwnAddresses
from tests.accounts.test_sign_in import TOKEN
from tests.factories.accounts import PASSWORD, create_user, sign_in
from tests.factories.projects import create_project
from tests.factories.rating import create_tasks
from tests.research.test_runs import create_run

PREFIX = "/tools/plackett"
PROXY = "172.18.0.9"
# (settings, whether the proxy takes the prefix away, whether it tells of it)
WAYS = {
    "setting, taken away": ({"root_path": PREFIX}, True, False),
    "setting, left": ({"root_path": f"{PREFIX}/"}, False, False),
    "told, taken away": ({"trusted_proxies": (PROXY,)}, True, True),
    "told, left": ({"trusted_proxies": (PROXY,)}, False, True),
}


@dataclass
class Proxy(httpx.AsyncBaseTransport):
    """Passes on what stands under the prefix, and notes what does not."""

    app: FastAPI
    takes_away: bool
    tells: bool
    outside: list[str] = field(default_factory=list)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if not path.startswith(f"{PREFIX}/"):
            self.outside.append(path)
            return httpx.Response(404, text="another application of this host")
        headers = httpx.Headers(request.headers)
        if self.tells:
            headers["x-forwarded-prefix"] = PREFIX
        url = request.url
        if self.takes_away:
            url = url.copy_with(path=path.removeprefix(PREFIX))
        inner = httpx.ASGITransport(self.app, client=(PROXY, 1), raise_app_exceptions=False)
        answer = await inner.handle_async_request(
            httpx.Request(request.method, url, headers=headers, stream=request.stream)
        )
        for cookie in answer.headers.get_list("set-cookie"):
            assert f"Path={PREFIX};" in f"{cookie};", cookie
        return answer


@dataclass
class Visit:
    """A browser behind the proxy."""

    client: httpx.AsyncClient
    proxy: Proxy


@pytest.fixture(params=list(WAYS.values()), ids=list(WAYS))
async def visit(
    request: pytest.FixtureRequest, app: FastAPI, settings: Settings
) -> AsyncIterator[Visit]:
    more, takes_away, tells = request.param
    under = create_app(Settings(**{**settings.model_dump(), **more}))
    under.state.engine, under.state.sessions = app.state.engine, app.state.sessions
    proxy = Proxy(under, takes_away, tells)
    base = f"http://test{PREFIX}"
    async with httpx.AsyncClient(
        transport=proxy, base_url=base, follow_redirects=True, headers={"Accept": "text/html"}
    ) as client:
        yield Visit(client, proxy)


class Addresses(HTMLParser):
    """Every address in a page, and those of them that a browser would get."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.all: set[str] = set()
        self.gets: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.all |= {
            value
            for name, value in attributes.items()
            # Where to go on to is an address inside the application: it gets its prefix on the way out.
            if value.startswith("/")
            and (tag, name) not in (("input", "value"), ("html", "data-prefix"))
        }
        self.gets |= {attributes[name] for name in ("href", "src", "hx-get") if name in attributes}
        if tag == "form" and attributes.get("method") == "get" and "action" in attributes:
            self.gets.add(attributes["action"])


async def furnish(session: AsyncSession, folder: Path) -> str:
    """Something to see on every page; the project's slug comes back."""
    other = await create_project(session)  # with one project only, its page is the home
    await create_tasks(session, other, 1)
    project = await create_project(session, guidelines="Be *fair*.")
    await create_tasks(session, project, 3)
    await create_tasks(session, project, 60, candidates=0)  # more than a page
    rater = await create_user(session)
    await session.flush()
    lease = await assign.lease_next_task(session, project, rater)
    if lease is not None:
        ranks = {each.id: number for number, each in enumerate(lease.candidates, start=1)}
        await submit_ranking(session, lease.assignment_id, rater, RankingIn(ranks=ranks))
    (folder / "report.html").write_text("<!doctype html><p>A report</p>")
    run = await create_run(session, folder)
    export = await session.get_one(Export, run.export_id)
    export.state = ExportState.PENDING  # there are no files of it
    await session.commit()
    return project.slug


def find_outside(page: str) -> set[str]:
    """The addresses in a page that do not stand under the prefix."""
    return {each for each in Addresses(page).all if not each.startswith(f"{PREFIX}/")}


async def take_task(visit: Visit, slug: str) -> str:
    """The page with a task on it: the guidelines are read, and one is taken."""
    form = await visit.client.get(f"/rate/{slug}")
    found = TOKEN.search(form.text)
    assert found
    body = {"csrf_token": found[1], "version": "1"}
    await visit.client.post(f"/rate/{slug}/guidelines", data=body)
    answer = await visit.client.post(f"/rate/{slug}", data=body)
    assert 'id="ranking"' in answer.text
    return answer.text


# Fifty prompts have one template: a few of its pages show what all of them do.
OF_ONE_SHAPE = 3
SOME_ID_IN_PATH = re.compile(r"(?<=/prompts/)[0-9a-f-]{36}")


async def crawl(visit: Visit, *starts: str) -> set[str]:
    """Get every address that a page of ours names, and those that the pages behind them name."""
    waiting = [urljoin(f"http://test{PREFIX}/", start) for start in starts]
    seen: set[str] = set()
    shapes: Counter[str] = Counter()
    while waiting:
        address = waiting.pop()
        parts = urlsplit(address)
        shape = SOME_ID_IN_PATH.sub("id", parts.path)
        if shape != parts.path and shapes[shape] >= OF_ONE_SHAPE:
            continue
        other_rows = "page=" in parts.query or "project=" in parts.query
        key = parts.path + ("?" + parts.query if other_rows else "")
        if key in seen or parts.netloc != "test":
            continue
        seen.add(key)
        shapes[shape] += 1
        answer = await visit.client.get(address)
        assert answer.status_code == 200, address
        if not answer.headers.get("content-type", "").startswith("text/html"):
            continue
        assert find_outside(answer.text) == set(), address
        found = Addresses(answer.text)
        waiting += [urljoin(str(answer.url), each) for each in found.gets]
    return seen


async def test_no_address_of_any_page_leads_out(
    visit: Visit, session: AsyncSession, tmp_path: Path
) -> None:
    slug = await furnish(session, tmp_path)
    run = (await session.scalars(select(Run))).one()
    seen: set[str] = set()
    for role in Role:
        visit.client.cookies.clear()
        await sign_in(visit.client, session, await create_user(session, role))
        seen |= await crawl(visit, "", "account")
        if role is Role.RATER:
            assert find_outside(await take_task(visit, slug)) == set()
    for path in (
        *(f"/rate/{slug}", f"/rate/{slug}/guidelines", "/rate/history", "/account"),
        *(f"/admin/projects/{slug}/settings", "/admin/people", "/admin/audit", "/admin/policies"),
        *("/research/exports", f"/research/runs/{run.id}", f"/research/runs/{run.id}/report"),
        *("/api/openapi.json", "/vendor/htmx.js"),
    ):
        assert PREFIX + path in seen, path
    assert any(path.startswith(f"{PREFIX}/static/") for path in seen)
    assert any(f"/admin/projects/{slug}/prompts" in path and "page=2" in path for path in seen)
    assert visit.proxy.outside == []


async def test_signing_in_out_and_every_form_between_stays_inside(
    visit: Visit, session: AsyncSession
) -> None:
    user = await create_user(session, Role.ADMIN, password=PASSWORD)
    await session.commit()
    client = visit.client

    async def send(form: str, action: str, **fields: str) -> httpx.Response:
        found = TOKEN.search((await client.get(form)).text)
        assert found
        return await client.post(action, data={"csrf_token": found[1], **fields})

    # Where somebody wanted to go is kept through signing in, and back.
    form = await client.get("/admin/people")
    assert form.url.path == f"{PREFIX}/sign-in"
    wanted = re.search(r'name="next" value="([^"]+)"', form.text)
    assert wanted
    answer = await send("/sign-in", "/sign-in", email=user.email, password=PASSWORD, next=wanted[1])
    assert answer.url.path == f"{PREFIX}/admin/people"
    answer = await send("/account", "/account/name", name="Ada")
    assert (answer.url.path, "Your name is saved." in answer.text) == (f"{PREFIX}/account", True)
    answer = await send("/account", "/language", language="de", next="/account")
    assert answer.url.path == f"{PREFIX}/account"
    slashed = await client.get("/account/")  # the router's own redirect
    assert (slashed.status_code, slashed.url.path) == (200, f"{PREFIX}/account")
    boosted = await client.post(
        "/account/name", data={"name": "x"}, headers={"HX-Request": "true", "X-CSRF-Token": "x"}
    )
    assert boosted.status_code == 403
    answer = await send("/account", "/sign-out")
    assert answer.url.path == f"{PREFIX}/sign-in"
    gone = await client.get("/account", headers={"HX-Request": "true"})
    assert gone.headers["hx-redirect"] == f"{PREFIX}/sign-in?next=/account"
    assert "plackett_session" not in dict(client.cookies)
    assert visit.proxy.outside == []


async def test_an_errors_page_and_the_apis_description_know_where_they_stand(
    visit: Visit, session: AsyncSession
) -> None:
    missing = await visit.client.get("/no-such-page", headers={"Accept": "text/html"})
    assert missing.status_code == 404
    assert find_outside(missing.text) == set()
    described = (await visit.client.get("/api/openapi.json")).json()
    assert described["servers"] == [{"url": PREFIX}]
    refused = await visit.client.get("/api/v1/projects")
    assert refused.headers["content-type"] == "application/problem+json"


async def test_a_prefix_from_anybody_else_is_not_believed(client: httpx.AsyncClient) -> None:
    for prefix in ("/evil", "//evil.example", '/x"><script>'):
        page = await client.get("/sign-in", headers={"X-Forwarded-Prefix": prefix})
        assert "evil" not in page.text
        assert 'data-prefix=""' in page.text


@pytest.mark.parametrize("told", ["//evil.example", '/x"><script>', "x", "/a b", "/a//b", "/"])
async def test_a_prefix_that_is_no_path_is_not_taken(
    app: FastAPI, settings: Settings, told: str
) -> None:
    trusting = create_app(settings.model_copy(update={"trusted_proxies": (PROXY,)}))
    trusting.state.engine, trusting.state.sessions = app.state.engine, app.state.sessions
    transport = httpx.ASGITransport(trusting, client=(PROXY, 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        page = await client.get("/sign-in", headers={"X-Forwarded-Prefix": told})
        assert 'data-prefix=""' in page.text


def test_links_in_messages_begin_with_the_path() -> None:
    def address(**values: str) -> str:
        return Settings(**values).public_address  # type: ignore[arg-type]

    assert address(base_url="https://a.example/") == "https://a.example"
    assert address(base_url="https://a.example", root_path="/x/") == "https://a.example/x"
    assert address(base_url="https://a.example/x/", root_path="/x") == "https://a.example/x"
    for wrong in ("x", "//x", "/a b", "https://a.example/x"):
        with pytest.raises(ValueError, match="is a path like"):
            Settings(root_path=wrong)


def test_every_address_of_a_template_is_where_its_prefix_is_put() -> None:
    """One that begins inside a branch, or in an attribute that nobody thought of, would be missed."""
    loose = re.compile(
        r"""(?:%\}|=')/[a-z]|\s[\w-]+="/(?=[a-z])|["'](/(?:rate|admin|research|account)\b)"""
    )
    found = []
    for file in sorted((CHECKOUT / "templates").rglob("*.html")):
        text = OwnAddresses.ATTRIBUTES.sub(r"\1PREFIX", file.read_text())
        # Where to go on to is an address inside the application; the navigation's macro puts the prefix.
        text = re.sub(r'name="next" value="/[^"]*"|nav_link\(.*?\) \}\}', "", text)
        found += [(file.name, each.group()) for each in loose.finditer(text)]
    assert found == []
