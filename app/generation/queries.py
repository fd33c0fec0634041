"""Selects of the generation room."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Row, and_, func, or_, select, text, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.generation.models import GenerationFailure
from app.policies.models import Policy
from app.projects.models import Project
from app.prompts.models import Candidate, Prompt, PromptState


def _due(now: datetime) -> ColumnElement[bool]:
    """A prompt that a worker may take now: waiting and due, or held by one that stalled."""
    return or_(
        and_(
            Prompt.state == PromptState.QUEUED,
            or_(Prompt.due_at.is_(None), Prompt.due_at <= now),
        ),
        and_(Prompt.state == PromptState.GENERATING, Prompt.claimed_until <= now),
    )


async def claim_prompts_for_update(
    session: AsyncSession, project_id: uuid.UUID, *, limit: int, now: datetime
) -> Sequence[Prompt]:
    """The next prompts to be answered, locked; what other workers lock is skipped."""
    return (
        await session.scalars(
            select(Prompt)
            .where(Prompt.project_id == project_id, _due(now))
            .order_by(Prompt.priority.desc(), Prompt.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .execution_options(populate_existing=True)
        )
    ).all()


async def get_claimed_prompt_for_update(
    session: AsyncSession, prompt_id: uuid.UUID, claim: datetime
) -> Prompt | None:
    """The prompt, locked, if the claim that ends at this moment is still the one that counts."""
    return await session.scalar(
        select(Prompt)
        .where(
            Prompt.id == prompt_id,
            Prompt.state == PromptState.GENERATING,
            Prompt.claimed_until == claim,
        )
        .with_for_update()
    )


async def renew_claims(
    session: AsyncSession, claims: Mapping[uuid.UUID, datetime], until: datetime
) -> set[uuid.UUID]:
    """Let the claims that still count, by prompt and end, last until then; those that did."""
    rows = await session.scalars(
        update(Prompt)
        .where(
            tuple_(Prompt.id, Prompt.claimed_until).in_(list(claims.items())),
            Prompt.state == PromptState.GENERATING,
        )
        .values(claimed_until=until)
        .returning(Prompt.id)
        .execution_options(synchronize_session=False)
    )
    return set(rows)


async def list_policies(session: AsyncSession, ids: Sequence[uuid.UUID]) -> Sequence[Policy]:
    """These policies, those in service, in the order given."""
    policies = {
        policy.id: policy
        for policy in await session.scalars(
            select(Policy).where(Policy.id.in_(ids), Policy.retired_at.is_(None))
        )
    }
    return [policies[each] for each in ids if each in policies]


async def count_due(session: AsyncSession, project_id: uuid.UUID, now: datetime) -> int:
    """How many prompts a worker could take now."""
    count = await session.scalar(
        select(func.count()).select_from(Prompt).where(Prompt.project_id == project_id, _due(now))
    )
    return count or 0


async def count_states(session: AsyncSession, project_id: uuid.UUID) -> dict[PromptState, int]:
    """How many prompts stand where."""
    rows = await session.execute(
        select(Prompt.state, func.count())
        .where(Prompt.project_id == project_id)
        .group_by(Prompt.state)
    )
    return dict(rows.all())


async def next_due_at(
    session: AsyncSession, project_id: uuid.UUID, now: datetime
) -> datetime | None:
    """When the earliest prompt that backs off is tried again."""
    return await session.scalar(
        select(func.min(Prompt.due_at)).where(
            Prompt.project_id == project_id,
            Prompt.state == PromptState.QUEUED,
            Prompt.due_at > now,
        )
    )


async def list_projects_with_due_prompts(
    session: AsyncSession, now: datetime
) -> Sequence[Row[uuid.UUID, int]]:
    """(project id, due prompts) of projects that are not paused."""
    rows = await session.execute(
        select(Prompt.project_id, func.count().label("due"))
        .join(Project, Project.id == Prompt.project_id)
        .where(Project.paused.is_(False), _due(now))
        .group_by(Prompt.project_id)
    )
    return rows.all()


async def count_waiting_tickets(session: AsyncSession, project_id: uuid.UUID) -> int:
    """The project's tickets that a worker could take now, or has taken."""
    count = await session.scalar(
        text(
            "SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'generation:generate' "
            "AND status IN ('todo', 'doing') AND args->>'project_id' = :project "
            "AND (scheduled_at IS NULL OR scheduled_at <= now())"
        ),
        {"project": str(project_id)},
    )
    return int(count or 0)


async def count_live_workers(session: AsyncSession) -> int:
    """Workers (of any queue but the web process's own) that gave a sign of life lately."""
    count = await session.scalar(
        text(
            "SELECT count(*) FROM procrastinate_workers "
            "WHERE last_heartbeat > now() - interval '35 seconds'"
        )
    )
    return int(count or 0)


async def list_failures(
    session: AsyncSession, project_id: uuid.UUID, *, limit: int
) -> Sequence[Row[GenerationFailure, Prompt]]:
    """The latest failed tries with their prompts."""
    rows = await session.execute(
        select(GenerationFailure, Prompt)
        .join(Prompt, Prompt.id == GenerationFailure.prompt_id)
        .where(GenerationFailure.project_id == project_id)
        .order_by(GenerationFailure.id.desc())
        .limit(limit)
    )
    return rows.all()


async def count_recent_candidates(
    session: AsyncSession, project_id: uuid.UUID, *, minutes: int, now: datetime
) -> int:
    """How many candidates were written in the last minutes."""
    count = await session.scalar(
        select(func.count())
        .select_from(Candidate)
        .join(Prompt, Prompt.id == Candidate.prompt_id)
        .where(
            Prompt.project_id == project_id,
            Candidate.seed.is_not(None),
            Candidate.created_at > now - timedelta(minutes=minutes),
        )
    )
    return count or 0


async def requeue_failed(session: AsyncSession, project_id: uuid.UUID) -> int:
    """Put every failed prompt back into the queue, as if never tried."""
    rows = await session.scalars(
        update(Prompt)
        .where(Prompt.project_id == project_id, Prompt.state == PromptState.FAILED)
        .values(state=PromptState.QUEUED, attempts=0, due_at=None, failure=None)
        .returning(Prompt.id)
    )
    return len(rows.all())
