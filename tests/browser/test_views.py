"""Responses as they read and as they were written, and a rewrite that begins from the source."""

import asyncio
import json
import re
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Page, expect
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.guards import SESSION_COOKIE
from app.accounts.models import Role, User
from app.accounts.service import create_session
from app.datasets.schemas import Filters, Split
from app.datasets.service import build_export
from app.projects.models import Project
from app.prompts.models import Candidate, Prompt
from app.rating.models import Ranking
from tests.browser.conftest import Site, sign_in
from tests.factories.accounts import PASSWORD, create_user
from tests.factories.projects import create_project
from tests.factories.rating import create_tasks

WRITTEN = (
    "\n3. one\n7. two\n\n```python\nx = 1\n```\n\n| a | b |\n|---|---|\n| **1** | [c](https://d.org/) |\n\n"
    "  - 2*3*4, \\(x\\) & <b>&amp;</b>  \n"
)


@pytest.fixture
async def rater(session: AsyncSession) -> User:
    rater = await create_user(session, password=PASSWORD)
    await session.commit()
    session.expunge(rater)
    return rater


async def open_project(
    session: AsyncSession, page: Page, site: Site, rater: User, candidates: list[str], **more: Any
) -> Project:
    project = await create_project(
        session, slug=f"p-{uuid.uuid4().hex[:8]}", candidates_per_task=len(candidates), **more
    )
    await create_tasks(session, project, 2, candidates=candidates)
    await session.commit()
    await sign_in(page, site, rater.email)
    await page.goto(f"{site.address}/rate/{project.slug}")
    await expect(page.locator(".card")).to_have_count(len(candidates))
    return project


@pytest.mark.parametrize("written", [WRITTEN, WRITTEN.replace("\n", "\r\n"), "_*" * 20_000])
async def test_a_rewrite_begins_with_the_source_byte_for_byte(
    session: AsyncSession, page: Page, site: Site, rater: User, tmp_path: Path, written: str
) -> None:
    project = await open_project(session, page, site, rater, [written, "another"])
    cards = page.locator(".card")
    sources = [str(await source.text_content()) for source in await cards.locator(".source").all()]
    assert sorted(sources) == sorted([written, "another"])
    best = "1" if sources[0] == written else "7"
    await page.keyboard.press(best)
    await page.click("#copy-best")
    assert await page.input_value("#rewrite") == written.replace("\r\n", "\n")
    await page.keyboard.press("Control+Enter")
    await expect(page.locator(".recap .badge")).to_be_visible()
    ranking = (await session.scalars(select(Ranking).where(Ranking.rater_id == rater.id))).one()
    assert ranking.rewrite == written
    # What is exported as a demonstration is what was written.
    whole = Split(train=1, validation=0, test=0)
    async with site.sessions() as fresh:
        await build_export(fresh, project, Filters(), whole, tmp_path / "export", "all")
    lines = (tmp_path / "export" / "demonstrations.train.jsonl").read_text().splitlines()
    assert written in [json.loads(line)["messages"][-1]["content"] for line in lines]


