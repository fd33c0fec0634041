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

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import User
from app.db.types import utc_now, uuid7
from app.errors import Conflict, InvalidInput, NotAllowed, NotFound, Unavailable
from app.projects.models import Project
from app.prompts.models import Prompt
from app.rating import assignments, qualification, slots
from app.rating.assignments import Contents
from app.rating.models import GOLD_SLOTS, AssignmentState, QualificationState, Task
from app.rating.schemas import DraftIn, Lease, Shown
from app.rating.slots import NewLease, NextTask, TaskSource

# A lease that finds every open task locked by others looks again, for about four seconds in all.
LEASE_TRIES = 40
SHORTEST_WAIT = 0.005  # seconds: about what a lease takes from its lock to its commit
LONGEST_WAIT = 0.1
# Other tasks that a rater does before one that they put off comes back; at once where nothing else is left.
OTHERS_FIRST = 5
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
    session: AsyncSession, project: Project, rater: User, *, prefetch: bool = False
) -> Lease | None:
    """The rater's next task, or the one they hold already; None when nothing is left for them.

    With `prefetch` it is the task after the present one, held for when that is done. A paused project
    gives nothing new; who holds a task of it may finish that. Where the project asks for a qualification,
    its gold tasks come first, one at a time. Raises Unavailable where what is left stays locked (that is
    not the same as nothing being left), NotAllowed after a qualification that was not passed.
    """
    for attempt in range(LEASE_TRIES):
        if attempt:
            # Whoever was quicker is about to commit; half the wait is drawn, so that the many who
            # wait for one task do not come back all at once.
            pause = min(SHORTEST_WAIT * 2**attempt, LONGEST_WAIT)
            await asyncio.sleep(pause * (1 + random.random()) / 2)  # noqa: S311 - no secret
        holding = await slots.find_holding(session, project.id, rater.id)
        own = holding.prefetched if prefetch else holding.held or holding.prefetched
        if own is not None:
            present = prefetch or own == holding.held or await promote(session, own, rater)
            lease = await _get_held(session, own, project, rater) if present else None
            if lease is not None:
                return lease
            continue
        qualify = must_qualify(project, holding.qualification_state)
        # Each answer of a qualification has its feedback first, and the last one decides.
        if project.paused or (qualify and prefetch):
            return None
        # Locks that a sweep took must not be kept while waiting for others'.
        savepoint = await session.begin_nested() if holding.others_expired else None
        if savepoint is not None:
            await slots.free_expired_skip_locked(session, project.id)
        lease, nothing_left = await _lease_another(
            session, project, rater, prefetch=prefetch, qualify=qualify, put_off=holding.put_off
        )
        if savepoint is not None:
            await (savepoint.commit() if lease or nothing_left else savepoint.rollback())
        if lease is not None:
            return lease
        if not nothing_left:
            continue
        # The last slot may have gone to another window of the rater's, or be in a sweep of somebody's.
        holding = await slots.find_holding(session, project.id, rater.id)
        if holding.others_expired or holding.prefetched or (holding.held and not prefetch):
            continue
        # A qualification for which there are too few gold tasks ends here, and others may follow.
        if not (qualify and await qualification.end_qualification(session, project, rater)):
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
    qualification that was not passed.
    """
    holding = await slots.find_holding(session, project.id, rater.id)
    if holding.held is not None:
        contents = await assignments.find_contents(session, holding.held, rater.id)
        lease = lease_of(contents) if contents is not None else None
        if lease is not None and not lease.expired:
            return Standing(lease, more=True)
    if holding.held or holding.prefetched:
        return Standing(None, more=True)
    qualify = must_qualify(project, holding.qualification_state)
    if project.paused:
        return Standing(None, more=False)
    # A qualification without a further gold task ends with the next lease, so that others may follow.
    sources = [
        TaskSource(gold=False, max_shown=GOLD_SLOTS),
        TaskSource(gold=True, max_shown=GOLD_SLOTS if qualify else project.overlap),
    ]
    more = (
        holding.others_expired
        or await _has_open_task(session, project, rater, sources)
        or (
            holding.put_off
            and await slots.has_put_off(session, project.id, rater.id, gold_alone=qualify)
        )
    )
    return Standing(None, more=more)


def must_qualify(project: Project, state: str | None) -> bool:
    """Whether a rater's next task is one of the qualification's. Raises NotAllowed after a failed one."""
    if project.qualification_tasks == 0 or state == QualificationState.PASSED:
        return False
    if state == QualificationState.FAILED:
        raise NotAllowed("You have not passed this project's test", field="qualification")
    return True


async def _lease_another(
    session: AsyncSession,
    project: Project,
    rater: User,
    *,
    prefetch: bool,
    qualify: bool,
    put_off: bool,
) -> tuple[Lease | None, bool]:
    """(a new lease, whether nothing is left); neither where others hold the locks at this moment."""
    draw = Draw()
    sources = _list_sources(project, qualify, draw)
    task = None
    if put_off:
        task = await _lock_put_off(session, project, rater, OTHERS_FIRST, qualify=qualify)
    if task is None:
        task = await _lock_next_task(session, project, rater, sources)
    if task is None and put_off:
        task = await _lock_put_off(session, project, rater, 0, qualify=qualify)
    if task is None:
        left = await _has_open_task(session, project, rater, sources) or (
            put_off and await slots.has_put_off(session, project.id, rater.id, gold_alone=qualify)
        )
        return None, not left
    new = NewLease(
        id=task.own_id or uuid7(),
        task_id=task.task_id,
        overlap=task.overlap,
        guideline_version=project.guideline_version,
        lease_seconds=project.lease_seconds,
        prefetched=prefetch,
        qualification=qualify,
    )
    return await _take(session, task, new, project, rater, draw), False


class Draw(random.Random):
    """What is drawn for one assignment, from a seed that is stored with it."""

    def __init__(self) -> None:
        self.seed_used = secrets.randbits(62)
        super().__init__(self.seed_used)


def _list_sources(project: Project, qualify: bool, draw: Draw) -> Sequence[TaskSource]:
    """Where to look for a task, in this order: gold ones are mixed in at the project's rate.

    A qualification is of gold tasks alone. Where nothing else is left, gold tasks go to as many raters as
    others do.
    """
    any_gold = TaskSource(gold=True, max_shown=GOLD_SLOTS)
    others = TaskSource(gold=False, max_shown=GOLD_SLOTS)
    if qualify:
        return [any_gold]
    if draw.random() < project.gold_rate:
        return [any_gold, others]
    return [others, TaskSource(gold=True, max_shown=project.overlap)]


async def _lock_next_task(
    session: AsyncSession, project: Project, rater: User, sources: Sequence[TaskSource]
) -> NextTask | None:
    for source in sources:
        task = await slots.lock_next_task_skip_locked(session, project.id, rater.id, source)
        if task is not None:
            return task
    return None


async def _lock_put_off(
    session: AsyncSession, project: Project, rater: User, others_done: int, *, qualify: bool
) -> NextTask | None:
    return await slots.lock_put_off_skip_locked(
        session, project.id, rater.id, others_done=others_done, gold_alone=qualify
    )


async def _has_open_task(
    session: AsyncSession, project: Project, rater: User, sources: Sequence[TaskSource]
) -> bool:
    for source in sources:
        if await slots.has_open_task(session, project.id, rater.id, source):
            return True
    return False


async def promote(session: AsyncSession, assignment_id: uuid.UUID, rater: User) -> uuid.UUID | None:
    """Go on to the prefetched task: its id, or None where it is not held (any more).

    It may have been fetched long ago: one that the rater would not be given now is given back.
    """
    try:
        async with session.begin_nested():
            held = await slots.promote(session, assignment_id, rater.id)
    except IntegrityError:  # another window was quicker
        return None
    if not held:
        await slots.release_prefetched(session, assignment_id, rater.id)
        return None
    return assignment_id


async def is_waiting(
    session: AsyncSession, project: Project, assignment_id: uuid.UUID, rater: User
) -> bool:
    """Whether this is the rater's prefetched task, whose turn has not come as far as is known here."""
    holding = await slots.find_holding(session, project.id, rater.id)
    return holding.prefetched == assignment_id


