"""To look takes nothing: only a POST leases a task, so no link's preview or prefetch holds a slot."""

import re

import httpx
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import User
from app.db.types import utc_now
from app.projects.models import Project
from app.projects.service import publish_guidelines
from app.rating import assign
from app.rating.models import Assignment, AssignmentState, Ranking
from tests.factories.accounts import create_user, sign_in
from tests.factories.projects import create_project
from tests.factories.rating import create_tasks

TAKE = 'id="take"'


@pytest.fixture
async def project(session: AsyncSession) -> Project:
    project = await create_project(session)
    await create_tasks(session, project, 3, candidates=3)
    return project


@pytest.fixture
async def rater(session: AsyncSession) -> User:
    return await create_user(session)


@pytest.fixture
async def token(client: httpx.AsyncClient, session: AsyncSession, rater: User) -> str:
    """The rater is signed in; their session's CSRF token."""
    return await sign_in(client, session, rater)


async def count_assignments(session: AsyncSession) -> int:
    return await session.scalar(select(func.count()).select_from(Assignment)) or 0


def shown(page: httpx.Response) -> str | None:
    found = re.search(r'data-assignment="([^"]+)"', page.text)
    return found and found[1]


def ranking_form(page: httpx.Response, token: str) -> dict[str, str]:
    names = re.findall(r'<select name="(rank-[^"]+)"', page.text)
    return {name: str(rank) for rank, name in enumerate(names, 1)} | {"csrf_token": token}


@pytest.mark.usefixtures("token")
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("headers", [{}, {"sec-purpose": "prefetch"}, {"hx-request": "true"}])
async def test_no_look_at_any_page_takes_a_task(
    client: httpx.AsyncClient,
    session: AsyncSession,
    project: Project,
    method: str,
    headers: dict[str, str],
) -> None:
    home = f"/rate/{project.slug}"
    for path in ("/rate", home, f"{home}/next", f"{home}/prefetch", f"{home}/guidelines"):
        await client.request(method, path, headers=headers, follow_redirects=True)
        assert await count_assignments(session) == 0, path
    page = await client.get(home)
    assert page.status_code == 200
    assert TAKE in page.text
    assert shown(page) is None


async def test_a_button_takes_the_task_and_every_later_look_shows_it(
    client: httpx.AsyncClient, session: AsyncSession, project: Project, token: str
) -> None:
    home = f"/rate/{project.slug}"
    answer = await client.post(home, data={"csrf_token": token})
    assert (answer.status_code, answer.headers["location"]) == (303, home)
    assert await count_assignments(session) == 1
    first, again = await client.get(home), await client.get(home)
    assert shown(first) == shown(again) == str(await session.scalar(select(Assignment.id)))
    assert TAKE not in first.text
    assert await count_assignments(session) == 1


async def test_without_scripts_a_submit_and_a_skip_lead_straight_to_the_next_task(
    client: httpx.AsyncClient, session: AsyncSession, project: Project, token: str
) -> None:
    home = f"/rate/{project.slug}"
    await client.post(home, data={"csrf_token": token})
    page = await client.get(home)
    one = shown(page)
    answer = await client.post(f"/rate/assignments/{one}", data=ranking_form(page, token))
    assert (answer.status_code, answer.headers["location"]) == (303, home)
    # The next one is leased by the POST itself: the look after it finds it held.
    assert await count_assignments(session) == 2
    two = shown(await client.get(home))
    assert two not in (None, one)
    skipped = {"csrf_token": token, "reason": "not my language"}
    answer = await client.post(f"/rate/assignments/{two}/skip", data=skipped)
    assert (answer.status_code, answer.headers["location"]) == (303, home)
    page = await client.get(home)
    three = shown(page)
    assert three not in (None, one, two)
    await client.post(f"/rate/assignments/{three}", data=ranking_form(page, token))
    # That was the last one: no button promises another, and who asks all the same hears so at once.
    page = await client.get(home)
    assert "Nothing is left for you here" in page.text
    assert TAKE not in page.text
    answer = await client.post(home, data={"csrf_token": token})
    assert answer.status_code == 200
    assert "Nothing is left for you here" in answer.text
    assert await session.scalar(select(func.count()).select_from(Ranking)) == 2


async def test_a_script_that_submits_takes_the_next_task_by_itself(
    client: httpx.AsyncClient, session: AsyncSession, project: Project, token: str
) -> None:
    home = f"/rate/{project.slug}"
    page = await client.post(f"{home}/next", data={"csrf_token": token})
    form = ranking_form(page, token)
    json = {"accept": "application/json"}
    await client.post(f"/rate/assignments/{shown(page)}", data=form, headers=json)
    assert await count_assignments(session) == 1
    following = await client.post(f"{home}/next", data={"csrf_token": token})
    assert shown(following) not in (None, shown(page))
    assert "<html" not in following.text


async def test_reading_the_guidelines_leads_to_a_task(
    client: httpx.AsyncClient, session: AsyncSession, project: Project, token: str, rater: User
) -> None:
    await publish_guidelines(session, project, "Be fair.", actor=rater.id)
    home = f"/rate/{project.slug}"
    # They come first, whoever asks for a task.
    answer = await client.post(home, data={"csrf_token": token})
    assert answer.status_code == 303
    assert "Read the guidelines first" in (await client.get(home)).text
    assert await count_assignments(session) == 0
    read = {"csrf_token": token, "version": "1"}
    assert (await client.post(f"{home}/guidelines", data=read)).status_code == 303
    assert shown(await client.get(home)) is not None


async def test_a_lease_that_ran_out_is_taken_again_by_the_button_alone(
    client: httpx.AsyncClient, session: AsyncSession, project: Project, token: str
) -> None:
    home = f"/rate/{project.slug}"
    await client.post(home, data={"csrf_token": token})
    one = shown(await client.get(home))
    await session.execute(update(Assignment).values(expires_at=utc_now()))
    await session.commit()
    page = await client.get(home)
    assert TAKE in page.text
    assert shown(page) is None
    assert (await session.scalars(select(Assignment))).one().expires_at <= utc_now()
    await client.post(home, data={"csrf_token": token})
    assert shown(await client.get(home)) == one


async def test_a_task_held_for_afterwards_becomes_the_present_one_by_the_button_alone(
    client: httpx.AsyncClient, session: AsyncSession, project: Project, rater: User, token: str
) -> None:
    lease = await assign.lease_next_task(session, project, rater, prefetch=True)
    await session.commit()
    assert lease is not None
    home = f"/rate/{project.slug}"
    assert shown(await client.get(home)) is None
    await client.post(home, data={"csrf_token": token})
    assert shown(await client.get(home)) == str(lease.assignment_id)
    held = select(func.count()).where(Assignment.state == AssignmentState.LEASED)
    assert await session.scalar(held) == 1


async def test_a_paused_project_promises_no_task(
    client: httpx.AsyncClient, session: AsyncSession, project: Project, token: str
) -> None:
    project.paused = True
    await session.commit()
    page = await client.get(f"/rate/{project.slug}")
    assert "The project is paused" in page.text
    assert TAKE not in page.text
    assert token
