"""Selects of the rating room. The order of locks is: task, then assignment; never the reverse."""

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, and_, case, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import User
from app.projects.models import Project
from app.prompts.models import Candidate, Prompt, PromptState
from app.rating.models import Assignment, AssignmentState, Ranking, Task

# One statement: mark what ran out, and give each task its slots back. Rows that somebody works on at
# this moment are skipped; the next call finds them.
SWEEP = text(
    """
    WITH late AS (
        SELECT a.id, a.task_id FROM assignments a JOIN tasks t ON t.id = a.task_id
        WHERE a.project_id = :project_id AND a.state = 'leased' AND a.expires_at <= :now
        ORDER BY a.task_id
        LIMIT 100
        FOR UPDATE OF t, a SKIP LOCKED
    ), freed AS (
        UPDATE assignments a SET state = 'expired', slot = NULL FROM late
        WHERE a.id = late.id
        RETURNING a.task_id
    )
    UPDATE tasks t SET open_slots = t.open_slots + counted.slots
    FROM (SELECT task_id, count(*) AS slots FROM freed GROUP BY task_id) counted
    WHERE t.id = counted.task_id
    """
)


async def free_expired_slots(session: AsyncSession, project_id: uuid.UUID, now: datetime) -> None:
    """Give the slots of leases that ran out back to their tasks."""
    await session.execute(SWEEP, {"project_id": project_id, "now": now})


async def find_held_assignment(
    session: AsyncSession, project_id: uuid.UUID, rater_id: uuid.UUID
) -> Assignment | None:
    """The lease that a rater holds in a project."""
    return await session.scalar(
        select(Assignment).where(
            Assignment.project_id == project_id,
            Assignment.rater_id == rater_id,
            Assignment.state == AssignmentState.LEASED,
        )
    )


def _open_for(project_id: uuid.UUID, rater_id: uuid.UUID) -> Select[Task]:
    """Tasks with a free slot that this rater has not had, the most urgent first.

    A task whose lease ran out on this same rater may come back to them.
    """
    had = (
        select(Assignment.id)
        .where(
            Assignment.task_id == Task.id,
            Assignment.rater_id == rater_id,
            Assignment.state != AssignmentState.EXPIRED,
        )
        .exists()
    )
    return (
        select(Task)
        .where(Task.project_id == project_id, Task.open_slots > 0, ~had)
        .order_by(Task.priority.desc(), Task.id)
        .limit(1)
    )


async def lease_next_task_for_update(
    session: AsyncSession, project_id: uuid.UUID, rater_id: uuid.UUID
) -> Task | None:
    """The rater's next task, locked; what others have locked at this moment is passed over."""
    return await session.scalar(_open_for(project_id, rater_id).with_for_update(skip_locked=True))


async def has_open_task(session: AsyncSession, project_id: uuid.UUID, rater_id: uuid.UUID) -> bool:
    """Whether there is a task for this rater, be it locked by somebody at this moment."""
    return await session.scalar(_open_for(project_id, rater_id)) is not None


async def get_task_for_update(session: AsyncSession, task_id: uuid.UUID) -> Task:
    """A task, locked."""
    return (
        await session.scalars(
            select(Task)
            .where(Task.id == task_id)
            .with_for_update()
            .execution_options(populate_existing=True)
        )
    ).one()


