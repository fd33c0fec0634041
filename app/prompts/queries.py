"""Selects of the prompts room."""

import uuid
from collections.abc import Sequence

from sqlalchemy import Select, Text, cast, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.policies.models import Policy
from app.prompts.models import Candidate, Prompt, PromptImport, PromptState


def _matching(project_id: uuid.UUID, state: PromptState | None, words: str) -> Select[Prompt]:
    query = select(Prompt).where(Prompt.project_id == project_id)
    if state is not None:
        query = query.where(Prompt.state == state)
    if words:
        # A search by hand through one project's prompts; a hundred thousand take a moment.
        pattern = "%" + words.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        query = query.where(
            cast(Prompt.messages, Text).ilike(pattern) | Prompt.external_id.ilike(pattern)
        )
    return query


async def list_prompts(
    session: AsyncSession,
    project_id: uuid.UUID,
    *,
    state: PromptState | None,
    words: str,
    limit: int,
    offset: int,
) -> Sequence[Prompt]:
    """A project's prompts in the order of its queue."""
    return (
        await session.scalars(
            _matching(project_id, state, words)
            .order_by(Prompt.priority.desc(), Prompt.id)
            .limit(limit)
            .offset(offset)
        )
    ).all()


async def count_matching(
    session: AsyncSession, project_id: uuid.UUID, *, state: PromptState | None, words: str
) -> int:
    """How many prompts there are of these."""
    matching = _matching(project_id, state, words).subquery()
    return await session.scalar(select(func.count()).select_from(matching)) or 0


async def list_candidates_with_policies(
    session: AsyncSession, prompt_id: uuid.UUID
) -> Sequence[tuple[Candidate, str | None]]:
    """A prompt's candidates with their policies' names, for admins."""
    rows = await session.execute(
        select(Candidate, Policy.name)
        .outerjoin(Policy, Policy.id == Candidate.policy_id)
        .where(Candidate.prompt_id == prompt_id)
        .order_by(Candidate.position)
    )
    return [(candidate, name) for candidate, name in rows]


async def list_imports(
    session: AsyncSession, project_id: uuid.UUID, *, limit: int
) -> Sequence[PromptImport]:
    """The latest imports."""
    return (
        await session.scalars(
            select(PromptImport)
            .where(PromptImport.project_id == project_id)
            .order_by(PromptImport.id.desc())
            .limit(limit)
        )
    ).all()
