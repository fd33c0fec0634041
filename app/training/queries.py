"""Selects of the training room."""

import uuid
from collections.abc import Sequence

from sqlalchemy import ColumnElement, Row, func, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import User
from app.projects.models import Project
from app.projects.queries import visible_to
from app.training.models import REWARD, Run, RunMetric, RunState

MAKES_REWARD_MODEL = Run.catalogue["makes"].astext == REWARD


async def list_runs(
    session: AsyncSession,
    viewer: User,
    *,
    project_id: uuid.UUID | None = None,
    limit: int,
    offset: int = 0,
) -> Sequence[Row[Run, Project]]:
    """The runs that the viewer sees, of a project or of all, with their projects, the newest first."""
    rows = await session.execute(
        select(Run, Project)
        .join(Project, Project.id == Run.project_id)
        .where(visible_to(viewer), _of(project_id))
        .order_by(Run.id.desc())
        .limit(limit)
        .offset(offset)
    )
    return rows.all()


async def count_runs_for(
    session: AsyncSession, viewer: User, project_id: uuid.UUID | None = None
) -> int:
    """How many runs the viewer sees, of a project or of all."""
    query = (
        select(func.count())
        .select_from(Run)
        .join(Project, Project.id == Run.project_id)
        .where(visible_to(viewer), _of(project_id))
    )
    return await session.scalar(query) or 0


async def count_runs(session: AsyncSession, project_id: uuid.UUID) -> int:
    """How many runs a project has."""
    query = select(func.count()).select_from(Run).where(Run.project_id == project_id)
    return await session.scalar(query) or 0


def _of(project_id: uuid.UUID | None) -> ColumnElement[bool]:
    return true() if project_id is None else Run.project_id == project_id


async def find_newest_reward_run(session: AsyncSession, project_id: uuid.UUID) -> Run | None:
    """The project's newest reward model."""
    return await session.scalar(
        select(Run)
        .where(
            Run.project_id == project_id,
            MAKES_REWARD_MODEL,
            Run.state == RunState.SUCCEEDED,
        )
        .order_by(Run.id.desc())
        .limit(1)
    )


async def list_reward_runs(session: AsyncSession, viewer: User) -> Sequence[Row[Run, Project]]:
    """Every reward model of a project that the viewer sees, the newest first."""
    rows = await session.execute(
        select(Run, Project)
        .join(Project, Project.id == Run.project_id)
        .where(MAKES_REWARD_MODEL, Run.state == RunState.SUCCEEDED, visible_to(viewer))
        .order_by(Run.id.desc())
    )
    return rows.all()


async def get_run_for_update(session: AsyncSession, run_id: uuid.UUID) -> Run | None:
    """A run, locked."""
    return await session.scalar(
        select(Run)
        .where(Run.id == run_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )


async def list_metrics(
    session: AsyncSession, run_id: uuid.UUID, *, after: int
) -> Sequence[RunMetric]:
    """The run's metrics after this line, in their order."""
    return (
        await session.scalars(
            select(RunMetric)
            .where(RunMetric.run_id == run_id, RunMetric.line > after)
            .order_by(RunMetric.line)
        )
    ).all()


async def count_metrics(session: AsyncSession, run_id: uuid.UUID) -> int:
    """How many lines of metrics are stored."""
    return (
        await session.scalar(
            select(func.count()).select_from(RunMetric).where(RunMetric.run_id == run_id)
        )
    ) or 0
