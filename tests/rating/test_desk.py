"""At the rater's desk: what was seen, put off and noted; a rater's own books."""

import csv
import io

import httpx
import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import Role, User
from app.errors import Conflict, InvalidInput, NotFound
from app.projects.models import Project
from app.rating import assign, history, notes
from app.rating.models import Assignment, AssignmentState, NoteKind, Ranking, Task, TaskNote
from app.rating.queries import estimate_minutes, list_projects_with_work
from app.rating.schemas import DraftIn, Lease, RankingIn
from app.rating.submit import submit_ranking
from tests.factories.accounts import create_user, sign_in
from tests.factories.projects import create_project
from tests.factories.rating import create_tasks


@pytest.fixture
async def rater(session: AsyncSession) -> User:
    return await create_user(session)


async def lease_of(session: AsyncSession, project: Project, rater: User) -> Lease:
    lease = await assign.lease_next_task(session, project, rater)
    assert lease is not None
    return lease


def in_order(lease: Lease, **more: object) -> RankingIn:
    ranks = {each.id: number for number, each in enumerate(lease.candidates, start=1)}
    return RankingIn.model_validate({"ranks": ranks, **more})


async def rank_next(session: AsyncSession, project: Project, rater: User) -> Lease:
    lease = await lease_of(session, project, rater)
    await submit_ranking(session, lease.assignment_id, rater, in_order(lease))
    return lease


# --- put off


async def test_what_is_put_off_comes_back_after_others_with_its_draft_in_the_same_order(
    session: AsyncSession, rater: User
) -> None:
    project = await create_project(session, gold_rate=0)
    await create_tasks(session, project, 8, candidates=3)
    first = await lease_of(session, project, rater)
    await assign.save_draft(
        session, first.assignment_id, rater, DraftIn(rationale="half a thought")
    )
    for _ in range(2):  # twice changes nothing
        assert await assign.put_off(session, first.assignment_id, rater) == project.slug
    task = await session.get_one(Task, first.task_id, populate_existing=True)
    assert task.open_slots == task.overlap == 1
    others = [await rank_next(session, project, rater) for _ in range(assign.OTHERS_FIRST)]
    assert first.task_id not in {each.task_id for each in others}
    again = await lease_of(session, project, rater)
    assert again.assignment_id == first.assignment_id
    assert again.candidates == first.candidates
    assert again.draft is not None
    assert again.draft["rationale"] == "half a thought"
    await submit_ranking(session, again.assignment_id, rater, in_order(again))
    assert (await lease_of(session, project, rater)).task_id != first.task_id


async def test_what_is_put_off_comes_at_once_where_nothing_else_is_left(
    session: AsyncSession, rater: User
) -> None:
    project = await create_project(session, gold_rate=0)
    await create_tasks(session, project, 2, candidates=2)
    first = await lease_of(session, project, rater)
    await assign.put_off(session, first.assignment_id, rater)
    assert (await rank_next(session, project, rater)).task_id != first.task_id
    assert (await assign.get_standing(session, project, rater)).more
    assert (await lease_of(session, project, rater)).assignment_id == first.assignment_id


async def test_meanwhile_it_is_anybodys_and_who_is_done_cannot_put_off(
    session: AsyncSession, rater: User
) -> None:
    project = await create_project(session, gold_rate=0)
    await create_tasks(session, project, 1, candidates=2)
    first = await lease_of(session, project, rater)
    await assign.put_off(session, first.assignment_id, rater)
    other = await create_user(session)
    with pytest.raises(NotFound):
        await assign.put_off(session, first.assignment_id, other)
    assert (await history.get_own_figures(session, rater)).put_off == 1
    theirs = await rank_next(session, project, other)
    assert theirs.task_id == first.task_id
    assert await assign.lease_next_task(session, project, rater) is None
    assert not (await assign.get_standing(session, project, rater)).more
    assert (await history.get_own_figures(session, rater)).put_off == 0
    with pytest.raises(Conflict):
        await assign.put_off(session, theirs.assignment_id, other)


# --- seen


async def test_what_was_seen_is_stored_and_what_nobody_knows_is_not(
    session: AsyncSession, rater: User
) -> None:
    project = await create_project(session, gold_rate=0)
    await create_tasks(session, project, 2, candidates=3)
    known = await lease_of(session, project, rater)
    two = [each.id for each in known.candidates[:2]]
    await submit_ranking(session, known.assignment_id, rater, in_order(known, seen=two))
    unknown = await rank_next(session, project, rater)
    rows = await session.execute(select(Ranking.assignment_id, Ranking.seen))
    assert dict(rows.all()) == {known.assignment_id: two, unknown.assignment_id: None}


async def test_a_project_may_ask_that_each_response_was_seen(
    session: AsyncSession, rater: User
) -> None:
    project = await create_project(session, gold_rate=0, require_seen=True)
    await create_tasks(session, project, 2, candidates=3)
    lease = await lease_of(session, project, rater)
    ids = [each.id for each in lease.candidates]
    with pytest.raises(InvalidInput, match="to their end: A, C"):
        await submit_ranking(session, lease.assignment_id, rater, in_order(lease, seen=ids[1:2]))
    with pytest.raises(InvalidInput, match="not a candidate"):
        strange = [*ids, lease.task_id]
        await submit_ranking(session, lease.assignment_id, rater, in_order(lease, seen=strange))
    await submit_ranking(session, lease.assignment_id, rater, in_order(lease, seen=ids))
    # A page without scripts cannot tell, and ranks all the same.
    await rank_next(session, project, rater)


