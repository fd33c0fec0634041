"""Random days of three raters on three tasks, held against a plain model of the table of states.

Each step is one operation, or two at once in sessions of their own, on the real PostgreSQL. The model
(`Model`) is the table in `app.rating.models`, in Python and without a database: it says what an operation
answers and how everything stands afterwards. Two at once must come out as one after the other, in either
order; only which task a lease gets may differ, since a lease passes over what others hold locked.
"""

import asyncio
import copy
import uuid
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.accounts.models import User
from app.db.engine import SessionMaker, create_engine, create_sessions
from app.errors import Conflict, NotFound
from app.projects.models import Project
from app.rating import assign
from app.rating.history import get_progress
from app.rating.models import Assignment, AssignmentState, Ranking, Task
from app.rating.schemas import DraftIn, RankingIn
from app.rating.submit import submit_ranking
from tests.factories.accounts import create_user
from tests.factories.projects import create_project
from tests.factories.rating import create_tasks
from tests.rating.test_engine import INVARIANTS

RATERS = 3
OVERLAPS = (1, 2, 2)
PRIORITIES = (0, 0, 5)

LEASED, SUBMITTED = AssignmentState.LEASED, AssignmentState.SUBMITTED
SKIPPED, EXPIRED, SURPLUS = (
    AssignmentState.SKIPPED,
    AssignmentState.EXPIRED,
    AssignmentState.SURPLUS,
)


@dataclass(frozen=True)
class Act:
    """Something that a rater does. `task` and `rater` name the assignment that it is done to."""

    kind: str
    rater: int
    task: int = 0
    prefetch: bool = False
    answer: int = 0


@dataclass
class Hold:
    """One rater's assignment of one task, as the model has it."""

    state: AssignmentState
    slot: int | None
    prefetched: bool = False
    expired: bool = False
    answer: int | None = None


@dataclass
class Model:
    """The table of states. `strict`: leases come in the project's order; else any task that is open."""

    holds: dict[tuple[int, int], Hold] = field(default_factory=dict)
    paused: bool = False

    def open_slots(self, task: int) -> int:
        """The task's slots that nobody has."""
        return OVERLAPS[task] - len(self.taken(task))

    def taken(self, task: int) -> set[int]:
        """The numbers of the task's slots that somebody has."""
        found = {hold.slot for (which, _), hold in self.holds.items() if which == task}
        return {slot for slot in found if slot is not None}

    def lowest_free(self, task: int) -> int:
        """The slot that the next one gets."""
        return min(set(range(1, OVERLAPS[task] + 1)) - self.taken(task))

    def sweep(self) -> None:
        """Leases that ran out give their slots back."""
        for hold in self.holds.values():
            if hold.state == LEASED and hold.expired:
                hold.state, hold.slot = EXPIRED, None

    def lease(self, act: Act, got: int | None, *, strict: bool) -> bool:
        """Whether the lease may have got this task (None: nothing), which is then so."""
        own = {
            hold.prefetched: task
            for (task, rater), hold in self.holds.items()
            if rater == act.rater and hold.state == LEASED
        }
        task = own.get(True) if act.prefetch else own.get(False, own.get(True))
        if task is not None:
            hold = self.holds[task, act.rater]
            if self.paused and hold.prefetched and not act.prefetch:
                # Its turn comes, and a paused project gives nothing new: it goes back.
                hold.state, hold.slot, hold.prefetched = EXPIRED, None, False
                return got is None
            if hold.expired or (hold.prefetched and not act.prefetch):
                hold.expired = False
            hold.prefetched = act.prefetch
            return got == task
        if self.paused:
            return got is None
        if any(
            hold.state == LEASED and hold.expired and rater != act.rater
            for (_, rater), hold in self.holds.items()
        ):
            self.sweep()
        choices = [
            task
            for task in range(len(OVERLAPS))
            if self.open_slots(task) > 0
            and (
                (task, act.rater) not in self.holds or self.holds[task, act.rater].state == EXPIRED
            )
        ]
        if got is None:
            return not choices
        choices.sort(key=lambda task: (-PRIORITIES[task], len(self.taken(task)), task))
        if got not in (choices[:1] if strict else choices):
            return False
        self.holds[got, act.rater] = Hold(LEASED, self.lowest_free(got), prefetched=act.prefetch)
        return True

    def submit(self, act: Act) -> str:
        """What a ranking is answered with."""
        hold = self.holds.get((act.task, act.rater))
        if hold is None:
            return "not found"
        if hold.state in (LEASED, EXPIRED):
            if hold.state == EXPIRED and self.open_slots(act.task) > 0:
                hold.slot = self.lowest_free(act.task)
            hold.state = SURPLUS if hold.slot is None else SUBMITTED
            hold.answer = act.answer
        if hold.answer != act.answer:
            return "conflict"
        return "kept as a surplus one" if hold.state == SURPLUS else "stored"

    def skip(self, act: Act) -> str:
        """What giving back is answered with."""
        hold = self.holds.get((act.task, act.rater))
        if hold is None:
            return "not found"
        if hold.state in (SUBMITTED, SURPLUS):
            return "conflict"
        hold.state, hold.slot = SKIPPED, None
        return "done"

    def draft(self, act: Act) -> str:
        """What saving a draft is answered with; it renews a lease."""
        hold = self.holds.get((act.task, act.rater))
        if hold is None:
            return "not found"
        if hold.state not in (LEASED, EXPIRED):
            return "conflict"
        hold.expired = False
        return "done"

    def accept(self, act: Act, outcome: Any, *, strict: bool) -> bool:
        """Whether the operation may have come out so; the model stands as after it."""
        if act.kind == "lease":
            return self.lease(act, outcome, strict=strict)
        if act.kind == "sweep":
            self.sweep()
            return bool(outcome == "done")
        answers = {"submit": self.submit, "skip": self.skip, "draft": self.draft}
        return bool(answers[act.kind](act) == outcome)

    def picture(self) -> dict[Any, Any]:
        """How everything stands, as `World.picture` tells it of the database."""
        return {
            pair: (hold.state, hold.slot, hold.prefetched, hold.answer)
            for pair, hold in self.holds.items()
        } | {task: self.open_slots(task) for task in range(len(OVERLAPS))}


