"""Selects of the datasets room."""

import uuid
from collections.abc import AsyncIterator, Sequence

from sqlalchemy import ColumnElement, Row, Select, func, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import User
from app.datasets.models import Export
from app.datasets.schemas import Filters
from app.policies.models import Policy
from app.projects.models import Guideline, Project
from app.projects.queries import visible_to
from app.prompts.models import Candidate, Prompt
from app.rating.models import Ranking, Task


def _rankings(project_id: uuid.UUID, filters: Filters) -> Select[uuid.UUID, uuid.UUID]:
    query = (
        select(Task.prompt_id, Ranking.id)
        .join(Task, Task.id == Ranking.task_id)
        .join(User, User.id == Ranking.rater_id)
        .where(Ranking.project_id == project_id, User.kind.in_(filters.kinds))
    )
    if filters.since is not None:
        query = query.where(Ranking.created_at >= filters.since)
    if filters.before is not None:
        query = query.where(Ranking.created_at < filters.before)
    if filters.without_flags:
        query = query.where(~Ranking.flags.overlap(filters.without_flags))
    if not filters.extra:
        query = query.where(Ranking.surplus.is_(False))
    if not filters.gold:
        query = query.where(Task.gold.is_(False))
    return query


async def stream_prompts(
    session: AsyncSession, project_id: uuid.UUID, filters: Filters, *, batch: int = 500
) -> AsyncIterator[list[tuple[Prompt, list[tuple[Candidate, str | None]], list[Ranking]]]]:
    """Prompts with their candidates (and policies' names) and the rankings that pass the filters.

    In the order of prompt ids, a batch at a time, so that any number fits into memory.
    """
    chosen = _rankings(project_id, filters).subquery()
    after: uuid.UUID | None = None
    while True:
        page = (
            select(chosen.c.prompt_id)
            .group_by(chosen.c.prompt_id)
            .having(func.count() >= filters.min_rankings)
            .order_by(chosen.c.prompt_id)
            .limit(batch)
        )
        if after is not None:
            page = page.where(chosen.c.prompt_id > after)
        ids = list(await session.scalars(page))
        if not ids:
            return
        after = ids[-1]
        prompts = {
            prompt.id: prompt
            for prompt in await session.scalars(select(Prompt).where(Prompt.id.in_(ids)))
        }
        candidates: dict[uuid.UUID, list[tuple[Candidate, str | None]]] = {each: [] for each in ids}
        for candidate, policy in await session.execute(
            select(Candidate, Policy.name)
            .outerjoin(Policy, Policy.id == Candidate.policy_id)
            .where(Candidate.prompt_id.in_(ids))
            .order_by(Candidate.prompt_id, Candidate.position)
        ):
            candidates[candidate.prompt_id].append((candidate, policy))
        rankings: dict[uuid.UUID, list[Ranking]] = {each: [] for each in ids}
        passing = _rankings(project_id, filters).where(Task.prompt_id.in_(ids)).subquery()
        for prompt_id, ranking in await session.execute(
            select(passing.c.prompt_id, Ranking)
            .join(passing, passing.c.id == Ranking.id)
            .order_by(Ranking.id)
        ):
            rankings[prompt_id].append(ranking)
        yield [(prompts[each], candidates[each], rankings[each]) for each in ids]
        session.expunge_all()


async def list_guidelines(session: AsyncSession, project_id: uuid.UUID) -> Sequence[Guideline]:
    """Every version of a project's guidelines, the oldest first."""
    return (
        await session.scalars(
            select(Guideline).where(Guideline.project_id == project_id).order_by(Guideline.version)
        )
    ).all()


async def count_raters_by_kind(
    session: AsyncSession, project_id: uuid.UUID, filters: Filters
) -> dict[str, int]:
    """How many raters of each kind the filters leave."""
    chosen = _rankings(project_id, filters).subquery()
    rows = await session.execute(
        select(User.kind, func.count(func.distinct(User.id)))
        .join(Ranking, Ranking.rater_id == User.id)
        .join(chosen, chosen.c.id == Ranking.id)
        .group_by(User.kind)
        .order_by(User.kind)
    )
    return {kind.value: count for kind, count in rows.all()}


async def list_exports(
    session: AsyncSession,
    viewer: User,
    *,
    project_id: uuid.UUID | None = None,
    limit: int,
    offset: int = 0,
) -> Sequence[Row[Export, Project]]:
    """The exports that the viewer sees, of a project or of all, with their projects, the newest first."""
    rows = await session.execute(
        select(Export, Project)
        .join(Project, Project.id == Export.project_id)
        .where(visible_to(viewer), _of(project_id))
        .order_by(Export.id.desc())
        .limit(limit)
        .offset(offset)
    )
    return rows.all()


async def count_exports(
    session: AsyncSession, viewer: User, project_id: uuid.UUID | None = None
) -> int:
    """How many exports the viewer sees."""
    query = (
        select(func.count())
        .select_from(Export)
        .join(Project, Project.id == Export.project_id)
        .where(visible_to(viewer), _of(project_id))
    )
    return await session.scalar(query) or 0


def _of(project_id: uuid.UUID | None) -> ColumnElement[bool]:
    return true() if project_id is None else Export.project_id == project_id


async def get_export_for_update(session: AsyncSession, export_id: uuid.UUID) -> Export | None:
    """An export, locked."""
    return await session.scalar(select(Export).where(Export.id == export_id).with_for_update())


async def find_newest_ready_export(session: AsyncSession, project_id: uuid.UUID) -> Export | None:
    """The project's newest export that is ready."""
    return await session.scalar(
        select(Export)
        .where(Export.project_id == project_id, Export.state == "ready")
        .order_by(Export.id.desc())
        .limit(1)
    )
