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
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession

_FREE_SLOT = """
    (SELECT min(number) FROM generate_series(1, :overlap) AS number
     WHERE NOT EXISTS (SELECT FROM assignments AS other
                       WHERE other.task_id = :task_id AND other.slot = number))
"""
_LEASE_END = "statement_timestamp() + make_interval(secs => :lease_seconds)"
_TAKE_FROM_TASK = """
    UPDATE tasks SET open_slots = open_slots - 1
    WHERE id = :task_id AND EXISTS (SELECT FROM placed)
"""
# Tasks with a free slot that the rater has not had; one whose lease ran out on them may come back.
# OFFSET 0 keeps the planner from joining tasks with all that the rater ever did, and a test that no index
# serves keeps it from reading all that for each task: the task's own few assignments are looked at. On a
# table without statistics yet it chose otherwise: 76 ms for a lease after 3,000 rankings, now 3.5.
_OPEN_FOR_RATER = """
    SELECT id, prompt_id, overlap FROM tasks
    WHERE project_id = :project_id AND open_slots > 0 AND gold = :gold
      AND overlap - open_slots < :shown_to
      AND NOT EXISTS (SELECT FROM assignments AS had
                      WHERE had.task_id = tasks.id
                        AND had.rater_id IS NOT DISTINCT FROM :rater_id
                        AND had.state <> 'expired'
                      OFFSET 0)
"""
_CANDIDATES = """
    (SELECT json_agg(json_build_object('id', candidate.id, 'text', candidate.text)
                     ORDER BY candidate.position)
     FROM candidates AS candidate WHERE candidate.prompt_id = prompt.id) AS candidates
"""

_HELD_OR_LAPSED = text("""
    SELECT (SELECT id FROM assignments
            WHERE project_id = :project_id AND rater_id = :rater_id AND state = 'leased'
              AND NOT ahead) AS held,
           (SELECT id FROM assignments
            WHERE project_id = :project_id AND rater_id = :rater_id AND state = 'leased'
              AND ahead) AS ahead,
           (SELECT state FROM qualifications
            WHERE project_id = :project_id AND rater_id = :rater_id) AS qualification,
           EXISTS (SELECT FROM assignments
                   WHERE project_id = :project_id AND state = 'leased' AND rater_id <> :rater_id
                     AND expires_at <= statement_timestamp()) AS lapsed
""")

_FREE_LAPSED = text("""
    WITH lapsed AS (
        SELECT assignment.id
        FROM assignments AS assignment JOIN tasks AS task ON task.id = assignment.task_id
        WHERE assignment.project_id = :project_id AND assignment.state = 'leased'
          AND assignment.expires_at <= statement_timestamp()
        ORDER BY assignment.expires_at
        LIMIT 100
        FOR NO KEY UPDATE OF task, assignment SKIP LOCKED
    ), ended AS (
        UPDATE assignments SET state = 'expired', slot = NULL
        FROM lapsed WHERE assignments.id = lapsed.id
        RETURNING assignments.task_id
    )
    UPDATE tasks SET open_slots = open_slots + freed.slots
    FROM (SELECT task_id, count(*) AS slots FROM ended GROUP BY task_id) AS freed
    WHERE tasks.id = freed.task_id
""")

_LOCK_NEXT = text(f"""
    WITH task AS MATERIALIZED (
        {_OPEN_FOR_RATER}
        ORDER BY priority DESC, overlap - open_slots, id
        LIMIT 1
        FOR NO KEY UPDATE SKIP LOCKED
    )
    SELECT task.id AS task_id, task.overlap, prompt.messages, {_CANDIDATES},
           own.id AS own_id, own.presented, own.draft
    FROM task
    JOIN prompts AS prompt ON prompt.id = task.prompt_id
    LEFT JOIN LATERAL (SELECT id, presented, draft FROM assignments
                       WHERE task_id = task.id AND rater_id IS NOT DISTINCT FROM :rater_id
                       OFFSET 0) AS own ON true
""")

_ANY_OPEN = text(f"SELECT EXISTS ({_OPEN_FOR_RATER})")

