"""What an admin sees and does of tasks that go on as they were: an older overlap, skipped by everybody."""

# ruff: noqa: S608 - the statements are put together from this file's own constants alone

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.service import record
from app.projects.models import Project


class OtherOverlaps(NamedTuple):
    """Tasks that ask fewer raters, or more, than the project's settings say now."""

    fewer: int
    more: int


class Count(NamedTuple):
    """A reason or a flag, and how often it was given."""

    name: str
    times: int


class Skip(NamedTuple):
    """A task given back: by whom, why and when."""

    rater: str
    reason: str
    at: datetime | None


class LeftOver(NamedTuple):
    """Tasks that nobody will take: skipped by every rater, or retired."""

    skipped_by_all: int
    retired: int


# Gold tasks are for everybody, whatever the overlap.
_OTHER_OVERLAPS = text("""
    SELECT count(*) FILTER (WHERE task.overlap < project.overlap) AS fewer,
           count(*) FILTER (WHERE task.overlap > project.overlap) AS more
    FROM tasks AS task JOIN projects AS project ON project.id = task.project_id
    WHERE project.id = :project_id AND NOT task.gold AND task.retired_at IS NULL
""")

_RAISE_OVERLAP = text("""
    UPDATE tasks
    SET overlap = project.overlap, open_slots = tasks.open_slots + project.overlap - tasks.overlap
    FROM projects AS project
    WHERE project.id = :project_id AND tasks.project_id = project.id AND NOT tasks.gold
      AND tasks.retired_at IS NULL AND tasks.overlap < project.overlap
    RETURNING tasks.id
""")

# Open, given back, and every rater there is has had it: it would be open for ever.
_SKIPPED_BY_ALL = """
    SELECT task.id FROM tasks AS task JOIN projects AS project ON project.id = task.project_id
    WHERE task.project_id = :project_id AND task.open_slots > 0 AND NOT task.gold
      AND task.retired_at IS NULL
      AND EXISTS (SELECT FROM assignments
                  WHERE assignments.task_id = task.id AND assignments.state = 'skipped')
      AND NOT EXISTS (
          SELECT FROM users AS rater
          WHERE rater.role = 'rater' AND rater.kind = 'person' AND rater.disabled_at IS NULL
            AND (NOT project.members_only
                 OR EXISTS (SELECT FROM memberships AS member
                            WHERE member.project_id = project.id AND member.user_id = rater.id))
            AND NOT EXISTS (SELECT FROM assignments AS had
                            WHERE had.task_id = task.id AND had.rater_id = rater.id
                              AND had.state <> 'expired'))
"""

_LEFT_OVER = text(f"""
    SELECT (SELECT count(*) FROM ({_SKIPPED_BY_ALL}) AS found) AS skipped_by_all,
           (SELECT count(*) FROM tasks
            WHERE project_id = :project_id AND retired_at IS NOT NULL) AS retired
""")

_RETIRE = text(f"""
    UPDATE tasks SET retired_at = statement_timestamp() WHERE id IN ({_SKIPPED_BY_ALL})
    RETURNING id
""")

# As if the leases had run out: each may come to its rater again. The reason stays, to be read.
_REOPEN = text(f"""
    WITH again AS (
        UPDATE assignments SET state = 'expired', finished_at = NULL
        WHERE state = 'skipped' AND task_id IN ({_SKIPPED_BY_ALL})
        RETURNING task_id
    )
    SELECT count(DISTINCT task_id) FROM again
""")

_REASONS = text("""
    SELECT skip_reason AS name, count(*) AS times FROM assignments
    WHERE project_id = :project_id AND skip_reason IS NOT NULL
    GROUP BY skip_reason ORDER BY count(*) DESC, skip_reason LIMIT 20
""")

_FLAGS = text("""
    SELECT flag AS name, count(*) AS times FROM rankings, unnest(flags) AS flag
    WHERE project_id = :project_id
    GROUP BY flag ORDER BY count(*) DESC, flag LIMIT 20
""")

_SKIPS = text("""
    SELECT COALESCE(NULLIF(rater.name, ''), rater.email) AS rater, assignment.skip_reason AS reason,
           COALESCE(assignment.finished_at, assignment.leased_at) AS at
    FROM assignments AS assignment
    JOIN tasks AS task ON task.id = assignment.task_id
    JOIN users AS rater ON rater.id = assignment.rater_id
    WHERE task.prompt_id = :prompt_id AND assignment.skip_reason IS NOT NULL
    ORDER BY at, assignment.id
""")


async def count_other_overlaps(session: AsyncSession, project_id: uuid.UUID) -> OtherOverlaps:
    """How many tasks go on with another overlap than the project has now."""
    row = (await session.execute(_OTHER_OVERLAPS, {"project_id": project_id})).one()
    return OtherOverlaps(**row._asdict())


async def raise_overlap(session: AsyncSession, project: Project, *, actor: uuid.UUID) -> int:
    """Let tasks that ask fewer raters than the project ask as many; how many they were."""
    raised = (await session.execute(_RAISE_OVERLAP, {"project_id": project.id})).all()
    await record(
        session, actor, "tasks.overlap", project.slug, overlap=project.overlap, tasks=len(raised)
    )
    return len(raised)


async def count_left_over(session: AsyncSession, project_id: uuid.UUID) -> LeftOver:
    """How many tasks nobody will take."""
    row = (await session.execute(_LEFT_OVER, {"project_id": project_id})).one()
    return LeftOver(**row._asdict())


async def retire_skipped(session: AsyncSession, project: Project, *, actor: uuid.UUID) -> int:
    """Hand out no more what every rater has skipped; how many tasks. Their rankings stay and count."""
    retired = (await session.execute(_RETIRE, {"project_id": project.id})).all()
    await record(session, actor, "tasks.retire", project.slug, tasks=len(retired))
    return len(retired)


async def reopen_skipped(session: AsyncSession, project: Project, *, actor: uuid.UUID) -> int:
    """Offer what every rater has skipped to them again; how many tasks."""
    reopened = (await session.execute(_REOPEN, {"project_id": project.id})).scalar_one()
    await record(session, actor, "tasks.reopen", project.slug, tasks=reopened)
    return int(reopened)


async def list_skip_reasons(session: AsyncSession, project_id: uuid.UUID) -> Sequence[Count]:
    """Why tasks were given back, the most frequent first."""
    rows = await session.execute(_REASONS, {"project_id": project_id})
    return [Count._make(row) for row in rows]


async def list_flag_counts(session: AsyncSession, project_id: uuid.UUID) -> Sequence[Count]:
    """Which flags rankings carry, the most frequent first."""
    rows = await session.execute(_FLAGS, {"project_id": project_id})
    return [Count._make(row) for row in rows]


async def list_skips(session: AsyncSession, prompt_id: uuid.UUID) -> Sequence[Skip]:
    """Who gave a prompt's task back, and why."""
    return [Skip._make(row) for row in await session.execute(_SKIPS, {"prompt_id": prompt_id})]
