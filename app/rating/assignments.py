"""What a rater's assignment holds: its contents, what a ranking of it is held against, its draft."""

# ruff: noqa: S608 - the statements are put together from this file's own constants alone

import uuid
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.projects.queries import RATER_SEES_PROJECT
from app.rating.schemas import KnownFlag, Scale


class Contents(NamedTuple):
    """An assignment with its task, as its rater sees it."""

    id: uuid.UUID
    task_id: uuid.UUID
    state: str
    presented: list[uuid.UUID]
    qualification: bool
    expires_at: datetime
    expired: bool
    draft: dict[str, object] | None
    guideline_version: int
    slug: str
    axes: list[Scale]
    flags: list[KnownFlag]
    messages: list[dict[str, str]]
    candidates: list[dict[str, str]]


class OwnAssignment(NamedTuple):
    """A rater's assignment, with what a ranking of it is held against."""

    id: uuid.UUID
    task_id: uuid.UUID
    project_id: uuid.UUID
    state: str
    presented: list[uuid.UUID]
    guideline_version: int
    qualification: bool
    slug: str
    newest_version: int
    axes: list[Scale]
    flags: list[KnownFlag]
    qualification_tasks: int
    qualification_accuracy: float
    require_seen: bool


class ShownTask(NamedTuple):
    """A task that is looked at, not handed out."""

    id: uuid.UUID
    messages: list[dict[str, str]]
    candidates: list[dict[str, str]]


CANDIDATES = """
    (SELECT json_agg(json_build_object('id', candidate.id, 'text', candidate.text)
                     ORDER BY candidate.position)
     FROM candidates AS candidate WHERE candidate.prompt_id = prompt.id) AS candidates
"""

_CONTENTS = text(f"""
    SELECT assignment.id, assignment.task_id, assignment.state, assignment.presented,
           assignment.qualification, assignment.expires_at,
           assignment.expires_at <= statement_timestamp() AS expired, assignment.draft,
           assignment.guideline_version, project.slug, project.axes,
           project.flags, prompt.messages, {CANDIDATES}
    FROM assignments AS assignment
    JOIN projects AS project ON project.id = assignment.project_id
    JOIN tasks AS task ON task.id = assignment.task_id
    JOIN prompts AS prompt ON prompt.id = task.prompt_id
    WHERE assignment.id = :id AND assignment.rater_id = :rater_id AND {RATER_SEES_PROJECT}
""")

_TASK = f"""
    SELECT task.id, prompt.messages, {CANDIDATES}
    FROM tasks AS task JOIN prompts AS prompt ON prompt.id = task.prompt_id
    WHERE task.project_id = :project_id
"""
_TASK_OF_PROMPT = text(f"{_TASK} AND task.prompt_id = :prompt_id")
_NEXT_TASK = text(f"""
    {_TASK} AND task.open_slots > 0 AND task.retired_at IS NULL
    ORDER BY task.priority DESC, task.overlap - task.open_slots, task.id
    LIMIT 1
""")

_ASSIGNMENT = text(f"""
    SELECT assignment.id, assignment.task_id, assignment.project_id, assignment.state,
           assignment.presented, assignment.guideline_version, assignment.qualification,
           project.slug, project.guideline_version AS newest_version, project.axes,
           project.flags, project.qualification_tasks,
           project.qualification_accuracy, project.require_seen
    FROM assignments AS assignment JOIN projects AS project ON project.id = assignment.project_id
    WHERE assignment.id = :id AND assignment.rater_id = :rater_id AND {RATER_SEES_PROJECT}
""")

_SAVE_DRAFT = text(f"""
    UPDATE assignments
    SET draft = CAST(:draft AS jsonb),
        expires_at = CASE WHEN assignments.state = 'leased'
                          THEN statement_timestamp() + make_interval(secs => project.lease_seconds)
                          ELSE assignments.expires_at END
    FROM projects AS project
    WHERE assignments.id = :id AND assignments.rater_id = :rater_id
      AND assignments.state IN ('leased', 'expired') AND project.id = assignments.project_id
      AND {RATER_SEES_PROJECT}
    RETURNING assignments.expires_at
""")


async def find_task(
    session: AsyncSession, project_id: uuid.UUID, prompt_id: uuid.UUID | None
) -> ShownTask | None:
    """The task of a prompt, or (without one) the next that a rater new to the project would get."""
    values = {"project_id": project_id}
    if prompt_id is None:
        row = (await session.execute(_NEXT_TASK, values)).one_or_none()
    else:
        statement, values = _TASK_OF_PROMPT, values | {"prompt_id": prompt_id}
        row = (await session.execute(statement, values)).one_or_none()
    return ShownTask(**row._asdict()) if row else None


async def find_contents(
    session: AsyncSession, assignment_id: uuid.UUID, rater_id: uuid.UUID
) -> Contents | None:
    """All that its rater sees of an assignment."""
    values = {"id": assignment_id, "rater_id": rater_id}
    row = (await session.execute(_CONTENTS, values)).one_or_none()
    return Contents(**row._asdict()) if row else None


async def find_assignment(
    session: AsyncSession, assignment_id: uuid.UUID, rater_id: uuid.UUID
) -> OwnAssignment | None:
    """What a rater's submit is held against."""
    values = {"id": assignment_id, "rater_id": rater_id}
    row = (await session.execute(_ASSIGNMENT, values)).one_or_none()
    return OwnAssignment(**row._asdict()) if row else None


async def save_draft(
    session: AsyncSession, assignment_id: uuid.UUID, rater_id: uuid.UUID, draft: str
) -> datetime | None:
    """Keep a draft (JSON) and renew the lease: its end, or None where there is none to keep it for."""
    values = {"id": assignment_id, "rater_id": rater_id, "draft": draft}
    end: datetime | None = await session.scalar(_SAVE_DRAFT, values)
    return end
