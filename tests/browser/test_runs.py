"""A run's page draws what the run says of itself, each curve whole in its frame."""

import pytest
from playwright.async_api import Browser, Page, expect
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import Role
from app.datasets.models import Export, ExportState
from app.policies.models import Backend
from app.training.models import CurveEntry, Run, RunMetric, RunState
from tests.browser.conftest import Site, sign_in
from tests.factories.accounts import PASSWORD, create_user
from tests.factories.projects import create_policy, create_project

CURVES: list[CurveEntry] = [
    {"title": f"a figure <{number}>", "unit": "nats" if number else "", "metrics": ["one", "two"]}
    for number in range(7)
]


async def create_run(session: AsyncSession, curves: list[CurveEntry] | None) -> Run:
    project = await create_project(session)
    policy = await create_policy(session, backend=Backend.TRANSFORMERS, model="m", base_url=None)
    export = Export(
        project_id=project.id, name="first", filters={}, split={}, state=ExportState.READY
    )
    session.add(export)
    await session.flush()
    run = Run(
        project_id=project.id, stage="ppo", state=RunState.SUCCEEDED, export_id=export.id,
        base_policy_id=policy.id, config={}, result={"score": 1.5}, step=40, total_steps=40,
        catalogue={"title": "PPO", "makes": "policy"} if curves is None else {"curves": curves},
    )  # fmt: skip
    session.add(run)
    await session.flush()
    session.add_all(
        RunMetric(run_id=run.id, line=n, data={"step": n + 1, "one": n / 40, "two": 1 - n / 40})
        for n in range(40)
    )
    await session.commit()
    return run


@pytest.mark.parametrize("width", [1440, 1024, 390])
async def test_every_curve_is_whole_in_its_frame_on_load(
    browser: Browser, site: Site, session: AsyncSession, width: int
) -> None:
    run = await create_run(session, CURVES)
    researcher = await create_user(session, Role.RESEARCHER, password=PASSWORD)
    await session.commit()
    context = await browser.new_context(viewport={"width": width, "height": 900})
    page = await context.new_page()
    await sign_in(page, site, researcher.email)
    await page.goto(f"{site.address}/research/runs/{run.id}")
    await expect(page.locator("#latest tr")).to_have_count(3)
    await expect(page.locator("#curves figure")).to_have_count(len(CURVES))
    assert await page.locator("#curves figcaption").all_text_contents() == [
        "a figure <0>",
        *(f"a figure <{number}>, nats" for number in range(1, 7)),
    ]
    for figure in await page.locator("#curves figure").all():
        frame, plot = await figure.bounding_box(), await figure.locator("canvas").bounding_box()
        assert frame
        assert plot
        assert plot["x"] >= frame["x"]
        assert plot["x"] + plot["width"] <= frame["x"] + frame["width"], "cut off"
        assert plot["width"] > frame["width"] / 2, "squeezed"
    await context.close()


async def test_a_run_that_says_no_curves_has_one_for_each_figure(
    page: Page, site: Site, session: AsyncSession
) -> None:
    run = await create_run(session, None)
    researcher = await create_user(session, Role.RESEARCHER, password=PASSWORD)
    await session.commit()
    await sign_in(page, site, researcher.email)
    await page.goto(f"{site.address}/research/runs/{run.id}")
    await expect(page.locator("#curves figcaption")).to_have_text(["one", "two"])