_TAKE = text(f"""
    WITH placed AS (
        INSERT INTO assignments (id, task_id, project_id, rater_id, state, slot, presented, seed,
                                 guideline_version, ahead, test, leased_at, expires_at)
        SELECT :id, :task_id, :project_id, :rater_id, 'leased', {_FREE_SLOT},
               CAST(:presented AS uuid[]), :seed, :guideline_version, :ahead, :test,
               statement_timestamp(), {_LEASE_END}
        ON CONFLICT DO NOTHING
        RETURNING expires_at
    ), taken AS ({_TAKE_FROM_TASK})
    SELECT expires_at FROM placed
""")

_TAKE_AGAIN = text(f"""
    WITH placed AS (
        UPDATE assignments
        SET state = 'leased', slot = {_FREE_SLOT}, guideline_version = :guideline_version,
            ahead = :ahead, test = :test, leased_at = statement_timestamp(), expires_at = {_LEASE_END}
        WHERE id = :id AND state = 'expired'
        RETURNING expires_at
    ), taken AS ({_TAKE_FROM_TASK})
    SELECT expires_at FROM placed
""")

_RENEW = text(f"""
    UPDATE assignments SET expires_at = {_LEASE_END}
    WHERE id = :id AND state = 'leased'
    RETURNING expires_at
""")

_TAKE_UP = text("""
    UPDATE assignments
    SET ahead = false, leased_at = statement_timestamp(),
        guideline_version = project.guideline_version,
        expires_at = statement_timestamp() + make_interval(secs => project.lease_seconds)
    FROM projects AS project
    WHERE assignments.id = :id AND assignments.rater_id = :rater_id
      AND assignments.state = 'leased' AND assignments.ahead
      AND project.id = assignments.project_id
    RETURNING assignments.id
""")

_CONTENTS = text(f"""
    SELECT assignment.id, assignment.task_id, assignment.state, assignment.presented, assignment.test,
           assignment.expires_at, assignment.expires_at <= statement_timestamp() AS lapsed,
           assignment.draft, assignment.guideline_version, project.slug, project.axes,
           project.flags, prompt.messages, {_CANDIDATES}
    FROM assignments AS assignment
    JOIN projects AS project ON project.id = assignment.project_id
    JOIN tasks AS task ON task.id = assignment.task_id
    JOIN prompts AS prompt ON prompt.id = task.prompt_id
    WHERE assignment.id = :id AND assignment.rater_id = :rater_id
""")

_ASSIGNMENT = text("""
    SELECT assignment.id, assignment.task_id, assignment.project_id, assignment.state,
           assignment.presented, assignment.guideline_version, assignment.test,
           project.slug, project.axes, project.flags, project.qualification_tasks,
           project.qualification_accuracy
    FROM assignments AS assignment JOIN projects AS project ON project.id = assignment.project_id
    WHERE assignment.id = :id AND assignment.rater_id = :rater_id
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
    WITH placed AS (
        UPDATE assignments
        SET state = 'submitted', slot = {_FREE_SLOT}, finished_at = statement_timestamp(),
            draft = NULL
        WHERE id = :id
        RETURNING id
    )
    {_TAKE_FROM_TASK}
""")

