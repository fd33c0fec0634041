"""Every page of every role, in both themes, wide and narrow: axe finds nothing, all of it fits."""

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from playwright.async_api import Browser, BrowserContext, Dialog, Page, expect
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts import service as accounts
from app.accounts.guards import SESSION_COOKIE
from app.accounts.models import Role
from app.projects.models import Project
from app.rating import assign, notes, qualification
from app.rating.models import QualificationState
from app.rating.schemas import RankingIn
from app.rating.submit import submit_ranking
from app.settings import CHECKOUT
from tests.browser.conftest import Site, sign_in
from tests.factories.accounts import PASSWORD, create_user
from tests.factories.projects import create_policy, create_project
from tests.factories.rating import create_tasks

CODE = "Why?\n\n```python\nreturn 1  # one\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |"
AXE = (CHECKOUT / "node_modules" / "axe-core" / "axe.min.js").read_text()


@dataclass
class Furnished:
    """A project with something to see, and a session token for each role."""

    project: Project
    slug: str
    tokens: dict[Role, str]
    # A ranking of the rater's.
    ranking: str


@pytest.fixture
async def furnished(session: AsyncSession) -> Furnished:
    slug = f"p-{uuid.uuid4().hex[:8]}"
    project = await create_project(
        session,
        slug=slug,
        guidelines="# Rules\n\nBe *fair*.",
        axes=[{"name": "helpful", "question": "How helpful is it?", "min": 1, "max": 5}],
    )
    await create_policy(session)
    await create_tasks(session, project, 3)
    await create_tasks(session, project, 2, candidates=0)
    await create_tasks(session, project, 1, candidates=2, ranks=[1, 2], rater="ann")
    pair = await create_project(session, slug=f"{slug}-two", candidates_per_task=2)
    await create_tasks(session, pair, 1, candidates=2, prompt=CODE, gold=True, ranks=[1, 2])
    unread = await create_project(session, slug=f"{slug}-new", guidelines="Be *fair*.")
    await create_tasks(session, unread, 1)
    tokens, people = {}, {}
    for role in Role:
        people[role] = await create_user(session, role)
        tokens[role] = await accounts.create_session(session, people[role], days=1)
    rater = people[Role.RATER]
    await qualification.read_guidelines(session, project, rater, 1)
    passed = QualificationState.PASSED
    admin = people[Role.ADMIN]
    await qualification.set_qualification(session, project, rater.id, passed, actor=admin.id)
    lease = await assign.lease_next_task(session, project, rater)
    assert lease is not None
    await notes.create_note(session, lease.assignment_id, rater, "broken", "A picture is missing")
    ranks = {each.id: number for number, each in enumerate(lease.candidates, start=1)}
    given = RankingIn(ranks=ranks, axes={"helpful": 4}, rationale="so", rewrite="a better one")
    stored = await submit_ranking(session, lease.assignment_id, rater, given)
    await session.commit()
    return Furnished(project, slug, tokens, str(stored.id))


PAGES = [
    (Role.RATER, "/rate"),
    (Role.RATER, "/rate/{slug}"),
    (Role.RATER, "/rate/{slug}-two"),
    (Role.RATER, "/rate/{slug}-new"),
    (Role.RATER, "/rate/history/{ranking}"),
    (Role.RATER, "/rate/history/{ranking}/change"),
    (Role.RATER, "/rate/{slug}/guidelines"),
    (Role.RATER, "/rate/history"),
    (Role.RATER, "/account"),
    (Role.ADMIN, "/admin/projects"),
    (Role.ADMIN, "/admin/projects/new"),
    (Role.ADMIN, "/admin/projects/{slug}"),
    (Role.ADMIN, "/admin/projects/{slug}/prompts"),
    (Role.ADMIN, "/admin/projects/{slug}/notes"),
    (Role.ADMIN, "/admin/projects/{slug}/generation"),
    (Role.ADMIN, "/admin/projects/{slug}/raters"),
    (Role.ADMIN, "/admin/projects/{slug}/guidelines"),
    (Role.ADMIN, "/admin/projects/{slug}/imports"),
    (Role.ADMIN, "/admin/projects/{slug}/leaderboard"),
    (Role.ADMIN, "/admin/projects/{slug}/members"),
    (Role.ADMIN, "/admin/projects/{slug}/settings"),
    (Role.ADMIN, "/admin/policies"),
    (Role.ADMIN, "/admin/people"),
    (Role.ADMIN, "/admin/audit"),
    (Role.ADMIN, "/admin/no-such-page"),
    (Role.RESEARCHER, "/admin/projects"),
    (Role.RESEARCHER, "/admin/projects/{slug}"),
    (Role.RESEARCHER, "/admin/projects/{slug}/prompts"),
    (Role.RESEARCHER, "/rate/{slug}/preview"),
    (Role.RESEARCHER, "/research/exports?project={slug}"),
    (Role.RESEARCHER, "/research/runs?project={slug}"),
    (Role.RATER, "/no-such-page"),
]


