"""Many raters at once on the real database: no slot is held twice, no task goes over its overlap."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select, text, update

from app.accounts.models import User
from app.db.engine import SessionMaker, create_engine, create_sessions
from app.db.types import utc_now
from app.errors import Conflict
from app.projects.models import Project
from app.rating import service
from app.rating.models import Assignment, AssignmentState, Comparison, Ranking, Task
from app.rating.schemas import RankingIn
from app.rating.service import compare
from tests.factories.accounts import create_user
from tests.factories.projects import create_project
from tests.factories.rating import create_tasks


@pytest.fixture
async def sessions(fresh_database: str) -> AsyncIterator[SessionMaker]:
    engine = create_engine(fresh_database, pool_size=20)
    yield create_sessions(engine)
    await engine.dispose()


# What must hold at every moment, whoever does what: each query finds nothing.
INVARIANTS = {
    "a task over its overlap": """
        SELECT t.id FROM tasks t JOIN assignments a ON a.task_id = t.id AND a.slot IS NOT NULL
        GROUP BY t.id HAVING count(*) > t.overlap""",
    "open slots that do not add up": """
        SELECT t.id FROM tasks t LEFT JOIN assignments a ON a.task_id = t.id AND a.slot IS NOT NULL
        GROUP BY t.id HAVING count(a.id) + t.open_slots <> t.overlap""",
    "a rater twice on a task": """
        SELECT task_id FROM rankings GROUP BY task_id, rater_id HAVING count(*) > 1""",
    "a submitted assignment without its ranking": """
        SELECT a.id FROM assignments a LEFT JOIN rankings r ON r.assignment_id = a.id
        WHERE a.state IN ('submitted', 'extra') AND r.id IS NULL""",
    "a ranking without all its pairs": """
        SELECT r.id FROM rankings r LEFT JOIN comparisons c ON c.ranking_id = r.id
        GROUP BY r.id HAVING count(c.*) <> cardinality(r.presented) * (cardinality(r.presented) - 1) / 2""",
}


async def check(sessions: SessionMaker) -> None:
    async with sessions() as session:
        for name, query in INVARIANTS.items():
            assert list(await session.execute(text(query))) == [], name


async def rate(sessions: SessionMaker, project: Project, rater: User, source: random.Random) -> int:
    """Work until nothing is left: rank, skip, let leases run out, submit late and twice."""
    done = 0
    for _ in range(200):
        async with sessions() as session:
            lease = await service.lease_next_task(session, project, rater)
            await session.commit()
        if lease is None:
            return done
        chance = source.random()
        async with sessions() as session:
            if chance < 0.1:
                await service.skip(session, lease.assignment_id, rater, "no")
            else:
                if chance < 0.25:  # too late
                    await session.execute(
                        update(Assignment)
                        .where(Assignment.id == lease.assignment_id)
                        .values(expires_at=utc_now())
                    )
                    await session.commit()
                    await asyncio.sleep(source.random() / 50)
                ranks = {each.id: n for n, each in enumerate(lease.candidates, start=1)}
                given = RankingIn(ranks=ranks)
                first = await service.submit_ranking(session, lease.assignment_id, rater, given)
                await session.commit()
                if chance > 0.8:
                    again = await service.submit_ranking(session, lease.assignment_id, rater, given)
                    assert again == first
                done += 1
            await session.commit()
    raise AssertionError("a rater never came to an end")


async def test_sixteen_raters_at_once_break_no_rule(sessions: SessionMaker) -> None:
    async with sessions() as session:
        project = await create_project(session, overlap=3)
        await create_tasks(session, project, 25)
        raters = [await create_user(session) for _ in range(16)]
        await session.commit()
    sources = [random.Random(number) for number in range(16)]
    done = await asyncio.gather(
        *(rate(sessions, project, r, s) for r, s in zip(raters, sources, strict=True))
    )
    await check(sessions)
    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(Ranking)) == sum(done)
        # A task whose last holder skipped it after everybody else had gone home may still be open.
        filled = await session.scalar(select(func.sum(Task.overlap - Task.open_slots)))
        kept = select(func.count()).select_from(Assignment)
        kept = kept.where(Assignment.state == AssignmentState.SUBMITTED)
        assert await session.scalar(kept) == filled
        assert filled >= 70


async def test_one_raters_two_windows_hold_one_task(sessions: SessionMaker) -> None:
    async with sessions() as session:
        project = await create_project(session, overlap=2)
        await create_tasks(session, project, 5)
        rater = await create_user(session)
        await session.commit()

    async def lease() -> uuid.UUID:
        async with sessions() as session:
            found = await service.lease_next_task(session, project, rater)
            await session.commit()
            assert found is not None
            return found.assignment_id

    assert len(set(await asyncio.gather(*(lease() for _ in range(8))))) == 1
    await check(sessions)


async def test_two_different_rankings_at_once_leave_one(sessions: SessionMaker) -> None:
    async with sessions() as session:
        project = await create_project(session)
        await create_tasks(session, project, 1, candidates=2)
        rater = await create_user(session)
        await session.commit()
        lease = await service.lease_next_task(session, project, rater)
        await session.commit()
    assert lease is not None
    one, two = (each.id for each in lease.candidates)

    async def submit(ranks: dict[uuid.UUID, int]) -> bool:
        async with sessions() as session:
            try:
                await service.submit_ranking(
                    session, lease.assignment_id, rater, RankingIn(ranks=ranks)
                )
            except Conflict:
                return False
            await session.commit()
            return True

    assert sorted(await asyncio.gather(submit({one: 1, two: 2}), submit({one: 2, two: 1}))) == [
        False,
        True,
    ]
    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(Comparison)) == 1


@given(st.lists(st.integers(1, 9), min_size=2, max_size=9))
def test_the_pairs_of_a_ranking_say_what_it_says(ranks: list[int]) -> None:
    by_id = {uuid.UUID(int=n): rank for n, rank in enumerate(ranks)}
    pairs = compare(by_id)
    assert len(pairs) == len(ranks) * (len(ranks) - 1) // 2
    assert len({frozenset((a, b)) for a, b, _ in pairs}) == len(pairs)
    assert all(by_id[worse] - by_id[better] == margin >= 0 for better, worse, margin in pairs)
    strict = {(a, b): m for a, b, m in pairs if m}
    for (a, b), one in strict.items():
        for (c, d), other in strict.items():
            if b == c:
                assert strict[a, d] == one + other
