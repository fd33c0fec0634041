"""The statements that take, keep and free a task's slots: the engine under `app.rating.assign`.

Locks, and their order: the task's row before the assignment's, never the reverse. Sweeps and picks skip
what is locked, so they wait for nobody. The task's lock is FOR NO KEY UPDATE: whoever stores a ranking
holds a key-share lock on the task by its foreign key, which need not wait for a lease, nor hide the task
from one. A slot's number is found in a statement of its own, after the lock: only then does its snapshot
show what the last holder of the lock committed.

Moments are the database's (statement_timestamp), so the clocks of several machines need not agree.
"""

# ruff: noqa: S608 - the statements are put together from this file's own constants alone

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.projects.queries import RATER_SEES_PROJECT
from app.rating.assignments import CANDIDATES


class TaskSource(NamedTuple):
    """Which tasks to look among: gold ones or others, and only those that fewer raters have had."""

    gold: bool
    max_shown: int


class Holding(NamedTuple):
    """The leases that a rater has in a project, and what decides about a further one."""

    held: uuid.UUID | None
    prefetched: uuid.UUID | None
    qualification_state: str | None
    # Whether the lease of somebody else has run out.
    others_expired: bool
    # Whether they have put something off.
    put_off: bool


class NextTask(NamedTuple):
    """A locked task. The last three are those of the rater's expired assignment, if there is one."""

    task_id: uuid.UUID
    overlap: int
    messages: list[dict[str, str]]
    candidates: list[dict[str, str]]
    own_id: uuid.UUID | None
    presented: list[uuid.UUID] | None
    draft: dict[str, object] | None


class NewLease(NamedTuple):
    """What a lease is given, be it a rater's first of the task or one after it ran out."""

    id: uuid.UUID
    task_id: uuid.UUID
    overlap: int
    guideline_version: int
    lease_seconds: int
    prefetched: bool
    qualification: bool


_FREE_SLOT = """
    (SELECT min(number) FROM generate_series(1, :overlap) AS number
     WHERE NOT EXISTS (SELECT FROM assignments AS other
                       WHERE other.task_id = :task_id AND other.slot = number))
"""
_LEASE_END = "statement_timestamp() + make_interval(secs => :lease_seconds)"
_TAKE_FROM_TASK = """
    UPDATE tasks SET open_slots = open_slots - 1
    WHERE id = :task_id AND EXISTS (SELECT FROM leased)
"""
# Tasks with a free slot that the rater has not had; one whose lease ran out on them may come back.
# OFFSET 0 keeps the planner from joining tasks with all that the rater ever did, and a test that no index
# serves keeps it from reading all that for each task: the task's own few assignments are looked at. On a
# table without statistics yet it chose otherwise: 76 ms for a lease after 3,000 rankings, now 3.5.
_OPEN_FOR_RATER = """
    SELECT id, prompt_id, overlap FROM tasks
    WHERE project_id = :project_id AND open_slots > 0 AND gold = :gold AND retired_at IS NULL
      AND overlap - open_slots < :max_shown
      AND NOT EXISTS (SELECT FROM assignments AS had
                      WHERE had.task_id = tasks.id
                        AND had.rater_id IS NOT DISTINCT FROM :rater_id
                        AND (had.state <> 'expired' OR had.deferred_at IS NOT NULL)
                      OFFSET 0)
"""
_HOLDING = text("""
    SELECT (SELECT id FROM assignments
            WHERE project_id = :project_id AND rater_id = :rater_id AND state = 'leased'
              AND NOT prefetched) AS held,
           (SELECT id FROM assignments
            WHERE project_id = :project_id AND rater_id = :rater_id AND state = 'leased'
              AND prefetched) AS prefetched,
           (SELECT state FROM qualifications
            WHERE project_id = :project_id AND rater_id = :rater_id) AS qualification_state,
           EXISTS (SELECT FROM assignments
                   WHERE project_id = :project_id AND state = 'leased' AND rater_id <> :rater_id
                     AND expires_at <= statement_timestamp()) AS others_expired,
           EXISTS (SELECT FROM assignments
                   WHERE project_id = :project_id AND rater_id = :rater_id AND state = 'expired'
                     AND deferred_at IS NOT NULL) AS put_off
""")

_FREE_EXPIRED = text("""
    WITH expired AS (
        SELECT assignment.id
        FROM assignments AS assignment JOIN tasks AS task ON task.id = assignment.task_id
        WHERE assignment.project_id = :project_id AND assignment.state = 'leased'
          AND assignment.expires_at <= statement_timestamp()
        ORDER BY assignment.expires_at
        LIMIT 100
        FOR NO KEY UPDATE OF task, assignment SKIP LOCKED
    ), ended AS (
        UPDATE assignments SET state = 'expired', slot = NULL
        FROM expired WHERE assignments.id = expired.id
        RETURNING assignments.task_id
    )
    UPDATE tasks SET open_slots = open_slots + freed.slots
    FROM (SELECT task_id, count(*) AS slots FROM ended GROUP BY task_id) AS freed
    WHERE tasks.id = freed.task_id
""")