async def _get_held(
    session: AsyncSession, assignment_id: uuid.UUID, project: Project, rater: User
) -> Lease | None:
    """The lease that a rater holds; one past its time is renewed, or None if its slot just went."""
    contents = await assignments.find_contents(session, assignment_id, rater.id)
    if contents is None or contents.state not in OPEN:
        return None
    lease = replace(lease_of(contents), guideline_version=project.guideline_version)
    await slots.note_shown_under(session, assignment_id, project.guideline_version)
    if not lease.expired:
        return lease
    end = await slots.renew(session, assignment_id, project.lease_seconds)
    return None if end is None else replace(lease, expires_at=end, expired=False)


async def _take(
    session: AsyncSession, task: NextTask, new: NewLease, project: Project, rater: User, draw: Draw
) -> Lease | None:
    """Put the rater on the lowest free slot of a locked task; None where they hold another by now."""
    texts = {uuid.UUID(each["id"]): each["text"] for each in task.candidates}
    if task.presented is not None:  # it ran out: the same order, and the draft, again
        presented = task.presented
        try:
            async with session.begin_nested():
                expires_at = await slots.take_slot_again(session, new)
        except IntegrityError:
            return None
    else:
        presented = list(texts)
        draw.shuffle(presented)
        expires_at = await slots.take_slot(
            session,
            new,
            project_id=project.id,
            rater_id=rater.id,
            presented=presented,
            seed=draw.seed_used,
        )
    if expires_at is None:
        return None
    return Lease(
        assignment_id=new.id,
        task_id=task.task_id,
        project_slug=project.slug,
        expires_at=expires_at,
        messages=task.messages,
        candidates=[Shown(each, texts[each]) for each in presented],
        axes=project.axes,
        flags=project.flags,
        draft=task.draft,
        guideline_version=project.guideline_version,
        qualification=new.qualification,
    )


