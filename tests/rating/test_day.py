"""A rater's day: the next task prefetched, gold among the others, the test, changes of mind."""

import uuid

import httpx
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import Role, User
from app.errors import Conflict, InvalidInput, NotAllowed, NotFound
from app.projects.models import Project
from app.rating import assign, history, qualification
from app.rating.models import (
    Assignment,
    AssignmentState,
    Comparison,
    GuidelineReading,
    QualificationState,
    Ranking,
    RankingRevision,
    Task,
)
from app.rating.schemas import Lease, RankingIn
from app.rating.submit import revise_ranking, submit_ranking
from tests.factories.accounts import bearer, create_user
from tests.factories.projects import create_project
from tests.factories.rating import create_tasks


@pytest.fixture
async def rater(session: AsyncSession) -> User:
    return await create_user(session)


def given(lease: Lease, *ranks: int, **more: object) -> RankingIn:
    ids = [each.id for each in lease.candidates]
    return RankingIn.model_validate({"ranks": dict(zip(ids, ranks, strict=True)), **more})


async def lease_of(session: AsyncSession, project: Project, rater: User) -> Lease:
    lease = await assign.lease_next_task(session, project, rater)
    assert lease is not None
    return lease


async def task_of(session: AsyncSession, lease: Lease) -> Task:
    return await session.get_one(Task, lease.task_id, populate_existing=True)


# --- the next task, prefetched


async def test_the_prefetched_task_is_the_next_one(session: AsyncSession, rater: User) -> None:
    project = await create_project(session)
    await create_tasks(session, project, 3, candidates=2)
    first = await lease_of(session, project, rater)
    prefetched = await assign.lease_next_task(session, project, rater, prefetch=True)
    again = await assign.lease_next_task(session, project, rater, prefetch=True)
    assert prefetched is not None
    assert again == prefetched
    assert (await lease_of(session, project, rater)).assignment_id == first.assignment_id
    await submit_ranking(session, first.assignment_id, rater, given(first, 1, 2))
    assert (await lease_of(session, project, rater)).assignment_id == prefetched.assignment_id
    held = await session.get_one(Assignment, prefetched.assignment_id, populate_existing=True)
    assert not held.prefetched


async def test_a_prefetched_task_is_nobody_elses_until_it_runs_out(
    session: AsyncSession, rater: User
) -> None:
    project = await create_project(session)
    await create_tasks(session, project, 2, candidates=2)
    await lease_of(session, project, rater)
    prefetched = await assign.lease_next_task(session, project, rater, prefetch=True)
    assert prefetched is not None
    other = await create_user(session)
    assert await assign.lease_next_task(session, project, other) is None
    past = func.now() - func.make_interval(0, 0, 0, 0, 0, 1)
    await session.execute(
        update(Assignment).where(Assignment.id == prefetched.assignment_id).values(expires_at=past)
    )
    found = await lease_of(session, project, other)
    assert found.task_id == prefetched.task_id
    assert await assign.promote(session, prefetched.assignment_id, rater) is None


async def test_what_was_prefetched_can_be_ranked_at_once(
    session: AsyncSession, rater: User
) -> None:
    project = await create_project(session)
    await create_tasks(session, project, 2, candidates=2)
    first = await lease_of(session, project, rater)
    prefetched = await assign.lease_next_task(session, project, rater, prefetch=True)
    assert prefetched is not None
    await submit_ranking(session, prefetched.assignment_id, rater, given(prefetched, 1, 2))
    assert (await lease_of(session, project, rater)).assignment_id == first.assignment_id


# --- order and gold


async def test_urgent_first_then_what_few_have_had_then_the_oldest(session: AsyncSession) -> None:
    project = await create_project(session, overlap=2, gold_rate=0)
    await create_tasks(session, project, 2, candidates=2)
    await create_tasks(session, project, 1, candidates=2, priority=5)
    raters = [await create_user(session) for _ in range(3)]
    order = list(await session.scalars(select(Task.id).order_by(Task.priority.desc(), Task.id)))
    taken = []
    for _ in range(2):
        for rater in raters:
            lease = await lease_of(session, project, rater)
            taken.append(order.index(lease.task_id))
            await submit_ranking(session, lease.assignment_id, rater, given(lease, 1, 2))
    # The urgent one is filled first; of the others each has its first ranking before one has its second.
    assert taken[:2] == [0, 0]
    assert sorted(taken[2:4]) == [1, 2]
    assert sorted(taken[4:]) == [1, 2]