class World:
    """The real engine: a project, its tasks and raters, on several connections."""

    def __init__(self, sessions: SessionMaker) -> None:
        self.sessions = sessions
        self.ids: dict[tuple[int, int], uuid.UUID] = {}

    async def build(self) -> None:
        """A project of its own for each day."""
        async with self.sessions() as session:
            project = await create_project(session, lease_seconds=600)
            for overlap, priority in zip(OVERLAPS, PRIORITIES, strict=True):
                project.overlap = overlap
                await create_tasks(session, project, candidates=2, priority=priority)
            self.raters: list[User] = [await create_user(session) for _ in range(RATERS)]
            tasks = select(Task).where(Task.project_id == project.id).order_by(Task.id)
            self.tasks = [task.id for task in await session.scalars(tasks)]
            self.project_id = project.id
            await session.commit()

    async def do(self, act: Act) -> Any:
        """Carry an operation out in a session of its own: what it answers, in the model's words."""
        async with self.sessions() as session:
            try:
                answer = await self._do(session, act)
            except NotFound:
                return "not found"
            except Conflict:
                return "conflict"
            await session.commit()
            return answer

    async def _do(self, session: AsyncSession, act: Act) -> Any:
        rater = self.raters[act.rater]
        project = await session.get_one(Project, self.project_id)
        assignment = self.ids.get((act.task, act.rater), uuid.UUID(int=0))
        match act.kind:
            case "lease":
                lease = await assign.lease_next_task(session, project, rater, prefetch=act.prefetch)
                if lease is None:
                    return None
                task = self.tasks.index(lease.task_id)
                assert (
                    self.ids.setdefault((task, act.rater), lease.assignment_id)
                    == lease.assignment_id
                )
                return task
            case "submit":
                presented = await self._presented(session, assignment)
                ranks = dict(zip(presented, (1, 1 + act.answer), strict=False))
                given = RankingIn(ranks=ranks or {uuid.uuid4(): 1})
                stored = await submit_ranking(session, assignment, rater, given)
                return "kept as a surplus one" if stored.surplus else "stored"
            case "skip":
                await assign.skip(session, assignment, rater, "hard to say")
            case "draft":
                await assign.save_draft(session, assignment, rater, DraftIn(rationale="so far"))
            case "sweep":
                await get_progress(session, project)
        return "done"

    async def _presented(self, session: AsyncSession, assignment: uuid.UUID) -> list[uuid.UUID]:
        found = await session.get(Assignment, assignment)
        return sorted(found.presented) if found else []

    async def set(self, statement: Any) -> None:
        """Change something that no rater changes."""
        async with self.sessions() as session:
            await session.execute(statement)
            await session.commit()

    async def lapse(self, task: int, rater: int) -> None:
        """Let the time of a lease pass."""
        await self.set(
            update(Assignment)
            .where(
                Assignment.id == self.ids.get((task, rater), uuid.UUID(int=0)),
                Assignment.state == LEASED,
            )
            .values(expires_at=func.now() - timedelta(seconds=1))
        )

    async def pause(self, paused: bool) -> None:
        """Stop or go on."""
        await self.set(update(Project).where(Project.id == self.project_id).values(paused=paused))

    async def picture(self) -> dict[Any, Any]:
        """How everything stands; the invariants are checked on the way."""
        async with self.sessions() as session:
            for name, query in INVARIANTS.items():
                assert list(await session.execute(text(query))) == [], name
            pairs = {assignment: pair for pair, assignment in self.ids.items()}
            rows = await session.execute(
                select(Assignment, Ranking)
                .outerjoin(Ranking, Ranking.assignment_id == Assignment.id)
                .where(Assignment.project_id == self.project_id)
            )
            found: dict[Any, Any] = {
                pairs[assignment.id]: (
                    assignment.state,
                    assignment.slot,
                    assignment.prefetched,
                    max(ranking.ranks.values()) - 1 if ranking else None,
                )
                for assignment, ranking in rows
            }
            tasks = await session.scalars(select(Task).where(Task.id.in_(self.tasks)))
            return found | {self.tasks.index(task.id): task.open_slots for task in tasks}