async def test_a_key_and_a_button_switch_one_card_or_all(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    await open_project(session, page, site, rater, ["*one* word", "*two* words", "*three* words"])
    cards = page.locator(".card")
    rendered, sources = cards.locator(".prose:visible"), cards.locator(".source:visible")
    await expect(rendered).to_have_count(3)
    await expect(sources).to_have_count(0)
    await page.keyboard.press("v")
    await expect(sources).to_have_count(1)
    await expect(cards.nth(0).locator(".source")).to_be_visible()
    await expect(cards.nth(0).locator(".view-button")).to_have_attribute("aria-pressed", "true")
    await expect(page.locator("#announcer")).to_contain_text("as it was written")
    await cards.nth(0).locator(".view-button").click()
    await expect(rendered).to_have_count(3)
    await page.keyboard.press("Shift+V")
    await expect(sources).to_have_count(3)
    await expect(page.locator(".turn .source:visible")).to_have_count(1)
    # All stay so in the next task.
    for key in ("1", "2", "3", "Enter"):
        await page.keyboard.press(key)
    await expect(page.locator(".recap .badge")).to_be_visible()
    await expect(sources).to_have_count(3)
    await page.click(".view-all")
    await expect(rendered).to_have_count(3)


async def test_the_project_says_which_view_is_first_on_every_page(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    project = await open_project(
        session, page, site, rater, ["*one*", "*two*"], first_view="source"
    )
    await expect(page.locator(".card .source:visible")).to_have_count(2)
    await page.keyboard.press("1")
    await page.keyboard.press("Enter")
    await page.locator(".recap a").click()
    await page.wait_for_url("**/rate/history/**")
    await page.goto(page.url.removesuffix("/change"))
    await expect(page.locator("article .source:visible")).to_have_count(2)
    await page.locator(".view-button").first.click()
    await expect(page.locator("article .prose:visible")).to_have_count(1)
    admin = await create_user(session, Role.ADMIN, password=PASSWORD)
    prompt = await session.scalar(select(Prompt.id).where(Prompt.project_id == project.id))
    await session.commit()
    await page.context.clear_cookies()
    await sign_in(page, site, admin.email)
    await page.goto(f"{site.address}/admin/projects/{project.slug}/prompts/{prompt}")
    await expect(page.locator("article .source:visible")).to_have_count(2)
    await page.click(".view-all")
    await expect(page.locator("article .prose:visible")).to_have_count(2)


async def test_paragraphs_run_their_own_way_and_formulas_are_set(
    session: AsyncSession, page: Page, site: Site, rater: User
) -> None:
    persian = "Python یک زبان برنامه‌نویسی است.\n\nThis is English, and says فارسی once."
    await open_project(
        session, page, site, rater, [persian, r"So \(\frac{a}{b}\) is $\boxed{42}$."]
    )
    ways = await page.evaluate(
        "[...document.querySelectorAll('.card .prose > p')].map((each) => getComputedStyle(each).direction)"
    )
    assert sorted(ways) == ["ltr", "ltr", "rtl"]
    assert await page.locator(".card math").count() == 2
    fraction = await page.locator(".card mfrac").bounding_box()
    assert fraction
    assert fraction["height"] > 1.2 * fraction["width"]  # set, not in a line


async def test_others_are_answered_while_a_hostile_page_is_made(
    session: AsyncSession, site: Site, rater: User
) -> None:
    project = await create_project(session, slug=f"p-{uuid.uuid4().hex[:8]}", candidates_per_task=9)
    await create_tasks(session, project, 1, candidates=9)
    # Nine of the longest that are rendered, and all of them different.
    hard = "*word* and `code`, [link](http://x.y) \\(x_1\\)\n\n" * 2000
    own = select(Candidate.id).join(Prompt, Candidate.prompt_id == Prompt.id)
    own = own.where(Prompt.project_id == project.id)
    for number, each in enumerate(await session.scalars(own)):
        changed = {"text": f"{number} {hard}"}
        await session.execute(update(Candidate).where(Candidate.id == each).values(changed))
    token = await create_session(session, await session.merge(rater), days=1)
    await session.commit()
    async with httpx.AsyncClient(base_url=site.address, timeout=60) as client:
        client.cookies.set(SESSION_COOKIE, token)
        page = (await client.get(f"/rate/{project.slug}")).text
        form = {"csrf_token": re.findall(r'name="csrf_token" value="([^"]*)"', page)[0]}
        page_made = asyncio.create_task(client.post(f"/rate/{project.slug}/next", data=form))
        waits = []
        while not page_made.done():
            began = time.monotonic()
            assert (await client.get("/healthz")).status_code == 200
            waits.append(time.monotonic() - began)
            await asyncio.sleep(0.01)
        answer = await page_made
    assert answer.text.count('class="card"') == 9
    print(f"longest wait for /healthz: {1000 * max(waits):.0f} ms of {len(waits)}")
    assert max(waits) < 2  # with other tests on the same cores; 10 ms on a quiet machine