async def show_task(
    session: AsyncSession, project: Project, prompt_id: uuid.UUID | None
) -> Lease | None:
    """A task as its rater would get it, the prompt's or the next one's, handed to nobody.

    Raises NotFound for a prompt that is no task of the project.
    """
    shown = await assignments.find_task(session, project.id, prompt_id)
    if shown is None:
        if prompt_id is not None:
            raise NotFound("The project has no task of this prompt", field="prompt")
        return None
    return Lease(
        assignment_id=shown.id,
        task_id=shown.id,
        project_slug=project.slug,
        expires_at=utc_now(),
        messages=shown.messages,
        candidates=[Shown(uuid.UUID(each["id"]), each["text"]) for each in shown.candidates],
        axes=project.axes,
        flags=project.flags,
        draft=None,
        guideline_version=project.guideline_version,
    )


def no_such_assignment() -> NotFound:
    """What is said of an assignment that is not there, or is somebody else's."""
    return NotFound("You have no such assignment", field="assignment")


def lease_of(contents: Contents) -> Lease:
    """An assignment as the page and the API take it."""
    texts = {uuid.UUID(each["id"]): each["text"] for each in contents.candidates}
    return Lease(
        assignment_id=contents.id,
        task_id=contents.task_id,
        project_slug=contents.slug,
        expires_at=contents.expires_at,
        messages=contents.messages,
        candidates=[Shown(each, texts[each]) for each in contents.presented],
        axes=contents.axes,
        flags=contents.flags,
        draft=contents.draft,
        guideline_version=contents.guideline_version,
        qualification=contents.qualification,
        expired=contents.state == AssignmentState.EXPIRED or contents.expired,
    )


async def get_texts(
    session: AsyncSession, assignment_id: uuid.UUID, rater: User
) -> dict[uuid.UUID, str]:
    """The texts of an assignment's candidates, whatever has become of it. Raises NotFound."""
    contents = await assignments.find_contents(session, assignment_id, rater.id)
    if contents is None:
        raise no_such_assignment()
    return {each.id: each.text for each in lease_of(contents).candidates}


async def save_draft(
    session: AsyncSession, assignment_id: uuid.UUID, rater: User, draft: DraftIn
) -> datetime:
    """Keep what the rater has put down so far, and renew the lease: they are at work.

    Returns when the lease runs out. One whose slot has gone keeps its draft too, but not the slot.
    Raises NotFound, Conflict when the assignment is done.
    """
    written = draft.model_dump_json()
    end = await assignments.save_draft(session, assignment_id, rater.id, written)
    if end is None:
        assignment = await assignments.find_assignment(session, assignment_id, rater.id)
        if assignment is None:
            raise no_such_assignment()
        raise Conflict(f"This assignment is {assignment.state} already", field="assignment")
    return end


async def skip(session: AsyncSession, assignment_id: uuid.UUID, rater: User, reason: str) -> str:
    """Give a task back, with the reason; somebody else gets it, this rater never again.

    Returns the project's slug. Skipping twice changes nothing. Raises NotFound, InvalidInput without a
    reason, Conflict when the assignment was ranked.
    """
    assignment = await assignments.find_assignment(session, assignment_id, rater.id)
    if assignment is None:
        raise no_such_assignment()
    reason = reason.strip()
    if not reason or "\x00" in reason:
        raise InvalidInput("say why the task is skipped", field="reason")
    state, _, _ = await slots.lock_task_and_assignment(session, assignment.task_id, assignment_id)
    if state == AssignmentState.SKIPPED:
        return assignment.slug
    if state in (AssignmentState.SUBMITTED, AssignmentState.SURPLUS):
        raise Conflict("This assignment was ranked already", field="assignment")
    held = 1 if state == AssignmentState.LEASED else 0
    await slots.give_back(session, assignment_id, assignment.task_id, reason[:2000], held)
    return assignment.slug


async def put_off(session: AsyncSession, assignment_id: uuid.UUID, rater: User) -> str:
    """Give a task back for now; it comes to this rater again after some others, with what they put down.

    Meanwhile its slot is anybody's. Returns the project's slug. Twice changes nothing. Raises NotFound,
    Conflict when the assignment is done.
    """
    assignment = await assignments.find_assignment(session, assignment_id, rater.id)
    if assignment is None:
        raise no_such_assignment()
    state, _, _ = await slots.lock_task_and_assignment(session, assignment.task_id, assignment_id)
    if state not in OPEN:
        raise Conflict(f"This assignment is {state} already", field="assignment")
    held = 1 if state == AssignmentState.LEASED else 0
    await slots.defer(session, assignment_id, assignment.task_id, held)
    return assignment.slug