SCREENS = {"wide-light": ("light", 1440), "wide-dark": ("dark", 1440)}
SCREENS |= {"phone-light": ("light", 390), "phone-dark": ("dark", 390)}


@pytest.fixture(params=list(SCREENS.values()), ids=list(SCREENS))
async def screen(request: pytest.FixtureRequest, browser: Browser) -> AsyncIterator[BrowserContext]:
    theme, width = request.param
    context = await browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=theme, bypass_csp=True
    )
    yield context
    await context.close()


async def test_pages_are_accessible_and_fit(
    site: Site, furnished: Furnished, screen: BrowserContext
) -> None:
    page = await screen.new_page()
    width = page.viewport_size["width"] if page.viewport_size else 0
    findings = []
    for role, path in PAGES:
        cookie = {"name": SESSION_COOKIE, "value": furnished.tokens[role], "url": site.address}
        await screen.add_cookies([cookie])  # type: ignore[list-item]
        address = path.replace("{slug}", furnished.slug).replace("{ranking}", furnished.ranking)
        answer = await page.goto(site.address + address)
        assert answer
        assert answer.status == (404 if "no-such" in path else 200), path
        assert await page.evaluate("document.documentElement.scrollWidth") <= width, path
        await page.evaluate(AXE)
        found = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        findings += [
            (path, each["id"], [node["html"][:120] for node in each["nodes"][:3]])
            for each in found["violations"]
        ]
    assert findings == []


async def test_an_admin_sets_up_a_project_and_invites_somebody(
    session: AsyncSession, page: Page, site: Site, browser: Browser
) -> None:
    admin = await create_user(session, Role.ADMIN, password=PASSWORD)
    await session.commit()
    await sign_in(page, site, admin.email)
    assert page.url.endswith("/admin/projects")
    slug = f"new-{uuid.uuid4().hex[:8]}"
    await page.goto(f"{site.address}/admin/projects/new")
    await page.fill("#name", "A new project")
    await page.fill("#slug", slug)
    await page.fill("#guidelines", "Be kind.")
    await page.click("text=Create project")
    await expect(page.locator("h1")).to_have_text("Prompts")
    await expect(page.locator(".switcher .place")).to_have_text("A new project")
    rows = '{"prompt": "Why?", "candidates": ["a", "b"]}\n{"prompt": 1}\n'
    upload = {"name": "rows.jsonl", "mimeType": "application/jsonl", "buffer": rows.encode()}
    await page.set_input_files("#file", upload)  # type: ignore[arg-type]
    await page.click("button:text-is('Import')")
    await expect(page.locator(".notice")).to_contain_text("1 accepted")
    await expect(page.locator(".notice")).to_contain_text("line 2, prompt")
    await page.click(".side-nav a:has-text('Overview')")
    await page.click("button:has-text('Pause')")
    await expect(page.locator(".badge.warn")).to_have_text("paused")
    await page.goto(f"{site.address}/admin/people")
    address = f"{uuid.uuid4().hex[:8]}@example.org"
    await page.fill("#email", address)
    await page.click("text=Create sign-in link")
    link = str(await page.inner_text(".secret"))
    elsewhere = await browser.new_context()
    guest = await elsewhere.new_page()
    await guest.goto(site.address + link[link.index("/sign-in/") :])
    await guest.click("button:has-text('Sign in')")
    await guest.wait_for_url("**/rate**")
    await guest.goto(site.address + link[link.index("/sign-in/") :])
    await guest.click("main button:has-text('Sign in')")
    await expect(guest.locator(".notice.bad")).to_contain_text("used already")
    await elsewhere.close()


