"""What was rated: a rater's own work, and a project's counts."""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import User
from app.db.types import utc_now
from app.errors import NotFound
from app.projects.models import Project
from app.prompts.models import Prompt, PromptState
from app.rating import queries, slots
from app.rating.judgement import LETTERS
from app.rating.models import Ranking
from app.rating.schemas import OwnRanking, Progress


async def get_progress(session: AsyncSession, project: Project) -> Progress:
    """Counts of a project, as they stand now."""
    now = utc_now()
    await slots.free_lapsed_skip_locked(session, project.id)
    prompts = await queries.count_prompts(session, project.id)
    ready, rated = await queries.count_tasks(session, project.id)
    leased, skipped = await queries.count_assignments(session, project.id, now)
    return Progress(
        prompts=sum(prompts.values()),
        queued=prompts.get(PromptState.QUEUED, 0),
        generating=prompts.get(PromptState.GENERATING, 0),
        failed=prompts.get(PromptState.FAILED, 0),
        generated=prompts.get(PromptState.READY, 0),
        ready=ready,
        leased=leased,
        rated=rated,
        rankings=await queries.count_rankings(session, project.id),
        skipped=skipped,
    )


async def list_own_rankings(
    session: AsyncSession, rater: User, *, limit: int = 20, offset: int = 0
) -> list[OwnRanking]:
    """A rater's own rankings, the newest first."""
    rows = await queries.list_own_rankings(session, rater.id, limit=limit, offset=offset)
    ids = [candidate for ranking, _, _, _ in rows for candidate in ranking.presented]
    texts = await queries.list_texts(session, ids)
    return [own_ranking(*row, texts) for row in rows]


async def get_own_ranking(session: AsyncSession, rater: User, ranking_id: uuid.UUID) -> OwnRanking:
    """One of a rater's own rankings. Raises NotFound."""
    row = await queries.get_own_ranking(session, rater.id, ranking_id)
    if row is None:
        raise NotFound("You have no such ranking", place="ranking")
    texts = await queries.list_texts(session, row[0].presented)
    return own_ranking(*row, texts)


def own_ranking(
    ranking: Ranking,
    prompt: Prompt,
    project: Project,
    changeable: bool,
    texts: Mapping[uuid.UUID, str],
) -> OwnRanking:
    """A ranking as its rater may see it again."""
    letters = dict(zip(ranking.presented, LETTERS, strict=False))
    placed = sorted(
        (ranking.ranks[str(each)], letters[each], texts[each]) for each in ranking.presented
    )
    facts: dict[str, Any] = {
        name: getattr(ranking, name)
        for name in (
            *("id", "strength", "flags", "rationale", "rewrite", "seconds", "extra"),
            *("created_at", "revised_at"),
        )
    }
    until = ranking.created_at + timedelta(seconds=project.edit_seconds)
    return OwnRanking(
        project_slug=project.slug,
        project_name=project.name,
        messages=prompt.messages,
        placed=placed,
        axes={
            name: {letters[uuid.UUID(each)]: value for each, value in score.items()}
            if isinstance(score, dict)
            else score
            for name, score in ranking.axes.items()
        },
        open_until=until if changeable and until > utc_now() else None,
        **facts,
    )


async def get_totals(session: AsyncSession, rater: User) -> tuple[int, int, float]:
    """(all, today's, seconds today) of a rater's rankings; the day is UTC's."""
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return await queries.count_own_rankings(session, rater.id, midnight)
