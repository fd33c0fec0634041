"""Who gets which task next, and for how long they hold it: lease, draft, skip.

The states and their transitions are in `app.rating.models`; the database's constraints hold them.
"""

import asyncio
import random
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Row
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import User
from app.db.types import uuid7
from app.errors import Conflict, InvalidInput, NotAllowed, NotFound, Unavailable
from app.projects.models import Project
from app.prompts.models import Prompt
from app.rating import qualification, slots
from app.rating.models import GOLD_SLOTS, AssignmentState, QualificationState, Task
from app.rating.schemas import DraftIn, Lease, Shown

# A lease that finds every open task locked by others looks again, for about four seconds in all.
LEASE_TRIES = 40
SHORTEST_WAIT = 0.005  # seconds: about what a lease takes from its lock to its commit
LONGEST_WAIT = 0.1
# Assignments that may still be answered.
OPEN = (AssignmentState.LEASED, AssignmentState.EXPIRED)


async def open_task(session: AsyncSession, prompt_id: uuid.UUID) -> None:
    """Let raters have a prompt that has its candidates. Doing it twice changes nothing."""
    prompt = await session.get_one(Prompt, prompt_id)
    project = await session.get_one(Project, prompt.project_id)
    await session.execute(
        insert(Task)
        .values(
            project_id=project.id,
            prompt_id=prompt.id,
            priority=prompt.priority,
            overlap=project.overlap,
            open_slots=project.overlap,
        )
        .on_conflict_do_nothing(index_elements=[Task.prompt_id])
    )


async def lease_next_task(
    session: AsyncSession, project: Project, rater: User, *, ahead: bool = False
) -> Lease | None:
    """The rater's next task, or the one they hold already; None when nothing is left for them.

    With `ahead` it is the task after the present one, held for when that is done. A paused project gives
    nothing new; who holds a task of it may finish that. Where the project asks for a qualification, its
    test comes first, one task at a time. Raises Unavailable where what is left stays locked (that is not
    the same as nothing being left), NotAllowed after a test that was not passed.
    """
    for attempt in range(LEASE_TRIES):
        if attempt:
            # Whoever was quicker is about to commit; half the wait is drawn, so that the many who
            # wait for one task do not come back all at once.
            pause = min(SHORTEST_WAIT * 2**attempt, LONGEST_WAIT)
            await asyncio.sleep(pause * (1 + random.random()) / 2)  # noqa: S311 - no secret
        found = await slots.find_held_or_lapsed(session, project.id, rater.id)
        own = found.ahead if ahead else found.held or found.ahead
        if own is not None:
            taken_up = ahead or own == found.held or await take_up(session, own, rater)
            lease = await _get_held(session, own, project, rater) if taken_up else None
            if lease is not None:
                return lease
            continue
        test = is_tested(project, found.qualification)
        # Each answer of a test has its feedback first, and the last one decides: nothing goes ahead.
        if project.paused or (test and ahead):
            return None
        # Locks that a sweep took must not be kept while waiting for others'.
        savepoint = await session.begin_nested() if found.lapsed else None
        if savepoint is not None:
            await slots.free_lapsed_skip_locked(session, project.id)
        lease, nothing_left = await _lease_another(session, project, rater, ahead=ahead, test=test)
        if savepoint is not None:
            await (savepoint.commit() if lease or nothing_left else savepoint.rollback())
        if lease is not None:
            return lease
        if not nothing_left:
            continue
        # The last slot may have gone to another window of the rater's, or be in a sweep of somebody's.
        found = await slots.find_held_or_lapsed(session, project.id, rater.id)
        if found.lapsed or found.ahead or (found.held and not ahead):
            continue
        # A test for which there are too few gold tasks ends here, and others may follow.
        if not (test and await qualification.end_test(session, project, rater)):
            return None
    raise Unavailable(
        "Every open task is being handed out at this moment; try again", field="tasks"
    )


@dataclass(frozen=True)
class Standing:
    """What a rater holds in a project, and whether there is (probably) a task for them to take."""

    lease: Lease | None
    more: bool


