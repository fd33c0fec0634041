"""What the ranking page costs a slow line: bytes as they travel, requests, and nobody else asked."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Page, Route, expect
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import Role
from tests.browser.conftest import Site, sign_in
from tests.factories.accounts import PASSWORD, create_user
from tests.factories.projects import create_project
from tests.factories.rating import create_tasks

FIRST_LOAD = 42_000  # bytes, with two tasks of four responses of 300 words that hardly compress
FIRST_REQUESTS = 8
NEXT_TASK = 20_000  # bytes, for four responses of 300 words
WORDS = [
    *("the", "old", "lighthouse", "keeper", "counted", "seven", "ships", "before"),
    *("the", "fog", "rolled", "over", "the", "harbour", "wall"),
]


def long_text(seed: int) -> str:
    """Three hundred words that do not compress to nothing."""
    return " ".join(f"{WORDS[(seed * 7 + n * n) % len(WORDS)]}{n * seed % 97}" for n in range(300))


Traffic = list[tuple[str, int]]


async def all_of(traffic: Traffic, last: str) -> int:
    """Bytes of all that came, up to the end of the answer from this path: it is told after its start."""
    async with asyncio.timeout(10):
        while not any(urlsplit(url).path.endswith(last) for url, _ in traffic):
            await asyncio.sleep(0.02)
    return sum(size for _, size in traffic)


@pytest.fixture
async def traffic(page: Page) -> Traffic:
    """(address, bytes over the wire) of everything that the page asked for, as the browser counts it."""
    seen: Traffic = []
    addresses: dict[str, str] = {}
    client = await page.context.new_cdp_session(page)
    await client.send("Network.enable")
    client.on(
        "Network.requestWillBeSent",
        lambda event: addresses.update({event["requestId"]: event["request"]["url"]}),
    )
    client.on(
        "Network.loadingFinished",
        lambda event: seen.append(
            (addresses.get(event["requestId"], "?"), int(event["encodedDataLength"]))
        ),
    )
    return seen


@pytest.fixture
def rating(session: AsyncSession, page: Page, site: Site) -> Callable[[], Awaitable[str]]:
    """Make a project with long responses, and sign a rater in; the ranking page's address."""

    async def prepare() -> str:
        rater = await create_user(session, password=PASSWORD)
        project = await create_project(session, slug=f"p-{uuid.uuid4().hex[:8]}", gold_rate=0)
        for seed in range(1, 4):
            texts = [long_text(4 * seed + n) for n in range(4)]
            await create_tasks(session, project, 1, candidates=texts)
        await session.commit()
        await sign_in(page, site, rater.email)
        return f"{site.address}/rate/{project.slug}"

    return prepare


async def test_the_first_load_and_each_next_task_keep_to_their_budgets(
    page: Page, site: Site, traffic: Traffic, rating: Callable[[], Awaitable[str]]
) -> None:
    address = await rating()
    await page.goto("about:blank")
    client = await page.context.new_cdp_session(page)
    await client.send("Network.clearBrowserCache")
    traffic.clear()
    async with page.expect_response("**/prefetch"):
        await page.goto(address)
    await page.wait_for_load_state("networkidle")
    first = await all_of(traffic, "/prefetch")
    asked = [url for url, _ in traffic if not url.startswith("data:")]
    assert {urlsplit(url).netloc for url in asked} == {urlsplit(site.address).netloc}
    assert len(asked) <= FIRST_REQUESTS, "\n".join(asked)
    print(f"first load: {first} bytes in {len(asked)} requests")
    assert 5_000 < first <= FIRST_LOAD, traffic

    traffic.clear()
    assignment = await page.get_attribute("#workspace", "data-assignment")
    async with page.expect_response("**/prefetch"):
        for key in ("1", "2", "3", "4", "Enter"):
            await page.keyboard.press(key)
    await expect(page.locator(f"#workspace:not([data-assignment='{assignment}'])")).to_be_visible()
    await page.wait_for_load_state("networkidle")
    following = await all_of(traffic, "/prefetch")
    print(f"next task: {following} bytes")
    assert 1_000 < following <= NEXT_TASK, traffic


async def test_nothing_that_comes_tells_which_policy_wrote_what(
    page: Page, session: AsyncSession, site: Site
) -> None:
    rater = await create_user(session, password=PASSWORD)
    project = await create_project(session, slug=f"p-{uuid.uuid4().hex[:8]}")
    written = [{"text": f"text {n}", "policy": f"secret-model-{n}"} for n in range(4)]
    await create_tasks(session, project, 2, candidates=written)
    await session.commit()
    await sign_in(page, site, rater.email)
    came: list[str] = []

    async def note(route: Route) -> None:
        answer = await route.fetch()
        came.append(str(answer.headers) + await answer.text())
        await route.fulfill(response=answer)

    await page.route("**/*", note)
    await page.goto(f"{site.address}/rate/{project.slug}")
    await page.wait_for_load_state("networkidle")
    for key in ("1", "2", "3", "4", "Enter"):
        await page.keyboard.press(key)
    await expect(page.locator(".recap .badge")).to_be_visible()
    await page.wait_for_load_state("networkidle")
    await page.goto(f"{site.address}/rate/history")
    await page.wait_for_load_state("networkidle")
    assert any("text 1" in each for each in came)
    assert not [each for each in came if "secret-model" in each]


async def test_every_page_of_an_admin_keeps_to_the_first_loads_budget(
    page: Page, session: AsyncSession, site: Site, traffic: Traffic
) -> None:
    admin = await create_user(session, Role.ADMIN, password=PASSWORD)
    project = await create_project(session, slug=f"p-{uuid.uuid4().hex[:8]}", guidelines="Fair.")
    await create_tasks(session, project, 60, prompt=long_text(3))
    await session.commit()
    await sign_in(page, site, admin.email)
    client = await page.context.new_cdp_session(page)
    home = f"/admin/projects/{project.slug}"
    tabs = ("", "/prompts", "/generation", "/raters", "/imports", "/leaderboard", "/settings")
    lists = ("/admin/people", "/admin/audit", "/admin/policies", "/research/exports")
    for path in (*(home + each for each in tabs), *lists, "/research/runs"):
        await page.goto("about:blank")
        await client.send("Network.clearBrowserCache")
        traffic.clear()
        await page.goto(site.address + path)
        total = await all_of(traffic, path)
        print(f"{path.removeprefix(home)}: {total} bytes")
        assert 5_000 < total <= FIRST_LOAD, (path, traffic)