_FINISH_EXTRA = text("""
    UPDATE assignments SET state = 'extra', finished_at = statement_timestamp(), draft = NULL
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

_SAVE_DRAFT = text("""
    UPDATE assignments
    SET draft = CAST(:draft AS jsonb),
        expires_at = CASE WHEN assignments.state = 'leased'
                          THEN statement_timestamp() + make_interval(secs => project.lease_seconds)
                          ELSE assignments.expires_at END
    FROM projects AS project
    WHERE assignments.id = :id AND assignments.rater_id = :rater_id
      AND assignments.state IN ('leased', 'expired') AND project.id = assignments.project_id
    RETURNING assignments.expires_at
""")


async def find_held_or_lapsed(
    session: AsyncSession, project_id: uuid.UUID, rater_id: uuid.UUID
) -> Row[Any]:
    """(held, ahead, qualification, lapsed): the rater's own lease, the one they hold for afterwards,
    how their test came out, and whether the lease of somebody else has run out."""
    values = {"project_id": project_id, "rater_id": rater_id}
    return (await session.execute(_HELD_OR_LAPSED, values)).one()


async def free_lapsed_skip_locked(session: AsyncSession, project_id: uuid.UUID) -> None:
    """End leases that have run out (a hundred at a time) and give their tasks the slots back."""
    await session.execute(_FREE_LAPSED, {"project_id": project_id})


async def lock_next_task_skip_locked(
    session: AsyncSession, project_id: uuid.UUID, rater_id: uuid.UUID, *, gold: bool, shown_to: int
) -> Row[Any] | None:
    """The next task that is open to a rater, locked, with its contents: a gold one or another.

    Tasks that `shown_to` raters have had are passed over. `own_id`, `presented` and `draft` are those of
    the rater's expired assignment, if there is one.
    """
    values = {"project_id": project_id, "rater_id": rater_id, "gold": gold, "shown_to": shown_to}
    return (await session.execute(_LOCK_NEXT, values)).one_or_none()


async def has_open_task(
    session: AsyncSession, project_id: uuid.UUID, rater_id: uuid.UUID, *, gold: bool, shown_to: int
) -> bool:
    """Whether such a task is open to a rater, be it locked by somebody at this moment."""
    values = {"project_id": project_id, "rater_id": rater_id, "gold": gold, "shown_to": shown_to}
    return bool(await session.scalar(_ANY_OPEN, values))


async def take_slot(session: AsyncSession, **values: Any) -> Any:
    """Lease a locked task: the lease's end, or None where another request of the rater was quicker."""
    return await session.scalar(_TAKE, values)


async def take_slot_again(session: AsyncSession, **values: Any) -> Any:
    """The same on the rater's expired assignment. May raise IntegrityError for a second lease."""
    return await session.scalar(_TAKE_AGAIN, values)


async def renew(session: AsyncSession, assignment_id: uuid.UUID, lease_seconds: int) -> Any:
    """A lease's new end; None where it is no longer held."""
    return await session.scalar(_RENEW, {"id": assignment_id, "lease_seconds": lease_seconds})


async def take_up(session: AsyncSession, assignment_id: uuid.UUID, rater_id: uuid.UUID) -> bool:
    """Make a lease that was fetched ahead the rater's present one; False where it is none.

    May raise IntegrityError where they hold another.
    """
    values = {"id": assignment_id, "rater_id": rater_id}
    return await session.scalar(_TAKE_UP, values) is not None


async def find_contents(
    session: AsyncSession, assignment_id: uuid.UUID, rater_id: uuid.UUID
) -> Row[Any] | None:
    """All that its rater sees of an assignment."""
    values = {"id": assignment_id, "rater_id": rater_id}
    return (await session.execute(_CONTENTS, values)).one_or_none()


async def find_assignment(
    session: AsyncSession, assignment_id: uuid.UUID, rater_id: uuid.UUID
) -> Row[Any] | None:
    """What a rater's submit is held against."""
    values = {"id": assignment_id, "rater_id": rater_id}
    return (await session.execute(_ASSIGNMENT, values)).one_or_none()


async def finish_lease(session: AsyncSession, assignment_id: uuid.UUID) -> bool:
    """Make a lease that still has its slot a submitted assignment; False where it has not."""
    return await session.scalar(_FINISH_LEASE, {"id": assignment_id}) is not None


async def lock_both(
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


async def finish_extra(session: AsyncSession, assignment_id: uuid.UUID) -> None:
    """Keep a late ranking's assignment beside the slots. Lock both first."""
    await session.execute(_FINISH_EXTRA, {"id": assignment_id})


async def give_back(
    session: AsyncSession, assignment_id: uuid.UUID, task_id: uuid.UUID, reason: str, slots: int
) -> None:
    """Mark an assignment skipped and free the `slots` (1 or 0) that it held. Lock both first."""
    values = {"id": assignment_id, "task_id": task_id, "reason": reason, "slots": slots}
    await session.execute(_GIVE_BACK, values)


async def save_draft(
    session: AsyncSession, assignment_id: uuid.UUID, rater_id: uuid.UUID, draft: str
) -> Any:
    """Keep a draft (JSON) and renew the lease: its end, or None where there is none to keep it for."""
    values = {"id": assignment_id, "rater_id": rater_id, "draft": draft}
    return await session.scalar(_SAVE_DRAFT, values)
