"""Many raters at once on the real database: no slot is held twice, no task goes over its overlap."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event, func, select, text, update

from app.accounts.models import User
from app.db.engine import SessionMaker, create_engine, create_sessions
from app.db.types import utc_now
from app.errors import Conflict, Unavailable
from app.main import create_app
from app.projects.models import Project
from app.rating import assign
from app.rating.judgement import compare
from app.rating.models import Assignment, AssignmentState, Comparison, Ranking, Task
from app.rating.schemas import Lease, RankingIn
from app.rating.submit import submit_ranking
from app.settings import Settings
from tests.factories.accounts import bearer, create_user
from tests.factories.projects import create_project
from tests.factories.rating import create_tasks


@pytest.fixture
async def sessions(fresh_database: str) -> AsyncIterator[SessionMaker]:
    engine = create_engine(fresh_database, pool_size=20)
    yield create_sessions(engine)
    await engine.dispose()


def in_order(lease: Lease) -> RankingIn:
    return RankingIn(ranks={each.id: n for n, each in enumerate(lease.candidates, start=1)})


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
        WHERE a.state IN ('submitted', 'surplus') AND r.id IS NULL""",
    "a ranking without all its pairs": """
        SELECT r.id FROM rankings r LEFT JOIN comparisons c ON c.ranking_id = r.id
        GROUP BY r.id HAVING count(c.*) <>
            (SELECT count(*) * (count(*) - 1) / 2 FROM jsonb_object_keys(r.ranks))""",
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
            lease = await assign.lease_next_task(session, project, rater)
            await session.commit()
        if lease is None:
            return done
        chance = source.random()
        async with sessions() as session:
            if chance < 0.1:
                await assign.skip(session, lease.assignment_id, rater, "no")
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
                first = await submit_ranking(session, lease.assignment_id, rater, given)
                await session.commit()
                if chance > 0.8:
                    again = await submit_ranking(session, lease.assignment_id, rater, given)
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
        assert filled is not None
        assert filled >= 70


async def test_one_raters_two_windows_hold_one_task(sessions: SessionMaker) -> None:
    async with sessions() as session:
        project = await create_project(session, overlap=2)
        await create_tasks(session, project, 5)
        rater = await create_user(session)
        await session.commit()

    async def lease() -> uuid.UUID:
        async with sessions() as session:
            found = await assign.lease_next_task(session, project, rater)
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
        lease = await assign.lease_next_task(session, project, rater)
        await session.commit()
    assert lease is not None
    one, two = (each.id for each in lease.candidates)

    async def submit(ranks: dict[uuid.UUID, int]) -> bool:
        async with sessions() as session:
            try:
                await submit_ranking(session, lease.assignment_id, rater, RankingIn(ranks=ranks))
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


async def test_as_many_raters_as_slots_at_once_all_get_the_one_task(
    sessions: SessionMaker,
) -> None:
    async with sessions() as session:
        project = await create_project(session, overlap=16)
        await create_tasks(session, project, 1)
        raters = [await create_user(session) for _ in range(16)]
        await session.commit()

    async def lease(rater: User) -> bool:
        async with sessions() as session:
            found = await assign.lease_next_task(session, project, rater)
            await session.commit()
            return found is not None

    assert await asyncio.gather(*map(lease, raters)) == [True] * 16
    await check(sessions)


async def test_a_task_that_stays_locked_is_not_told_to_be_none(
    sessions: SessionMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assign, "LEASE_TRIES", 3)
    async with sessions() as session:
        project = await create_project(session)
        await create_tasks(session, project, 1)
        rater = await create_user(session)
        await session.commit()
    async with sessions() as holder, sessions() as session:
        await holder.execute(select(Task).with_for_update())
        with pytest.raises(Unavailable, match="try again"):
            await assign.lease_next_task(session, project, rater)
        await holder.rollback()
        assert await assign.lease_next_task(session, project, rater) is not None


async def test_a_ranking_on_its_way_hides_its_task_from_nobody(sessions: SessionMaker) -> None:
    async with sessions() as session:
        project = await create_project(session, overlap=2)
        await create_tasks(session, project, 1)
        first, second = await create_user(session), await create_user(session)
        await session.commit()
        lease = await assign.lease_next_task(session, project, first)
        await session.commit()
    assert lease is not None
    async with sessions() as one, sessions() as other:
        await submit_ranking(one, lease.assignment_id, first, in_order(lease))
        assert await assign.lease_next_task(other, project, second) is not None
        await other.commit()
        await one.commit()
    await check(sessions)


async def test_a_cycle_takes_few_round_trips(sessions: SessionMaker) -> None:
    async with sessions() as session:
        project = await create_project(session, gold_rate=0)
        await create_tasks(session, project, 2)
        rater = await create_user(session)
        await session.commit()
        statements: list[str] = []
        connection = (await session.connection()).sync_connection
        assert connection is not None
        event.listen(connection, "before_cursor_execute", lambda *seen: statements.append(seen[2]))
        lease = await assign.lease_next_task(session, project, rater)
        assert lease is not None
        assert len(statements) <= 3
        statements.clear()
        await submit_ranking(session, lease.assignment_id, rater, in_order(lease))
        assert len(statements) <= 4


async def test_an_answer_is_given_only_when_the_ranking_is_committed(
    sessions: SessionMaker, settings: Settings
) -> None:
    async with sessions() as session:
        project = await create_project(session)
        await create_tasks(session, project, 1)
        headers = await bearer(session, await create_user(session))
    app = create_app(settings)
    app.state.sessions = sessions
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        address = f"/api/v1/projects/{project.slug}/assignments"
        task = (await client.post(address, headers=headers)).json()
        ranks = {each["id"]: 1 for each in task["candidates"]}
        address = f"/api/v1/assignments/{task['id']}/ranking"
        answer = await client.put(address, headers=headers, json={"ranks": ranks})
    async with sessions() as another:
        stored = await another.scalar(select(Ranking))
        assert stored is not None
        assert str(stored.id) == answer.json()["id"]
        assert stored.ranks == ranks


@given(st.lists(st.integers(1, 9), min_size=2, max_size=9), st.booleans())
def test_the_pairs_of_a_ranking_say_what_it_says(ranks: list[int], keep_gaps: bool) -> None:
    by_id = {uuid.UUID(int=n): rank for n, rank in enumerate(ranks)}
    pairs = compare(by_id, keep_gaps=keep_gaps)
    if not keep_gaps:
        by_id = {each: len({r for r in ranks if r <= rank}) for each, rank in by_id.items()}
    assert len(pairs) == len(ranks) * (len(ranks) - 1) // 2
    assert len({frozenset((a, b)) for a, b, _ in pairs}) == len(pairs)
    assert all(by_id[worse] - by_id[better] == margin >= 0 for better, worse, margin in pairs)
    strict = {(a, b): m for a, b, m in pairs if m}
    for (a, b), one in strict.items():
        for (c, d), other in strict.items():
            if b == c:
                assert strict[a, d] == one + other