async def get_assignment_for_update(
    session: AsyncSession, assignment_id: uuid.UUID
) -> Assignment | None:
    """An assignment, locked. Lock its task first."""
    return await session.scalar(
        select(Assignment)
        .where(Assignment.id == assignment_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )


async def list_held_slots(session: AsyncSession, task_id: uuid.UUID) -> set[int]:
    """The slots of a task that somebody holds or has filled."""
    rows = await session.scalars(
        select(Assignment.slot).where(Assignment.task_id == task_id, Assignment.slot.is_not(None))
    )
    return {slot for slot in rows if slot is not None}


async def list_candidates(session: AsyncSession, prompt_id: uuid.UUID) -> Sequence[Candidate]:
    """A prompt's candidates, in their own order."""
    return (
        await session.scalars(
            select(Candidate).where(Candidate.prompt_id == prompt_id).order_by(Candidate.position)
        )
    ).all()


async def find_task(session: AsyncSession, prompt_id: uuid.UUID) -> Task | None:
    """The task of a prompt."""
    return await session.scalar(select(Task).where(Task.prompt_id == prompt_id))


async def find_ranking(
    session: AsyncSession, task_id: uuid.UUID, rater_id: uuid.UUID
) -> Ranking | None:
    """What a rater said of a task."""
    return await session.scalar(
        select(Ranking).where(Ranking.task_id == task_id, Ranking.rater_id == rater_id)
    )


async def count_prompts(session: AsyncSession, project_id: uuid.UUID) -> dict[PromptState, int]:
    """How many prompts stand where."""
    rows = await session.execute(
        select(Prompt.state, func.count())
        .where(Prompt.project_id == project_id)
        .group_by(Prompt.state)
    )
    return dict(rows.all())


async def count_tasks(session: AsyncSession, project_id: uuid.UUID) -> tuple[int, int]:
    """(tasks with a free slot, tasks with all their rankings)."""
    filled = (
        select(func.count())
        .select_from(Ranking)
        .where(Ranking.task_id == Task.id, Ranking.extra.is_(False))
        .scalar_subquery()
    )
    row = (
        await session.execute(
            select(
                func.count().filter(Task.open_slots > 0),
                func.count().filter(and_(Task.open_slots == 0, filled >= Task.overlap)),
            ).where(Task.project_id == project_id)
        )
    ).one()
    return row[0], row[1]


async def count_assignments(
    session: AsyncSession, project_id: uuid.UUID, now: datetime
) -> tuple[int, int]:
    """(leases that somebody holds now, skips)."""
    row = (
        await session.execute(
            select(
                func.count().filter(
                    Assignment.state == AssignmentState.LEASED, Assignment.expires_at > now
                ),
                func.count().filter(Assignment.state == AssignmentState.SKIPPED),
            ).where(Assignment.project_id == project_id)
        )
    ).one()
    return row[0], row[1]


async def count_rankings(session: AsyncSession, project_id: uuid.UUID) -> int:
    """All rankings of a project."""
    return (
        await session.scalar(
            select(func.count()).select_from(Ranking).where(Ranking.project_id == project_id)
        )
    ) or 0


async def list_own_rankings(
    session: AsyncSession, rater_id: uuid.UUID, *, limit: int, offset: int
) -> Sequence[Row[Ranking, Prompt, Project]]:
    """A rater's rankings with their prompts and projects, the newest first."""
    rows = await session.execute(
        select(Ranking, Prompt, Project)
        .join(Task, Task.id == Ranking.task_id)
        .join(Prompt, Prompt.id == Task.prompt_id)
        .join(Project, Project.id == Ranking.project_id)
        .where(Ranking.rater_id == rater_id)
        .order_by(Ranking.id.desc())
        .limit(limit)
        .offset(offset)
    )
    return rows.all()


async def get_own_ranking(
    session: AsyncSession, rater_id: uuid.UUID, ranking_id: uuid.UUID
) -> Row[Ranking, Prompt, Project] | None:
    """One ranking of this rater's."""
    rows = await session.execute(
        select(Ranking, Prompt, Project)
        .join(Task, Task.id == Ranking.task_id)
        .join(Prompt, Prompt.id == Task.prompt_id)
        .join(Project, Project.id == Ranking.project_id)
        .where(Ranking.rater_id == rater_id, Ranking.id == ranking_id)
    )
    return rows.one_or_none()


async def count_own_rankings(
    session: AsyncSession, rater_id: uuid.UUID, since: datetime
) -> tuple[int, int, float]:
    """(all, since the moment, seconds spent since the moment) of a rater's rankings."""
    row = (
        await session.execute(
            select(
                func.count(),
                func.count().filter(Ranking.created_at >= since),
                func.coalesce(func.sum(case((Ranking.created_at >= since, Ranking.seconds))), 0.0),
            ).where(Ranking.rater_id == rater_id)
        )
    ).one()
    return row[0], row[1], float(row[2])


async def list_texts(session: AsyncSession, ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, str]:
    """The texts of these candidates."""
    rows = await session.execute(select(Candidate.id, Candidate.text).where(Candidate.id.in_(ids)))
    return dict(rows.all())


async def list_projects_with_work(session: AsyncSession, rater_id: uuid.UUID) -> Sequence[Any]:
    """(project, tasks left for this rater, own rankings) of every project that is not paused.

    Counting stops at a thousand: a rater needs to know that there is plenty, not how much.
    """
    had = (
        select(Assignment.id)
        .where(
            Assignment.task_id == Task.id,
            Assignment.rater_id == rater_id,
            Assignment.state != AssignmentState.EXPIRED,
        )
        .exists()
    )
    some = (
        select(Task.id)
        .where(Task.project_id == Project.id, Task.open_slots > 0, ~had)
        .limit(1000)
        .correlate(Project)
        .subquery()
    )
    left = select(func.count()).select_from(some).scalar_subquery()
    own = (
        select(func.count())
        .select_from(Ranking)
        .where(Ranking.project_id == Project.id, Ranking.rater_id == rater_id)
        .scalar_subquery()
    )
    held = (
        select(Assignment.id)
        .where(
            Assignment.project_id == Project.id,
            Assignment.rater_id == rater_id,
            Assignment.state == AssignmentState.LEASED,
        )
        .exists()
    )
    rows = await session.execute(
        select(Project, left.label("left"), own.label("own"), held.label("held"))
        .where(Project.paused.is_(False))
        .order_by(Project.name)
    )
    return rows.all()


async def set_task_priority(
    session: AsyncSession, prompt_ids: Sequence[uuid.UUID], priority: int
) -> None:
    """Let the tasks of these prompts have their prompts' new priority."""
    await session.execute(
        update(Task).where(Task.prompt_id.in_(prompt_ids)).values(priority=priority)
    )


async def list_rankings_of(
    session: AsyncSession, prompt_id: uuid.UUID
) -> Sequence[tuple[Ranking, str]]:
    """A prompt's rankings with their raters' names, for admins."""
    rows = await session.execute(
        select(Ranking, User)
        .join(Task, Task.id == Ranking.task_id)
        .join(User, User.id == Ranking.rater_id)
        .where(Task.prompt_id == prompt_id)
        .order_by(Ranking.id)
    )
    return [(ranking, user.display_name) for ranking, user in rows]