async def test_gold_is_mixed_in_at_the_projects_rate(session: AsyncSession, rater: User) -> None:
    project = await create_project(session, gold_rate=0.5)
    await create_tasks(session, project, 40, candidates=2)
    await create_tasks(session, project, 40, candidates=2, gold=True, ranks=[1, 2])
    gold = 0
    for _ in range(40):
        lease = await lease_of(session, project, rater)
        gold += (await task_of(session, lease)).gold
        await submit_ranking(session, lease.assignment_id, rater, given(lease, 1, 2))
    assert 8 <= gold <= 32  # 40 draws of a half: beyond this one time in ten thousand


async def test_without_a_rate_gold_waits_until_nothing_else_is_left(
    session: AsyncSession, rater: User
) -> None:
    project = await create_project(session, gold_rate=0, overlap=1)
    await create_tasks(session, project, 1, candidates=2, gold=True, ranks=[1, 2])
    await create_tasks(session, project, 2, candidates=2)
    seen = []
    for _ in range(3):
        lease = await lease_of(session, project, rater)
        seen.append((await task_of(session, lease)).gold)
        await submit_ranking(session, lease.assignment_id, rater, given(lease, 1, 2))
    assert seen == [False, False, True]
    progress = await history.get_progress(session, project)
    assert (progress.ready, progress.rated) == (0, 3)
    # As many have had it as other tasks get: at the end of the queue nobody else is asked.
    other = await create_user(session)
    assert await assign.lease_next_task(session, project, other) is None


async def test_at_a_rate_of_one_every_rater_gets_every_gold_task(session: AsyncSession) -> None:
    project = await create_project(session, gold_rate=1, overlap=1)
    await create_tasks(session, project, 1, candidates=2, gold=True, ranks=[1, 2])
    for _ in range(5):
        lease = await lease_of(session, project, await create_user(session))
        assert (await task_of(session, lease)).gold


# --- the test


async def create_tested_project(session: AsyncSession, tasks: int = 2) -> Project:
    project = await create_project(
        session, qualification_tasks=tasks, qualification_accuracy=0.75, gold_rate=0
    )
    await create_tasks(session, project, 3, candidates=2)
    await create_tasks(session, project, 3, candidates=3, gold=True, ranks=[1, 2, 3])
    return project


async def answer(session: AsyncSession, project: Project, rater: User, *, rightly: bool) -> Lease:
    lease = await lease_of(session, project, rater)
    gold = (await task_of(session, lease)).gold_ranks
    assert gold is not None
    ranks = [gold[str(each.id)] for each in lease.candidates]
    wanted = given(lease, *(ranks if rightly else [4 - rank for rank in ranks]))
    await submit_ranking(session, lease.assignment_id, rater, wanted)
    return lease


async def test_who_passes_the_test_goes_on_to_the_others(
    session: AsyncSession, rater: User
) -> None:
    project = await create_tested_project(session)
    first = await answer(session, project, rater, rightly=True)
    assert first.qualification
    assert await assign.lease_next_task(session, project, rater, prefetch=True) is None
    told = await qualification.get_feedback(session, project, rater, first.assignment_id)
    assert told is not None
    assert (told.own, told.right, told.pairs, told.done, told.passed) == (told.gold, 3, 3, 1, None)
    second = await answer(session, project, rater, rightly=True)
    told = await qualification.get_feedback(session, project, rater, second.assignment_id)
    assert told is not None
    assert (told.done, told.passed, told.accuracy) == (2, True, 1)
    after = await lease_of(session, project, rater)
    assert not after.qualification
    assert not (await task_of(session, after)).gold
    assert await qualification.get_feedback(session, project, rater, after.assignment_id) is None


async def test_who_fails_is_told_and_gets_nothing_until_an_admin_says_so(
    client: httpx.AsyncClient, session: AsyncSession, rater: User
) -> None:
    project = await create_tested_project(session)
    await answer(session, project, rater, rightly=True)
    last = await answer(session, project, rater, rightly=False)
    told = await qualification.get_feedback(session, project, rater, last.assignment_id)
    assert told is not None
    assert (told.passed, told.accuracy, told.right) == (False, 0.5, 0)
    with pytest.raises(NotAllowed, match="not passed"):
        await assign.lease_next_task(session, project, rater)
    headers = await bearer(session, rater)
    refused = await client.post(f"/api/v1/projects/{project.slug}/assignments", headers=headers)
    assert refused.status_code == 403
    admin = await create_user(session, Role.ADMIN)
    passed = QualificationState.PASSED
    await qualification.set_qualification(session, project, rater.id, passed, actor=admin.id)
    assert not (await lease_of(session, project, rater)).qualification