async def get_standing(session: AsyncSession, project: Project, rater: User) -> Standing:
    """Where a rater stands. To look takes nothing and locks nothing, so it may be done by anybody's GET.

    A lease that has run out is not held: to go on with it is to take it again. Raises NotAllowed after a
    test that was not passed.
    """
    found = await slots.find_held_or_lapsed(session, project.id, rater.id)
    if found.held is not None:
        row = await slots.find_contents(session, found.held, rater.id)
        lease = lease_of(row) if row is not None else None
        if lease is not None and not lease.expired:
            return Standing(lease, more=True)
    if found.held or found.ahead:
        return Standing(None, more=True)
    test = is_tested(project, found.qualification)
    if project.paused:
        return Standing(None, more=False)
    # A test that has no further gold task ends with the next lease, so that others may follow.
    kinds = [(False, GOLD_SLOTS), (True, GOLD_SLOTS if test else project.overlap)]
    return Standing(None, more=found.lapsed or await _any_open(session, project, rater, kinds))


def is_tested(project: Project, state: str | None) -> bool:
    """Whether a rater's tasks are still those of the test. Raises NotAllowed after one not passed."""
    if project.qualification_tasks == 0 or state == QualificationState.PASSED:
        return False
    if state == QualificationState.FAILED:
        raise NotAllowed("You have not passed this project's test", field="qualification")
    return True


async def _lease_another(
    session: AsyncSession, project: Project, rater: User, *, ahead: bool, test: bool
) -> tuple[Lease | None, bool]:
    """(a new lease, whether nothing is left); neither where others hold the locks at this moment."""
    source = Draw()
    kinds = _kinds(project, test, source)
    task = await _lock_next(session, project, rater, kinds)
    if task is None:
        return None, not await _any_open(session, project, rater, kinds)
    return await _take(session, task, project, rater, source, ahead=ahead, test=test), False


class Draw(random.Random):
    """What is drawn for one assignment, from a seed that is stored with it."""

    def __init__(self) -> None:
        self.seed_used = secrets.randbits(62)
        super().__init__(self.seed_used)


# Which tasks to look among, in this order: (gold ones or others, those that at most so many have had).
Kinds = Sequence[tuple[bool, int]]


def _kinds(project: Project, test: bool, source: Draw) -> Kinds:
    """A test is of gold tasks alone; else they are mixed in at the project's rate.

    Where nothing else is left, gold tasks go to as many raters as others do.
    """
    if test:
        return [(True, GOLD_SLOTS)]
    if source.random() < project.gold_rate:
        return [(True, GOLD_SLOTS), (False, GOLD_SLOTS)]
    return [(False, GOLD_SLOTS), (True, project.overlap)]


async def _lock_next(
    session: AsyncSession, project: Project, rater: User, kinds: Kinds
) -> Row[Any] | None:
    for gold, shown_to in kinds:
        task = await slots.lock_next_task_skip_locked(
            session, project.id, rater.id, gold=gold, shown_to=shown_to
        )
        if task is not None:
            return task
    return None


async def _any_open(session: AsyncSession, project: Project, rater: User, kinds: Kinds) -> bool:
    for gold, shown_to in kinds:
        if await slots.has_open_task(session, project.id, rater.id, gold=gold, shown_to=shown_to):
            return True
    return False


async def take_up(session: AsyncSession, assignment_id: uuid.UUID, rater: User) -> uuid.UUID | None:
    """Go on to the task that was leased ahead: its id, or None where it is not held (any more)."""
    try:
        async with session.begin_nested():
            held = await slots.take_up(session, assignment_id, rater.id)
    except IntegrityError:  # another window was quicker
        return None
    return assignment_id if held else None


async def _get_held(
    session: AsyncSession, assignment_id: uuid.UUID, project: Project, rater: User
) -> Lease | None:
    """The lease that a rater holds; one past its time is renewed, or None if its slot just went."""
    row = await slots.find_contents(session, assignment_id, rater.id)
    if row is None or row.state not in OPEN:
        return None
    lease = lease_of(row)
    if not lease.expired:
        return lease
    end = await slots.renew(session, assignment_id, project.lease_seconds)
    return None if end is None else replace(lease, expires_at=end, expired=False)


