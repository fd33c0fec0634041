"""The page of exports: its form says whose rankings, and keeps what was typed when something is wrong."""

import re

import httpx
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import Role
from app.datasets.models import Export
from tests.factories.accounts import bearer, create_user
from tests.factories.projects import create_project


async def test_the_form_makes_an_export_of_what_was_chosen(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    project = await create_project(session)
    headers = await bearer(session, await create_user(session, Role.RESEARCHER))
    form = (await client.get("/research/exports", headers=headers)).text
    assert re.search(r'value="person" checked />\s*Human', form)
    assert re.search(r'value="ai"  ?/>\s*AI', form)
    given = {"project": project.slug, "name": "first", "kinds": "ai", "train": "70", "test": "20"}
    wrong = await client.post("/research/exports", headers=headers, data={**given, "test": "21"})
    assert wrong.status_code == 422
    assert "must add up to 1" in wrong.text
    assert re.search(r'value="ai" checked />\s*AI', wrong.text)
    assert 'name="test" type="number" min="0" max="100" step="any" value="21"' in wrong.text
    made = await client.post("/research/exports", headers=headers, data=given)
    assert made.status_code == 303
    export = (await session.scalars(select(Export))).one()
    assert made.headers["location"] == f"/research/exports/{export.id}"
    assert export.filters["kinds"] == ["ai"]
    assert export.split["train"] == 0.7
    page = await client.get(made.headers["location"], headers=headers)
    assert '<span class="badge">pending</span>' in page.text