async def test_a_test_with_too_few_gold_tasks_is_decided_by_those_there_are(
    session: AsyncSession, rater: User
) -> None:
    project = await create_tested_project(session, tasks=10)
    for _ in range(3):
        await answer(session, project, rater, rightly=True)
    assert not (await lease_of(session, project, rater)).qualification


async def test_the_test_can_be_made_again_with_the_gold_tasks_that_are_left(
    session: AsyncSession, rater: User
) -> None:
    project = await create_tested_project(session)
    for _ in range(2):
        await answer(session, project, rater, rightly=False)
    admin = await create_user(session, Role.ADMIN)
    await qualification.set_qualification(session, project, rater.id, None, actor=admin.id)
    again = await answer(session, project, rater, rightly=True)
    assert again.qualification
    assert not (await lease_of(session, project, rater)).qualification


def test_ties_are_half_right_and_gold_ties_ask_nothing() -> None:
    from app.rating.judgement import count_right

    gold = {"a": 1, "b": 2, "c": 2}
    assert count_right({"a": 1, "b": 2, "c": 3}, gold) == (2, 2)
    assert count_right({"a": 1, "b": 1, "c": 2}, gold) == (1.5, 2)
    assert count_right({"a": 3, "b": 1, "c": 2}, gold) == (0, 2)


# --- changes of mind


async def test_a_stored_ranking_may_be_changed_and_what_it_said_is_kept(
    session: AsyncSession, rater: User
) -> None:
    project = await create_project(session)
    await create_tasks(session, project, 1, candidates=3)
    lease = await lease_of(session, project, rater)
    ids = [each.id for each in lease.candidates]
    first = await submit_ranking(
        session, lease.assignment_id, rater, given(lease, 1, 2, 3, rationale="so")
    )
    changed = given(lease, 3, 1, 1, rationale="no, so")
    second = await revise_ranking(session, first.id, rater, changed)
    assert second.id == first.id
    assert second.ranks == {str(ids[0]): 3, str(ids[1]): 1, str(ids[2]): 1}
    assert second.revised_at is not None
    margins = await session.scalars(
        select(Comparison.margin).where(Comparison.ranking_id == first.id)
    )
    assert sorted(margins) == [0, 1, 1]  # by dense ranks
    (kept,) = (await session.scalars(select(RankingRevision))).all()
    assert kept.content["ranks"] == first.ranks
    assert kept.content["rationale"] == "so"
    await revise_ranking(session, first.id, rater, changed)  # the same again
    assert await session.scalar(select(func.count()).select_from(RankingRevision)) == 1


async def test_changes_have_their_time_and_their_rater(session: AsyncSession, rater: User) -> None:
    project = await create_project(session, edit_seconds=60)
    await create_tasks(session, project, 1, candidates=2)
    lease = await lease_of(session, project, rater)
    stored = await submit_ranking(session, lease.assignment_id, rater, given(lease, 1, 2))
    other = await create_user(session)
    with pytest.raises(NotFound):
        await revise_ranking(session, stored.id, other, given(lease, 2, 1))
    with pytest.raises(InvalidInput):
        await revise_ranking(session, stored.id, rater, given(lease, 2, 2))
    assert (await history.get_own_ranking(session, rater, stored.id)).open_until is not None
    long_ago = func.now() - func.make_interval(0, 0, 0, 0, 0, 2)
    await session.execute(
        update(Ranking).where(Ranking.id == stored.id).values(created_at=long_ago)
    )
    await session.refresh(await session.get_one(Ranking, stored.id))
    assert (await history.get_own_ranking(session, rater, stored.id)).open_until is None
    with pytest.raises(Conflict, match="no longer"):
        await revise_ranking(session, stored.id, rater, given(lease, 2, 1))


async def test_an_answer_of_the_test_stays_as_it_was(session: AsyncSession, rater: User) -> None:
    project = await create_tested_project(session)
    lease = await answer(session, project, rater, rightly=False)
    stored = await session.scalar(
        select(Ranking).where(Ranking.assignment_id == lease.assignment_id)
    )
    assert stored is not None
    with pytest.raises(Conflict, match="no longer"):
        await revise_ranking(session, stored.id, rater, given(lease, 1, 2, 3))