async def _take(
    session: AsyncSession,
    task: Row[Any],
    project: Project,
    rater: User,
    source: Draw,
    *,
    ahead: bool,
    test: bool,
) -> Lease | None:
    """Put the rater on the lowest free slot of a locked task; None where they hold another by now."""
    texts = {uuid.UUID(each["id"]): each["text"] for each in task.candidates}
    presented = task.presented
    values = {
        "id": task.own_id or uuid7(),
        "task_id": task.task_id,
        "overlap": task.overlap,
        "guideline_version": project.guideline_version,
        "lease_seconds": project.lease_seconds,
        "ahead": ahead,
        "test": test,
    }
    if task.own_id is not None:  # it ran out: the same order, and the draft, again
        try:
            async with session.begin_nested():
                expires_at = await slots.take_slot_again(session, **values)
        except IntegrityError:
            return None
    else:
        presented = list(texts)
        source.shuffle(presented)
        expires_at = await slots.take_slot(
            session,
            **values,
            project_id=project.id,
            rater_id=rater.id,
            presented=presented,
            seed=source.seed_used,
        )
    if expires_at is None:
        return None
    return Lease(
        assignment_id=values["id"],
        task_id=task.task_id,
        project_slug=project.slug,
        expires_at=expires_at,
        messages=task.messages,
        candidates=[Shown(each, texts[each]) for each in presented],
        axes=project.axes,
        flags=project.flags,
        draft=task.draft,
        guideline_version=project.guideline_version,
        test=test,
    )


def no_such_assignment() -> NotFound:
    """What is said of an assignment that is not there, or is somebody else's."""
    return NotFound("You have no such assignment", field="assignment")


async def get_lease(session: AsyncSession, assignment_id: uuid.UUID, rater: User) -> Lease:
    """An assignment of this rater's, held or expired. Raises NotFound, Conflict when it is done."""
    row = await slots.find_contents(session, assignment_id, rater.id)
    if row is None:
        raise no_such_assignment()
    if row.state not in OPEN:
        raise Conflict(f"This assignment is {row.state}", field="assignment")
    return lease_of(row)


def lease_of(row: Row[Any]) -> Lease:
    """What a row of `slots.find_contents` says, as the page and the API take it."""
    texts = {uuid.UUID(each["id"]): each["text"] for each in row.candidates}
    return Lease(
        assignment_id=row.id,
        task_id=row.task_id,
        project_slug=row.slug,
        expires_at=row.expires_at,
        messages=row.messages,
        candidates=[Shown(each, texts[each]) for each in row.presented],
        axes=row.axes,
        flags=row.flags,
        draft=row.draft,
        guideline_version=row.guideline_version,
        test=row.test,
        expired=row.state == AssignmentState.EXPIRED or row.lapsed,
    )


async def get_texts(
    session: AsyncSession, assignment_id: uuid.UUID, rater: User
) -> dict[uuid.UUID, str]:
    """The texts of an assignment's candidates, whatever has become of it. Raises NotFound."""
    row = await slots.find_contents(session, assignment_id, rater.id)
    if row is None:
        raise no_such_assignment()
    return {each.id: each.text for each in lease_of(row).candidates}


async def save_draft(
    session: AsyncSession, assignment_id: uuid.UUID, rater: User, draft: DraftIn
) -> datetime:
    """Keep what the rater has put down so far, and renew the lease: they are at work.

    Returns when the lease runs out. One whose slot has gone keeps its draft too, but not the slot.
    Raises NotFound, Conflict when the assignment is done.
    """
    written = draft.model_dump_json()
    end: datetime | None = await slots.save_draft(session, assignment_id, rater.id, written)
    if end is None:
        found = await slots.find_assignment(session, assignment_id, rater.id)
        if found is None:
            raise no_such_assignment()
        raise Conflict(f"This assignment is {found.state} already", field="assignment")
    return end


async def skip(session: AsyncSession, assignment_id: uuid.UUID, rater: User, reason: str) -> str:
    """Give a task back, with the reason; somebody else gets it, this rater never again.

    Returns the project's slug. Skipping twice changes nothing. Raises NotFound, InvalidInput without a
    reason, Conflict when the assignment was ranked.
    """
    found = await slots.find_assignment(session, assignment_id, rater.id)
    if found is None:
        raise no_such_assignment()
    slug: str = found.slug
    reason = reason.strip()
    if not reason or "\x00" in reason:
        raise InvalidInput("say why the task is skipped", field="reason")
    state, _, _ = await slots.lock_both(session, found.task_id, assignment_id)
    if state == AssignmentState.SKIPPED:
        return slug
    if state in (AssignmentState.SUBMITTED, AssignmentState.EXTRA):
        raise Conflict("This assignment was ranked already", field="assignment")
    held = 1 if state == AssignmentState.LEASED else 0
    await slots.give_back(session, assignment_id, found.task_id, reason[:2000], held)
    return slug
