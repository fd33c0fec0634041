"""Selects of the training room."""

import uuid
from collections.abc import Sequence

from sqlalchemy import Row, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.projects.models import Project
from app.training.models import REWARD, Run, RunMetric, RunState

MAKES_REWARD_MODEL = Run.catalogue["makes"].astext == REWARD


async def list_runs(
    session: AsyncSession, *, limit: int, offset: int = 0
) -> Sequence[Row[Run, Project]]:
    """All runs with their projects, the newest first."""
    rows = await session.execute(
        select(Run, Project)
        .join(Project, Project.id == Run.project_id)
        .order_by(Run.id.desc())
        .limit(limit)
        .offset(offset)
    )
    return rows.all()


async def count_runs(session: AsyncSession, project_id: uuid.UUID | None = None) -> int:
    """How many runs there are, of a project or of all."""
    query = select(func.count()).select_from(Run)
    if project_id is not None:
        query = query.where(Run.project_id == project_id)
    return await session.scalar(query) or 0


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


async def list_reward_runs(session: AsyncSession) -> Sequence[Row[Run, Project]]:
    """Every reward model, the newest first."""
    rows = await session.execute(
        select(Run, Project)
        .join(Project, Project.id == Run.project_id)
        .where(MAKES_REWARD_MODEL, Run.state == RunState.SUCCEEDED)
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