# --- notes


async def test_a_note_is_read_by_admins_until_they_are_done_with_it(
    session: AsyncSession, client: httpx.AsyncClient, rater: User
) -> None:
    project = await create_project(session, gold_rate=0)
    await create_tasks(session, project, 1, candidates=2, prompt="Which one?")
    lease = await lease_of(session, project, rater)
    token = await sign_in(client, session, rater)
    address = f"/rate/assignments/{lease.assignment_id}/note"
    form = {"csrf_token": token, "kind": "ambiguous", "text": "Which <b>what</b>?"}
    for _ in range(2):  # a double click
        answer = await client.post(address, data=form, headers={"Accept": "application/json"})
        assert answer.json() == {"noted": True}
    for wrong in ({"kind": "other", "text": " "}, {"kind": "nonsense", "text": "x"}):
        assert (await client.post(address, data=form | wrong)).status_code == 422
    (stored,) = await session.scalars(select(TaskNote))
    admin = await create_user(session, Role.ADMIN)
    token = await sign_in(client, session, admin)
    prompt = await session.scalar(select(Task.prompt_id))
    page = f"/admin/projects/{project.slug}/notes"
    for shown in (page, f"/admin/projects/{project.slug}/prompts/{prompt}"):
        text = (await client.get(shown)).text
        assert "Which &lt;b&gt;what&lt;/b&gt;?" in text
        assert "ambiguous" in text
    assert await notes.count_notes(session, project) == (1, 1)
    done = {"csrf_token": token, "note": str(stored.id), "resolved": "true"}
    assert (await client.post(page, data=done)).status_code == 303
    assert await notes.count_notes(session, project) == (0, 1)
    # Once they are done, the same may be said again.
    await notes.create_note(
        session, lease.assignment_id, rater, NoteKind.AMBIGUOUS, "Which <b>what</b>?"
    )
    assert await notes.count_notes(session, project) == (1, 2)


# --- own books


async def test_a_time_sheet_adds_up_and_makes_no_time_up(
    session: AsyncSession, client: httpx.AsyncClient, rater: User
) -> None:
    project = await create_project(session, gold_rate=0)
    await create_tasks(session, project, 3, candidates=2)
    for seconds in (30, 60.5, None):
        lease = await lease_of(session, project, rater)
        given = in_order(lease, seconds=seconds)
        await submit_ranking(session, lease.assignment_id, rater, given)
    await sign_in(client, session, rater)
    answer = await client.get("/rate/history/time-sheet/csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    (row,) = csv.DictReader(io.StringIO(answer.text))
    assert row["project"] == project.slug
    assert (row["rankings"], row["minutes"], row["rankings_without_time"]) == ("3", "1.51", "1")


async def test_what_is_left_is_told_in_the_raters_own_time(
    session: AsyncSession, client: httpx.AsyncClient, rater: User
) -> None:
    project = await create_project(session, gold_rate=0)
    await create_tasks(session, project, 31, candidates=2)
    await sign_in(client, session, rater)
    lease = await lease_of(session, project, rater)
    await submit_ranking(session, lease.assignment_id, rater, in_order(lease, seconds=None))
    (row,) = [each for each in await list_projects_with_work(session, rater) if each.own]
    assert (row.left, estimate_minutes(row)) == (30, None)
    await session.execute(update(Ranking).values(seconds=40))
    (row,) = [each for each in await list_projects_with_work(session, rater) if each.own]
    assert estimate_minutes(row) == 20


async def test_own_gold_results_are_told_where_the_project_lets_them_be(
    session: AsyncSession, client: httpx.AsyncClient, rater: User
) -> None:
    project = await create_project(session, gold_rate=1)
    await create_tasks(session, project, 2, candidates=2, gold=True, ranks=[1, 2])
    for _ in range(2):
        await rank_next(session, project, rater)
    assert await history.list_own_gold(session, rater) == []
    await session.execute(
        update(Project).where(Project.id == project.id).values(show_gold_results=True)
    )
    (found,) = await history.list_own_gold(session, rater)
    assert (found.project, found.answers, found.pairs) == (project.name, 2, 2)
    await sign_in(client, session, rater)
    text = (await client.get("/rate/history")).text
    assert "2 answers" in text


async def test_a_put_off_assignment_is_marked_and_free(session: AsyncSession, rater: User) -> None:
    project = await create_project(session, gold_rate=0)
    await create_tasks(session, project, 1, candidates=2)
    lease = await lease_of(session, project, rater)
    await assign.put_off(session, lease.assignment_id, rater)
    held = await session.get_one(Assignment, lease.assignment_id, populate_existing=True)
    assert (held.state, held.slot, held.deferred_at is None) == (
        AssignmentState.EXPIRED,
        None,
        False,
    )
    await lease_of(session, project, rater)
    await session.refresh(held)
    assert held.deferred_at is None