_CONTENTS = f"""
    SELECT task.id AS task_id, task.overlap, prompt.messages, {CANDIDATES},
           own.id AS own_id, own.presented, own.draft
    FROM task
    JOIN prompts AS prompt ON prompt.id = task.prompt_id
    LEFT JOIN LATERAL (SELECT id, presented, draft FROM assignments
                       WHERE task_id = task.id AND rater_id IS NOT DISTINCT FROM :rater_id
                       OFFSET 0) AS own ON true
"""

_LOCK_NEXT = text(f"""
    WITH task AS MATERIALIZED (
        {_OPEN_FOR_RATER}
        ORDER BY priority DESC, overlap - open_slots, id
        LIMIT 1
        FOR NO KEY UPDATE SKIP LOCKED
    )
    {_CONTENTS}
""")

# What the rater put off, the oldest first: it is due once they have done so many others since.
_PUT_OFF_BY_RATER = """
    SELECT tasks.id, tasks.prompt_id, tasks.overlap
    FROM assignments AS own JOIN tasks ON tasks.id = own.task_id
    WHERE own.project_id = :project_id AND own.rater_id = :rater_id AND own.state = 'expired'
      AND own.deferred_at IS NOT NULL
      AND tasks.open_slots > 0 AND tasks.retired_at IS NULL AND (tasks.gold OR NOT :gold_alone)
      AND (SELECT count(*) FROM assignments AS done
           WHERE done.rater_id = :rater_id AND done.project_id = :project_id
             AND done.finished_at > own.deferred_at) >= :others_done
"""
_LOCK_PUT_OFF = text(f"""
    WITH task AS MATERIALIZED (
        {_PUT_OFF_BY_RATER}
        ORDER BY own.deferred_at
        LIMIT 1
        FOR NO KEY UPDATE OF tasks SKIP LOCKED
    )
    {_CONTENTS}
""")
_ANY_PUT_OFF = text(f"SELECT EXISTS ({_PUT_OFF_BY_RATER})")

_ANY_OPEN = text(f"SELECT EXISTS ({_OPEN_FOR_RATER})")

_TAKE = text(f"""
    WITH leased AS (
        INSERT INTO assignments (id, task_id, project_id, rater_id, state, slot, presented, seed,
                                 guideline_version, prefetched, qualification, leased_at, expires_at)
        SELECT :id, :task_id, :project_id, :rater_id, 'leased', {_FREE_SLOT},
               CAST(:presented AS uuid[]), :seed, :guideline_version, :prefetched, :qualification,
               statement_timestamp(), {_LEASE_END}
        ON CONFLICT DO NOTHING
        RETURNING expires_at
    ), taken AS ({_TAKE_FROM_TASK})
    SELECT expires_at FROM leased
""")

_TAKE_AGAIN = text(f"""
    WITH leased AS (
        UPDATE assignments
        SET state = 'leased', slot = {_FREE_SLOT}, guideline_version = :guideline_version,
            prefetched = :prefetched, qualification = :qualification, deferred_at = NULL,
            leased_at = statement_timestamp(), expires_at = {_LEASE_END}
        WHERE id = :id AND state = 'expired'
        RETURNING expires_at
    ), taken AS ({_TAKE_FROM_TASK})
    SELECT expires_at FROM leased
""")

_RENEW = text(f"""
    UPDATE assignments SET expires_at = {_LEASE_END}
    WHERE id = :id AND state = 'leased'
    RETURNING expires_at
""")

# What a new lease is held against, a prefetched one is held against when its turn comes: a project that was
# paused meanwhile, a test that has to be passed first, a task that asks fewer raters by now.
_PROMOTE = text(f"""
    UPDATE assignments
    SET prefetched = false, leased_at = statement_timestamp(),
        expires_at = statement_timestamp() + make_interval(secs => project.lease_seconds)
    FROM projects AS project, tasks AS task
    WHERE assignments.id = :id AND assignments.rater_id = :rater_id
      AND assignments.state = 'leased' AND assignments.prefetched
      AND project.id = assignments.project_id AND NOT project.paused AND {RATER_SEES_PROJECT}
      AND (project.qualification_tasks = 0
           OR EXISTS (SELECT FROM qualifications
                      WHERE project_id = project.id AND rater_id = :rater_id
                        AND state = 'passed'))
      AND task.id = assignments.task_id AND assignments.slot <= task.overlap
      AND task.retired_at IS NULL
    RETURNING assignments.id
""")