# --- strength, scores of each response, "none is good"


async def test_the_strength_of_a_preference_is_its_margin(
    client: httpx.AsyncClient, session: AsyncSession, rater: User
) -> None:
    project = await create_project(session)
    await create_tasks(session, project, 1, candidates=2)
    lease = await lease_of(session, project, rater)
    headers = await bearer(session, rater)
    ids = [str(each.id) for each in lease.candidates]
    address = f"/api/v1/assignments/{lease.assignment_id}/ranking"
    tie = {"ranks": {ids[0]: 1, ids[1]: 1}, "strength": 2}
    assert (await client.put(address, json=tie, headers=headers)).status_code == 422
    body = {"ranks": {ids[0]: 2, ids[1]: 1}, "strength": 3, "flags": ["none-is-good"]}
    for _ in range(2):
        stored = await client.put(address, json=body, headers=headers)
        assert stored.status_code == 200
        assert (stored.json()["strength"], stored.json()["flags"]) == (3, ["none-is-good"])
    weaker = await client.put(address, json=body | {"strength": 1}, headers=headers)
    assert weaker.status_code == 409
    assert await session.scalar(select(Comparison.margin)) == 3


async def test_strength_is_for_two(session: AsyncSession, rater: User) -> None:
    project = await create_project(session)
    await create_tasks(session, project, 1, candidates=3)
    lease = await lease_of(session, project, rater)
    with pytest.raises(InvalidInput, match="two candidates"):
        await submit_ranking(session, lease.assignment_id, rater, given(lease, 1, 2, 3, strength=2))


async def test_an_axis_is_about_the_best_response_or_about_each(
    session: AsyncSession, rater: User
) -> None:
    project = await create_project(
        session,
        axes=[
            {"name": "helpful", "min": 1, "max": 5, "per": "response"},
            {"name": "sure", "min": 1, "max": 5},
        ],
    )
    await create_tasks(session, project, 1, candidates=2)
    lease = await lease_of(session, project, rater)
    ids = [str(each.id) for each in lease.candidates]
    for wrong in (
        {"helpful": 3},
        {"sure": {ids[0]: 3}},
        {"helpful": {str(uuid.uuid4()): 3}},
        {"helpful": {ids[0]: 6}},
    ):
        with pytest.raises(InvalidInput, match=r"takes|candidate|scale"):
            await submit_ranking(
                session, lease.assignment_id, rater, given(lease, 1, 2, axes=wrong)
            )
    axes = {"helpful": {ids[0]: 5, ids[1]: 2}, "sure": 4}
    stored = await submit_ranking(
        session, lease.assignment_id, rater, given(lease, 1, 2, axes=axes)
    )
    assert stored.axes == axes
    own = await history.get_own_ranking(session, rater, stored.id)
    assert own.axes == {"helpful": {"A": 5, "B": 2}, "sure": 4}


# --- guidelines


async def test_the_newest_version_that_was_read_is_remembered(
    session: AsyncSession, rater: User
) -> None:
    from app.projects.service import publish_guidelines

    project = await create_project(session, guidelines="one")

    async def reading() -> GuidelineReading:
        return await session.get_one(GuidelineReading, (project.id, rater.id))

    assert await qualification.get_version_read(session, project, rater) == 0
    await qualification.read_guidelines(session, project, rater, 7)  # there is no such version yet
    await session.refresh(await reading())
    assert await qualification.get_version_read(session, project, rater) == 1
    await publish_guidelines(session, project, "two")
    await qualification.read_guidelines(session, project, rater, 2)
    await qualification.read_guidelines(session, project, rater, 1)
    await session.refresh(await reading())
    assert await qualification.get_version_read(session, project, rater) == 2


async def test_a_skipped_test_task_is_not_counted(session: AsyncSession, rater: User) -> None:
    project = await create_tested_project(session)
    lease = await lease_of(session, project, rater)
    await assign.skip(session, lease.assignment_id, rater, "unclear")
    held = await session.get_one(Assignment, lease.assignment_id, populate_existing=True)
    assert held.state is AssignmentState.SKIPPED
    for _ in range(2):
        await answer(session, project, rater, rightly=True)
    assert not (await lease_of(session, project, rater)).qualification