async def test_a_researcher_makes_an_export_and_downloads_it(
    session: AsyncSession, page: Page, site: Site, furnished: Furnished
) -> None:
    researcher = await create_user(session, Role.RESEARCHER, password=PASSWORD)
    await session.commit()
    await sign_in(page, site, researcher.email)
    assert page.url.endswith("/research/exports")
    details = page.locator("details.panel")
    if await details.get_attribute("open") is None:
        await page.click("text=New export")
    await page.select_option("#project", furnished.slug)
    await page.fill("#name", "mine")
    await page.click("button:has-text('Create export')")
    await expect(page.locator(".badge.good")).to_have_text("ready", timeout=20_000)
    await expect(page.locator("article")).to_contain_text("Known biases".lower(), ignore_case=True)
    async with page.expect_download() as download:
        await page.click("a:has-text('comparisons.train.jsonl')")
    assert (await (await download.value).path()).exists()


async def test_a_role_lands_at_home_and_is_refused_elsewhere(
    session: AsyncSession, page: Page, site: Site
) -> None:
    rater = await create_user(session, password=PASSWORD)
    await session.commit()
    await sign_in(page, site, rater.email)
    assert "/rate" in page.url
    await page.goto(f"{site.address}/admin/people")
    await expect(page.locator("h1")).to_have_text("Your role does not allow this")


async def test_a_role_changes_by_a_confirmed_button_and_never_by_a_slip(
    session: AsyncSession, page: Page, site: Site
) -> None:
    admin = await create_user(session, Role.ADMIN, password=PASSWORD)
    rater = await create_user(session)
    await session.commit()
    await sign_in(page, site, admin.email)
    await page.goto(f"{site.address}/admin/people")
    questions: list[str] = []
    agree = False

    async def answer(dialog: Dialog) -> None:
        questions.append(dialog.message)
        await (dialog.accept() if agree else dialog.dismiss())

    async def role() -> Role:
        await session.refresh(rater)
        return rater.role

    page.on("dialog", answer)
    roles = page.get_by_label(f"Role of {rater.email}", exact=True)
    change = page.get_by_role("button", name=f"Change the role of {rater.email}")
    await roles.focus()
    await page.keyboard.press("ArrowDown")
    await expect(roles).to_have_value("admin")
    await page.wait_for_timeout(500)  # what was sent by the key alone would have arrived
    assert (await role(), questions) == (Role.RATER, [])
    await change.click()
    await page.wait_for_timeout(500)
    assert await role() is Role.RATER
    agree = True
    await change.click()
    await expect(page.locator(".notice")).to_contain_text(f"{rater.email} is admin now")
    assert await role() is Role.ADMIN
    assert len(questions) == 2


async def test_a_researcher_reaches_every_page_of_a_project_by_keyboard_and_switches(
    session: AsyncSession, page: Page, site: Site, furnished: Furnished
) -> None:
    researcher = await create_user(session, Role.RESEARCHER, password=PASSWORD)
    await session.commit()
    await sign_in(page, site, researcher.email)
    home = f"{site.address}/admin/projects/{furnished.slug}"
    await page.goto(home)
    links = page.locator(".side-nav a")
    names = await links.all_inner_texts()
    assert {"Prompts", "Guidelines", "Exports", "Policies", "Leaderboard"} <= set(names)
    assert not {"Settings", "Members"} & set(names)  # those change something
    for name in names:
        link = page.locator(".side-nav").get_by_role("link", name=name, exact=True)
        await link.focus()
        async with page.expect_navigation() as went:
            await page.keyboard.press("Enter")
        answer = await went.value
        assert answer
        assert answer.status == 200, name
        await expect(link).to_have_attribute("aria-current", "page")
    summary = page.locator(".switcher summary")
    await summary.focus()
    await page.keyboard.press("Enter")
    await expect(page.locator(".switcher ul")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.locator(".switcher ul")).to_be_hidden()
    await expect(summary).to_be_focused()
    await page.keyboard.press("Enter")
    other = page.locator(f".switcher a[href='/admin/projects/{furnished.slug}-two']")
    await other.focus()
    await page.keyboard.press("Enter")
    await page.wait_for_url(f"{home}-two")
    await page.goto(f"{home}/no-such-page")
    await expect(page.locator(".side-nav")).to_be_visible()  # it keeps its place