_RELEASE_PREFETCHED = text("""
    WITH held AS (
        SELECT assignment.id
        FROM tasks AS task JOIN assignments AS assignment ON assignment.task_id = task.id
        WHERE assignment.id = :id AND assignment.rater_id = :rater_id
          AND assignment.state = 'leased' AND assignment.prefetched
        FOR NO KEY UPDATE OF task, assignment
    ), ended AS (
        UPDATE assignments SET state = 'expired', slot = NULL, prefetched = false
        FROM held WHERE assignments.id = held.id
        RETURNING assignments.task_id
    )
    UPDATE tasks SET open_slots = LEAST(open_slots + 1, overlap)
    FROM ended WHERE tasks.id = ended.task_id
""")

_SHOWN_UNDER = text("""
    UPDATE assignments SET guideline_version = :version
    WHERE id = :id AND guideline_version <> :version
""")

_FINISH_LEASE = text("""
    UPDATE assignments
    SET state = 'submitted', finished_at = statement_timestamp(), draft = NULL
    WHERE id = :id AND state = 'leased'
    RETURNING id
""")

_LOCK_TASK = text("SELECT overlap, open_slots FROM tasks WHERE id = :task_id FOR NO KEY UPDATE")

_LOCK_ASSIGNMENT = text("SELECT state FROM assignments WHERE id = :id FOR NO KEY UPDATE")

_FINISH_LATE = text(f"""
    WITH leased AS (
        UPDATE assignments
        SET state = 'submitted', slot = {_FREE_SLOT}, finished_at = statement_timestamp(),
            draft = NULL
        WHERE id = :id
        RETURNING id
    )
    {_TAKE_FROM_TASK}
""")

_FINISH_SURPLUS = text("""
    UPDATE assignments SET state = 'surplus', finished_at = statement_timestamp(), draft = NULL
    WHERE id = :id
""")

_GIVE_BACK = text("""
    WITH gone AS (
        UPDATE assignments
        SET state = 'skipped', slot = NULL, skip_reason = :reason, draft = NULL,
            finished_at = statement_timestamp()
        WHERE id = :id
    )
    UPDATE tasks SET open_slots = open_slots + :slots WHERE id = :task_id
""")


# No lock is waited for but the task's and the assignment's, taken before.
_DEFER = text("""
    WITH gone AS (
        UPDATE assignments
        SET state = 'expired', slot = NULL, prefetched = false, deferred_at = statement_timestamp()
        WHERE id = :id
    )
    UPDATE tasks SET open_slots = LEAST(open_slots + :slots, overlap) WHERE id = :task_id
""")


async def find_holding(
    session: AsyncSession, project_id: uuid.UUID, rater_id: uuid.UUID
) -> Holding:
    """What a rater holds in a project, and what decides about a further lease."""
    values = {"project_id": project_id, "rater_id": rater_id}
    return Holding(**(await session.execute(_HOLDING, values)).one()._asdict())


async def free_expired_skip_locked(session: AsyncSession, project_id: uuid.UUID) -> None:
    """End leases that have run out (a hundred at a time) and give their tasks the slots back."""
    await session.execute(_FREE_EXPIRED, {"project_id": project_id})


async def lock_next_task_skip_locked(
    session: AsyncSession, project_id: uuid.UUID, rater_id: uuid.UUID, source: TaskSource
) -> NextTask | None:
    """The next task of a source that is open to a rater, locked, with its contents."""
    values = {"project_id": project_id, "rater_id": rater_id, **source._asdict()}
    row = (await session.execute(_LOCK_NEXT, values)).one_or_none()
    return NextTask(**row._asdict()) if row else None


async def lock_put_off_skip_locked(
    session: AsyncSession,
    project_id: uuid.UUID,
    rater_id: uuid.UUID,
    *,
    others_done: int,
    gold_alone: bool,
) -> NextTask | None:
    """What the rater put off longest ago and has done that many others since, locked, with its contents."""
    values = {"project_id": project_id, "rater_id": rater_id}
    due = {"others_done": others_done, "gold_alone": gold_alone}
    row = (await session.execute(_LOCK_PUT_OFF, values | due)).one_or_none()
    return NextTask(**row._asdict()) if row else None


async def has_put_off(
    session: AsyncSession, project_id: uuid.UUID, rater_id: uuid.UUID, *, gold_alone: bool
) -> bool:
    """Whether anything that the rater put off can be taken again, be it locked at this moment."""
    values = {"project_id": project_id, "rater_id": rater_id, "others_done": 0}
    return bool(await session.scalar(_ANY_PUT_OFF, values | {"gold_alone": gold_alone}))