WHO = st.integers(0, RATERS - 1)
WHICH = st.integers(0, len(OVERLAPS) - 1)
ACTS = st.one_of(
    st.builds(Act, st.just("lease"), WHO, prefetch=st.booleans()),
    st.builds(Act, st.just("lease"), WHO),
    st.builds(Act, st.just("submit"), WHO, WHICH, answer=st.integers(0, 1)),
    st.builds(Act, st.just("skip"), WHO, WHICH),
    st.builds(Act, st.just("draft"), WHO, WHICH),
    st.builds(Act, st.just("sweep"), WHO),
)


def day_of_raters(runner: asyncio.Runner, sessions: SessionMaker) -> type[RuleBasedStateMachine]:
    """The machine, on this database. Which rules may fire never hangs on how a race came out."""

    class Day(RuleBasedStateMachine):
        @initialize()
        def begin(self) -> None:
            self.world, self.model = World(sessions), Model()
            runner.run(self.world.build())

        @rule(act=ACTS)
        def one_after_the_other(self, act: Act) -> None:
            outcome = runner.run(self.world.do(act))
            assert self.model.accept(act, outcome, strict=True), (act, outcome, self.model)
            self.compare()

        @rule(first=ACTS, second=ACTS)
        def two_at_once(self, first: Act, second: Act) -> None:
            async def both() -> tuple[Any, Any]:
                return await asyncio.gather(self.world.do(first), self.world.do(second))

            one, two = runner.run(both())
            picture = runner.run(self.world.picture())
            orders = [((first, one), (second, two)), ((second, two), (first, one))]
            for order in orders:
                after = copy.deepcopy(self.model)
                fits = all(after.accept(*step, strict=False) for step in order)
                if fits and after.picture() == picture:
                    self.model = after
                    return
            raise AssertionError(f"{orders[0]} fit in no order: {self.model}, then {picture}")

        @rule(task=WHICH, rater=WHO)
        def a_lease_runs_out(self, task: int, rater: int) -> None:
            runner.run(self.world.lapse(task, rater))
            hold = self.model.holds.get((task, rater))
            if hold is not None and hold.state == LEASED:
                hold.expired = True

        @rule(paused=st.booleans())
        def the_project_is_paused_or_goes_on(self, paused: bool) -> None:
            runner.run(self.world.pause(paused))
            self.model.paused = paused

        def compare(self) -> None:
            assert runner.run(self.world.picture()) == self.model.picture()

    return Day


@pytest.fixture
def on_the_database(fresh_database: str) -> Any:
    """(runner, sessions) of an event loop of the test's own: the machine's rules are plain functions."""
    with asyncio.Runner() as runner:
        engine: AsyncEngine = create_engine(fresh_database, pool_size=4)
        yield runner, create_sessions(engine)
        runner.run(engine.dispose())


@pytest.mark.slow
def test_whatever_raters_do_the_table_of_states_holds(
    on_the_database: tuple[asyncio.Runner, SessionMaker],
) -> None:
    run_state_machine_as_test(
        day_of_raters(*on_the_database),
        settings=settings(
            max_examples=60,
            stateful_step_count=25,
            deadline=None,
            database=None,  # how a race came out does not come back with its numbers
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def test_all_windows_of_a_rater_are_given_the_last_task(
    on_the_database: tuple[asyncio.Runner, SessionMaker],
) -> None:
    runner, sessions = on_the_database

    async def windows() -> None:
        for _ in range(8):
            async with sessions() as session:
                project = await create_project(session)
                await create_tasks(session, project)
                rater = await create_user(session)
                await session.commit()

            async def lease(project: Project = project, rater: User = rater) -> uuid.UUID | None:
                async with sessions() as session:
                    found = await assign.lease_next_task(session, project, rater)
                    await session.commit()
                    return found.assignment_id if found else None

            given = await asyncio.gather(*(lease() for _ in range(6)))
            assert len(set(given)) == 1
            assert given[0] is not None

    runner.run(windows())
