"""What goes on as it was is shown and can be acted on: an older overlap, tasks that everybody skipped."""

import httpx
import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import AuditEntry, Role, User
from app.projects.models import Project
from app.prompts.models import Prompt
from app.rating import assign, history
from app.rating.models import Task
from app.rating.schemas import RankingIn
from app.rating.submit import submit_ranking
from tests.factories.accounts import create_user, sign_in
from tests.factories.projects import create_project
from tests.factories.rating import create_tasks


@pytest.fixture
async def token(client: httpx.AsyncClient, session: AsyncSession) -> str:
    return await sign_in(client, session, await create_user(session, Role.ADMIN))


async def skip_next(session: AsyncSession, project: Project, rater: User, reason: str) -> None:
    lease = await assign.lease_next_task(session, project, rater)
    assert lease is not None
    await assign.skip(session, lease.assignment_id, rater, reason)


async def actions(session: AsyncSession) -> list[tuple[str, object]]:
    events = await session.scalars(select(AuditEntry).order_by(AuditEntry.id))
    return [
        (each.action, each.detail.get("tasks"))
        for each in events
        if each.action.startswith("tasks.")
    ]


async def test_a_raised_overlap_is_told_and_raises_the_tasks_that_there_are(
    client: httpx.AsyncClient, session: AsyncSession, token: str
) -> None:
    project = await create_project(session, overlap=1)
    await create_tasks(session, project, 3, candidates=2)
    await create_tasks(session, project, 1, candidates=2, gold=True, ranks=[1, 2])
    rater = await create_user(session)
    lease = await assign.lease_next_task(session, project, rater)
    assert lease is not None
    ranks = {each.id: 1 for each in lease.candidates}
    await submit_ranking(session, lease.assignment_id, rater, RankingIn(ranks=ranks))
    address = f"/admin/projects/{project.slug}"
    assert "made with" not in (await client.get(f"{address}/settings")).text
    await session.execute(update(Project).where(Project.id == project.id).values(overlap=3))
    page = await client.get(f"{address}/settings")
    assert "3 tasks keep the smaller number" in " ".join(page.text.split())
    assert "Raise to 3" in page.text
    raised = await client.post(f"{address}/overlap", data={"csrf_token": token})
    assert raised.status_code == 303
    tasks = await session.execute(
        select(Task.overlap, Task.open_slots).where(~Task.gold).order_by(Task.open_slots)
    )
    assert [tuple(each) for each in tasks] == [(3, 2), (3, 3), (3, 3)]
    gold = await session.scalar(select(Task.overlap).where(Task.gold))
    assert gold == 1000
    assert "made with" not in (await client.get(f"{address}/settings")).text
    assert await actions(session) == [("tasks.overlap", 3)]
    # The one that was full asks somebody else now.
    other = await create_user(session)
    await session.refresh(project)
    for _ in range(3):
        await skip_next(session, project, other, "no")


async def test_what_every_rater_skipped_is_shown_with_the_reasons_and_offered_again(
    client: httpx.AsyncClient, session: AsyncSession, token: str
) -> None:
    project = await create_project(session, overlap=2)
    await create_tasks(session, project, 2, candidates=2)
    raters = [await create_user(session) for _ in range(2)]
    address = f"/admin/projects/{project.slug}"
    await skip_next(session, project, raters[0], "I cannot judge this")
    await skip_next(session, project, raters[0], "I cannot judge this")
    assert "skipped by every rater" not in (await client.get(address)).text
    await skip_next(session, project, raters[1], "It disturbs me")
    text = " ".join((await client.get(address)).text.split())
    assert "1 task is open and skipped by every rater" in text
    assert '<td dir="auto">I cannot judge this</td> <td class="number">2</td>' in text
    prompt = await session.scalar(select(Prompt).order_by(Prompt.id))
    assert prompt is not None
    page = (await client.get(f"{address}/prompts/{prompt.id}")).text
    assert "It disturbs me" in page
    assert raters[1].display_name in page
    form = {"csrf_token": token, "action": "reopen"}
    assert (await client.post(f"{address}/skipped", data=form)).status_code == 303
    assert "skipped by every rater" not in (await client.get(address)).text
    lease = await assign.lease_next_task(session, project, raters[0])
    assert lease is not None
    assert await actions(session) == [("tasks.reopen", 1)]
    # What was said stays to be read.
    assert "It disturbs me" in (await client.get(f"{address}/prompts/{prompt.id}")).text


async def test_what_every_rater_skipped_can_be_retired(
    client: httpx.AsyncClient, session: AsyncSession, token: str
) -> None:
    project = await create_project(session, overlap=2)
    await create_tasks(session, project, 2, candidates=2)
    rater = await create_user(session)
    await create_user(session, Role.RESEARCHER)  # nobody who rates
    await skip_next(session, project, rater, "no")
    address = f"/admin/projects/{project.slug}"
    form = {"csrf_token": token, "action": "retire"}
    assert (await client.post(f"{address}/skipped", data=form)).status_code == 303
    assert (await history.get_progress(session, project)).ready == 1
    assert "1 retired task is" in " ".join((await client.get(address)).text.split())
    assert await actions(session) == [("tasks.retire", 1)]
    newcomer = await create_user(session)
    await skip_next(session, project, newcomer, "no")  # the one that is left
    assert await assign.lease_next_task(session, project, newcomer) is None


@pytest.mark.usefixtures("token")
async def test_flags_are_counted_where_admins_look(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    project = await create_project(session, flags=[{"name": "unsafe", "label": "Unsafe"}])
    await create_tasks(session, project, 1, candidates=2)
    rater = await create_user(session)
    lease = await assign.lease_next_task(session, project, rater)
    assert lease is not None
    ranks = {each.id: 1 for each in lease.candidates}
    given = RankingIn(ranks=ranks, flags=["unsafe"])
    await submit_ranking(session, lease.assignment_id, rater, given)
    text = " ".join((await client.get(f"/admin/projects/{project.slug}")).text.split())
    assert '<td dir="auto">unsafe</td> <td class="number">1</td>' in text
