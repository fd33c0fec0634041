"""Agreement, raters' figures, and the leaderboard, computed from the stored comparisons."""

import asyncio
import uuid
from collections import defaultdict
from collections.abc import Collection, Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import Kind
from app.projects.models import Project
from app.quality import queries
from app.quality.schemas import (
    AgreementOut,
    FigureOut,
    LeaderboardOut,
    QualityOut,
    RaterOut,
    StandingOut,
)
from app.rating.judgement import count_right

# Figures about people never mix with a model's judgements unless somebody asks.
HUMAN = (Kind.PERSON, Kind.IMPORTED)


async def get_quality(
    session: AsyncSession, project: Project, *, kinds: Collection[Kind] = HUMAN
) -> QualityOut:
    """Agreement with intervals, and each rater's figures."""
    pairs = await queries.list_judged_pairs(session, project.id, kinds)
    raters = await queries.list_rater_figures(session, project.id, kinds)
    gold = await measure_gold(session, project)
    agreement, by_rater = await asyncio.to_thread(measure_agreement, pairs)
    return QualityOut(
        agreement=agreement,
        raters=[
            RaterOut(
                id=row.id,
                name=row.name or row.email,
                kind=row.kind.value,
                rankings=row.rankings,
                median_seconds=row.median_seconds,
                agreement=by_rater[row.id][0],
                tie_share=by_rater[row.id][1],
                gold_accuracy=gold[row.id][0],
                gold_tasks=gold[row.id][1],
                last_at=row.last_at,
            )
            for row in raters
        ],
    )


async def measure_gold(
    session: AsyncSession, project: Project
) -> dict[uuid.UUID, tuple[float | None, int]]:
    """Rater to (share of gold pairs put right, gold tasks answered); a tie is half right."""
    right: dict[uuid.UUID, float] = defaultdict(float)
    judged: dict[uuid.UUID, int] = defaultdict(int)
    tasks: dict[uuid.UUID, int] = defaultdict(int)
    for rater_id, ranks, gold_ranks in await queries.list_gold_answers(session, project.id):
        own_right, own_judged = count_right(ranks, gold_ranks or {})
        right[rater_id] += own_right
        judged[rater_id] += own_judged
        tasks[rater_id] += 1
    measured: dict[uuid.UUID, tuple[float | None, int]] = defaultdict(lambda: (None, 0))
    for rater_id, count in tasks.items():
        pairs = judged[rater_id]
        measured[rater_id] = (right[rater_id] / pairs if pairs else None, count)
    return measured


def measure_agreement(
    pairs: Sequence[queries.JudgedPair],
) -> tuple[AgreementOut, dict[uuid.UUID, tuple[float | None, float | None]]]:
    """Agreement over all raters, and for each rater (agreement with the others, share of ties)."""
    import numpy as np

    from app.quality.agreement import FIRST, SECOND, TIE, with_interval

    units: dict[tuple[uuid.UUID, int, int], dict[uuid.UUID, int]] = defaultdict(dict)
    for row in pairs:
        first, second = sorted((row.better, row.worse))
        value = TIE if row.margin == 0 else FIRST if row.better == first else SECOND
        units[row.task_id, first, second][row.rater_id] = value
    same: dict[uuid.UUID, int] = defaultdict(int)
    met: dict[uuid.UUID, int] = defaultdict(int)
    ties: dict[uuid.UUID, int] = defaultdict(int)
    judged: dict[uuid.UUID, int] = defaultdict(int)
    counts, task_numbers = [], []
    numbers: dict[uuid.UUID, int] = {}
    for (task_id, _, _), values in units.items():
        tally = [0, 0, 0]
        for rater, value in values.items():
            tally[value] += 1
            judged[rater] += 1
            ties[rater] += value == TIE
        if len(values) < 2:
            continue
        for rater, value in values.items():
            same[rater] += tally[value] - 1
            met[rater] += len(values) - 1
        counts.append(tally)
        task_numbers.append(numbers.setdefault(task_id, len(numbers)))
    table = np.array(counts, dtype=np.int64).reshape(-1, 3)
    tasks = np.array(task_numbers, dtype=np.int64)

    def figure(measure: str) -> FigureOut:
        return FigureOut.model_validate(with_interval(table, tasks, measure))

    agreement = AgreementOut(
        pairwise=figure("pairwise"),
        alpha_nominal=figure("nominal"),
        alpha_ordinal=figure("ordinal"),
        pairs=len(table),
        tasks=len(numbers),
    )
    by_rater: dict[uuid.UUID, tuple[float | None, float | None]] = defaultdict(lambda: (None, None))
    for rater, total in judged.items():
        by_rater[rater] = (same[rater] / met[rater] if met[rater] else None, ties[rater] / total)
    return agreement, by_rater


async def get_leaderboard(
    session: AsyncSession, project: Project, *, kinds: Collection[Kind] = HUMAN
) -> LeaderboardOut:
    """Policies by Bradley-Terry strength, from the project's comparisons."""
    pairs = await queries.list_policy_pairs(session, project.id, kinds)
    ids = {row.winner for row in pairs} | {row.loser for row in pairs}
    names = await queries.list_policies_by_id(session, ids)
    return await asyncio.to_thread(rank_policies, pairs, names)


def rank_policies(
    pairs: Sequence[queries.PolicyPair], names: dict[uuid.UUID, str]
) -> LeaderboardOut:
    """The leaderboard of these pairs."""
    import numpy as np

    from app.quality.bradley_terry import bootstrap, count_wins, fit

    order = sorted(names, key=lambda policy: names[policy])
    index = {policy: number for number, policy in enumerate(order)}
    strict = [row for row in pairs if row.margin > 0]
    ties = np.zeros(len(order), dtype=np.int64)
    for row in pairs:
        if row.margin == 0:
            ties[index[row.winner]] += 1
            ties[index[row.loser]] += 1
    winner = np.array([index[row.winner] for row in strict], dtype=np.int64)
    loser = np.array([index[row.loser] for row in strict], dtype=np.int64)
    numbers: dict[uuid.UUID, int] = {}
    ranking = np.array(
        [numbers.setdefault(row.ranking_id, len(numbers)) for row in strict], dtype=np.int64
    )
    wins = count_wins(winner, loser, len(order))
    fitted = fit(wins)
    low: Sequence[float | None] = [None] * len(order)
    high: Sequence[float | None] = [None] * len(order)
    if len(numbers) >= 2:
        drawn = bootstrap(winner, loser, ranking, len(order))
        low = [float(value) for value in np.quantile(drawn, 0.025, axis=0)]
        high = [float(value) for value in np.quantile(drawn, 0.975, axis=0)]

    def chance(own: int) -> float | None:
        others = np.delete(fitted.strengths, own)
        if not len(others):
            return None
        return float(np.mean(1 / (1 + np.exp(others - fitted.strengths[own]))))

    standings = [
        StandingOut(
            policy=names[policy],
            strength=float(fitted.strengths[number]),
            low=low[number],
            high=high[number],
            wins=int(wins[number].sum()),
            losses=int(wins[:, number].sum()),
            ties=int(ties[number]),
            win_rate=chance(number),
        )
        for number, policy in enumerate(order)
    ]
    standings.sort(key=lambda standing: (-standing.strength, standing.policy))
    return LeaderboardOut(
        policies=standings,
        comparisons=len(strict),
        ties=len(pairs) - len(strict),
        regularised=fitted.regularised,
    )
