"""A project's pages: every tab renders, marked as the open one, and its settings' form makes a project."""

import re

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import Role
from app.admin.tabs import TABS
from app.projects.queries import find_project
from tests.factories.accounts import bearer, create_user, sign_in
from tests.factories.projects import create_project
from tests.factories.rating import create_tasks

FORM = {
    **{"name": "Letters", "candidates_per_task": "3", "overlap": "2", "lease_minutes": "10"},
    **{"temperature": "0.7", "top_p": "1", "max_new_tokens": "64", "guidelines": "Be fair."},
    **{"axis_name": "clear", "axis_question": "Is it?", "axis_min": "1", "axis_max": "5"},
    **{"axis_per": "best", "flag_name": "rude", "flag_label": "Rude"},
}


@pytest.fixture
async def headers(session: AsyncSession) -> dict[str, str]:
    return await bearer(session, await create_user(session, Role.ADMIN))


@pytest.mark.parametrize("tab", TABS)
async def test_every_tab_renders_and_is_marked(
    client: httpx.AsyncClient, session: AsyncSession, tab: str
) -> None:
    project = await create_project(session)
    await create_tasks(session, project, 1)
    await sign_in(client, session, await create_user(session, Role.ADMIN))
    address = f"/admin/projects/{project.slug}" + ("" if tab == "overview" else f"/{tab}")
    page = await client.get(address)
    assert page.status_code == 200
    assert f"<h1>{TABS[tab]}</h1>" in page.text
    assert page.text.count('aria-current="page"') == 1
    assert re.search(rf'href="{address}" +aria-current="page"', page.text)


async def test_the_form_makes_a_project_and_changes_it(
    client: httpx.AsyncClient, session: AsyncSession, headers: dict[str, str]
) -> None:
    assert (await client.get("/admin/projects/new", headers=headers)).status_code == 200
    made = await client.post(
        "/admin/projects/new", headers=headers, data={**FORM, "slug": "letters"}
    )
    assert made.headers["location"] == "/admin/projects/letters/prompts"
    changed = await client.post(
        "/admin/projects/letters/settings", headers=headers, data={**FORM, "overlap": "4"}
    )
    assert changed.headers["location"] == "/admin/projects/letters/settings"
    project = await find_project(session, "letters")
    assert project is not None
    assert (project.lease_seconds, project.overlap, project.guideline_version) == (600, 4, 1)
    assert [axis["name"] for axis in project.axes] == ["clear"]
    assert [flag["label"] for flag in project.flags] == ["Rude"]


@pytest.mark.parametrize("page", ["projects", "policies", "people", "audit"])
async def test_the_menus_pages_render(
    client: httpx.AsyncClient, session: AsyncSession, page: str
) -> None:
    await sign_in(client, session, await create_user(session, Role.ADMIN))
    assert (await client.get(f"/admin/{page}")).status_code == 200
