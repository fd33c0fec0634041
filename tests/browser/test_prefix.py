"""The application under a path, with its scripts: whatever a browser asks for stands under it."""

import uuid
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Page, expect
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import Role
from app.rating.models import Ranking
from app.settings import CHECKOUT
from simulation.served import serving
from tests.browser.conftest import Site, sign_in
from tests.factories.accounts import PASSWORD, create_user
from tests.factories.projects import create_project
from tests.factories.rating import create_tasks
from tests.research.test_runs import create_run

PREFIX = "/tools/plackett"


async def test_every_request_of_a_browser_stands_under_the_path(
    session: AsyncSession,
    page: Page,
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PLACKETT_ROOT_PATH", PREFIX)
    slug = f"p-{uuid.uuid4().hex[:8]}"
    project = await create_project(session, slug=slug)
    await create_tasks(session, project, 3)
    admin = await create_user(session, Role.ADMIN, password=PASSWORD)
    run = await create_run(session, tmp_path)
    await session.commit()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(urlsplit(request.url).path))
    failed: list[tuple[str, int]] = []
    page.on(
        "response",
        lambda answer: failed.append((answer.url, answer.status)) if answer.status >= 400 else None,
    )
    with serving(CHECKOUT, site.database_url, workers=1, log=tmp_path / "web.log") as served:
        under = replace(site, address=served.address + PREFIX)
        await sign_in(page, under, admin.email)
        await page.goto(f"{under.address}/rate/{slug}")
        await page.locator(".card").first.wait_for()
        await page.locator(".card").first.click()
        await page.keyboard.press("1")
        await expect(page.locator("#saved")).not_to_be_empty()  # the draft has come through
        await page.keyboard.press("d")
        await expect(page.locator("#difference")).not_to_be_empty()
        await page.keyboard.press("Escape")
        for key in ("2", "3", "4", "Enter"):
            await page.keyboard.press(key)
        await expect(page.locator("#told .badge.good")).to_be_visible()
        await page.locator("#back").click()
        await page.wait_for_url(f"**{PREFIX}/rate/history/*/change")
        await page.goto(f"{under.address}/admin/projects/{slug}")
        await page.wait_for_timeout(5500)  # htmx asks for the counts again
        metrics = f"{PREFIX}/api/v1/runs/{run.id}/metrics"
        async with page.expect_response(lambda answer: urlsplit(answer.url).path == metrics):
            await page.goto(f"{under.address}/research/runs/{run.id}")
        cookies = await page.context.cookies(under.address + "/")
        await page.click("text=Sign out")
        await page.wait_for_url(f"{under.address}/sign-in")
    assert {each.get("path") for each in cookies} == {PREFIX}
    assert [path for path in asked if not path.startswith(f"{PREFIX}/")] == []
    assert failed == []
    mine = select(func.count()).where(Ranking.rater_id == admin.id)
    assert await session.scalar(mine) == 1
