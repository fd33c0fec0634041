"""Selects of the prompts room."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class KnownCandidate:
    """A stored response, by what it is told by."""

    id: uuid.UUID
    text: str
    policy: str | None


@dataclass(frozen=True)
class Known:
    """A stored prompt, with what a further row of its id is held against."""

    prompt_id: uuid.UUID
    external_id: str
    import_id: uuid.UUID | None
    messages: list[dict[str, str]]
    candidates: Sequence[KnownCandidate]
    # Where it came from, for people.
    origin: str = ""


async def list_known(
    session: AsyncSession, project_id: uuid.UUID, external_ids: Sequence[str]
) -> Mapping[str, Known]:
    """The project's prompts of these ids, with their candidates in their order."""
    found = await session.execute(
        select(Prompt, PromptImport.source)
        .outerjoin(PromptImport, PromptImport.id == Prompt.import_id)
        .where(Prompt.project_id == project_id, Prompt.external_id.in_(external_ids))
    )
    prompts = {prompt.id: (prompt, source) for prompt, source in found}
    candidates: dict[uuid.UUID, list[KnownCandidate]] = {each: [] for each in prompts}
    rows = await session.execute(
        select(Candidate.prompt_id, Candidate.id, Candidate.text, Policy.name)
        .outerjoin(Policy, Policy.id == Candidate.policy_id)
        .where(Candidate.prompt_id.in_(prompts))
        .order_by(Candidate.prompt_id, Candidate.position)
    )
    for prompt_id, candidate_id, words, policy in rows:
        candidates[prompt_id].append(KnownCandidate(candidate_id, words, policy))
    return {
        prompt.external_id: Known(
            prompt.id,
            prompt.external_id,
            prompt.import_id,
            prompt.messages,
            candidates[prompt.id],
            f"imported from {source}" if source else "imported earlier",
        )
        for prompt, source in prompts.values()
        if prompt.external_id is not None
    }


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
