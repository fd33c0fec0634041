"""What was rated: a rater's own work, and a project's counts."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import User
from app.db.types import utc_now
from app.errors import NotFound
from app.projects.models import Project
from app.prompts.models import Prompt, PromptState
from app.rating import queries, slots
from app.rating.judgement import LETTERS, count_right
from app.rating.models import Ranking
from app.rating.schemas import OwnRanking, Progress


async def get_progress(session: AsyncSession, project: Project) -> Progress:
    """Counts of a project, as they stand now."""
    now = utc_now()
    await slots.free_expired_skip_locked(session, project.id)
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
    rows = await queries.list_own_rankings(session, rater, limit=limit, offset=offset)
    ids = [candidate for ranking, _, _, _ in rows for candidate in ranking.candidate_ids]
    texts = await queries.list_texts(session, ids)
    return [own_ranking(*row, texts) for row in rows]


async def get_own_ranking(session: AsyncSession, rater: User, ranking_id: uuid.UUID) -> OwnRanking:
    """One of a rater's own rankings. Raises NotFound."""
    row = await queries.get_own_ranking(session, rater, ranking_id)
    if row is None:
        raise NotFound("You have no such ranking", field="ranking")
    texts = await queries.list_texts(session, row[0].candidate_ids)
    return own_ranking(*row, texts)


def own_ranking(
    ranking: Ranking,
    prompt: Prompt,
    project: Project,
    changeable: bool,
    texts: Mapping[uuid.UUID, str],
) -> OwnRanking:
    """A ranking as its rater may see it again."""
    letters = dict(zip(ranking.candidate_ids, LETTERS, strict=False))
    ranked = sorted(
        (ranking.ranks[str(each)], letters[each], texts[each]) for each in ranking.candidate_ids
    )
    until = ranking.created_at + timedelta(seconds=project.edit_seconds)
    return OwnRanking(
        id=ranking.id,
        project_slug=project.slug,
        project_name=project.name,
        messages=prompt.messages,
        ranked=ranked,
        axes={
            name: {letters[uuid.UUID(each)]: value for each, value in score.items()}
            if isinstance(score, dict)
            else score
            for name, score in ranking.axes.items()
        },
        strength=ranking.strength,
        flags=ranking.flags,
        rationale=ranking.rationale,
        rewrite=ranking.rewrite,
        seconds=ranking.seconds,
        surplus=ranking.surplus,
        created_at=ranking.created_at,
        revised_at=ranking.revised_at,
        open_until=until if changeable and until > utc_now() else None,
    )


async def count_today(session: AsyncSession, rater: User) -> int:
    """How many rankings the rater has given since midnight (UTC)."""
    return await queries.count_own_since(session, rater.id, _midnight())


def _midnight() -> datetime:
    return utc_now().replace(hour=0, minute=0, second=0, microsecond=0)


@dataclass(frozen=True)
class Day:
    """One day of a rater's work; the height of its bar in percent of the busiest."""

    day: date
    rankings: int
    seconds: float
    height: int


@dataclass(frozen=True)
class OwnFigures:
    """What a rater's work adds up to. Nothing in it tells which tasks were gold."""

    total: int
    # Those that can still be read: of projects that the rater sees.
    listed: int
    today: int
    seconds_today: float
    median_seconds: float | None
    # Rankings an hour at that time; None where it is not known.
    pace: float | None
    skipped: int
    put_off: int
    # The share of pairs that others who had the same tasks put the same way; None where nobody has.
    agreement: float | None
    shared_pairs: int
    days: Sequence[Day]


@dataclass(frozen=True)
class OwnGold:
    """How a rater's answers to a project's gold tasks came out; which tasks they were is not told."""

    project: str
    answers: int
    right: float
    pairs: int


async def list_own_gold(session: AsyncSession, rater: User) -> list[OwnGold]:
    """Of every project that lets its raters know, where this one has answered any."""
    answers: dict[str, list[tuple[float, int]]] = {}
    for name, ranks, gold_ranks in await queries.list_own_gold(session, rater):
        answers.setdefault(name, []).append(count_right(ranks, gold_ranks or {}))
    return [
        OwnGold(name, len(each), sum(right for right, _ in each), sum(pairs for _, pairs in each))
        for name, each in answers.items()
    ]


async def get_own_figures(session: AsyncSession, rater: User, *, days: int = 14) -> OwnFigures:
    """A rater's totals, and their last days, the oldest first; the days are UTC's."""
    since = _midnight() - timedelta(days=days - 1)
    totals = await queries.get_own_totals(session, rater.id)
    by_day = await queries.count_own_by_day(session, rater.id, since)
    same, shared = await queries.count_own_agreement(session, rater.id)
    busiest = max((count for count, _ in by_day.values()), default=0)
    dates = [(since + timedelta(days=number)).date() for number in range(days)]
    rows = [
        Day(each, count, seconds, round(100 * count / busiest) if busiest else 0)
        for each in dates
        for count, seconds in [by_day.get(each, (0, 0.0))]
    ]
    return OwnFigures(
        total=totals.total,
        listed=await queries.count_own_listed(session, rater),
        today=rows[-1].rankings,
        seconds_today=rows[-1].seconds,
        median_seconds=totals.median_seconds,
        pace=3600 / totals.median_seconds if totals.median_seconds else None,
        skipped=totals.skipped,
        put_off=totals.put_off,
        agreement=same / shared if shared else None,
        shared_pairs=shared,
        days=rows,
    )