async def has_open_task(
    session: AsyncSession, project_id: uuid.UUID, rater_id: uuid.UUID, source: TaskSource
) -> bool:
    """Whether such a task is open to a rater, be it locked by somebody at this moment."""
    values = {"project_id": project_id, "rater_id": rater_id, **source._asdict()}
    return bool(await session.scalar(_ANY_OPEN, values))


async def take_slot(
    session: AsyncSession,
    lease: NewLease,
    *,
    project_id: uuid.UUID,
    rater_id: uuid.UUID,
    presented: Sequence[uuid.UUID],
    seed: int,
) -> datetime | None:
    """Lease a locked task: the lease's end, or None where another request of the rater was quicker."""
    own = {"project_id": project_id, "rater_id": rater_id, "presented": presented, "seed": seed}
    end: datetime | None = await session.scalar(_TAKE, lease._asdict() | own)
    return end


async def take_slot_again(session: AsyncSession, lease: NewLease) -> datetime | None:
    """The same on the rater's expired assignment. May raise IntegrityError for a second lease."""
    end: datetime | None = await session.scalar(_TAKE_AGAIN, lease._asdict())
    return end


async def renew(
    session: AsyncSession, assignment_id: uuid.UUID, lease_seconds: int
) -> datetime | None:
    """A lease's new end; None where it is no longer held."""
    values = {"id": assignment_id, "lease_seconds": lease_seconds}
    end: datetime | None = await session.scalar(_RENEW, values)
    return end


async def promote(session: AsyncSession, assignment_id: uuid.UUID, rater_id: uuid.UUID) -> bool:
    """Make a prefetched lease the rater's present one; False where it is none, or a gate is shut.

    May raise IntegrityError where they hold another.
    """
    values = {"id": assignment_id, "rater_id": rater_id}
    return await session.scalar(_PROMOTE, values) is not None


async def release_prefetched(
    session: AsyncSession, assignment_id: uuid.UUID, rater_id: uuid.UUID
) -> None:
    """Give a prefetched lease back, as if it had run out: it may come to the rater again later."""
    await session.execute(_RELEASE_PREFETCHED, {"id": assignment_id, "rater_id": rater_id})


async def note_shown_under(
    session: AsyncSession, assignment_id: uuid.UUID, guideline_version: int
) -> None:
    """A lease is handed out (again) under this version of the guidelines."""
    await session.execute(_SHOWN_UNDER, {"id": assignment_id, "version": guideline_version})


async def finish_lease(session: AsyncSession, assignment_id: uuid.UUID) -> bool:
    """Make a lease that still has its slot a submitted assignment; False where it has not."""
    return await session.scalar(_FINISH_LEASE, {"id": assignment_id}) is not None


async def lock_task_and_assignment(
    session: AsyncSession, task_id: uuid.UUID, assignment_id: uuid.UUID
) -> tuple[str, int, int]:
    """(the assignment's state, the task's overlap, its open slots), both locked, the task first."""
    task = (await session.execute(_LOCK_TASK, {"task_id": task_id})).one()
    state = (await session.execute(_LOCK_ASSIGNMENT, {"id": assignment_id})).scalar_one()
    return state, task.overlap, task.open_slots


async def finish_late(
    session: AsyncSession, assignment_id: uuid.UUID, task_id: uuid.UUID, overlap: int
) -> None:
    """Give a late ranking's assignment a free slot for good. Lock both first."""
    values = {"id": assignment_id, "task_id": task_id, "overlap": overlap}
    await session.execute(_FINISH_LATE, values)


async def finish_surplus(session: AsyncSession, assignment_id: uuid.UUID) -> None:
    """Keep a late ranking's assignment beside the slots. Lock both first."""
    await session.execute(_FINISH_SURPLUS, {"id": assignment_id})


async def give_back(
    session: AsyncSession, assignment_id: uuid.UUID, task_id: uuid.UUID, reason: str, slots: int
) -> None:
    """Mark an assignment skipped and free the `slots` (1 or 0) that it held. Lock both first."""
    values = {"id": assignment_id, "task_id": task_id, "reason": reason, "slots": slots}
    await session.execute(_GIVE_BACK, values)


async def defer(
    session: AsyncSession, assignment_id: uuid.UUID, task_id: uuid.UUID, slots: int
) -> None:
    """Put an assignment off and free the `slots` (1 or 0) that it held. Lock both first."""
    values = {"id": assignment_id, "task_id": task_id, "slots": slots}
    await session.execute(_DEFER, values)
