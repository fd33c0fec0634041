"""Selects of the quality room."""

import uuid
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Row, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from app.accounts.models import Kind, User
from app.policies.models import Policy
from app.prompts.models import Candidate
from app.rating.models import Comparison, Ranking, Task


class JudgedPair(NamedTuple):
    """One rater's word on two candidates of a task, by their positions in the prompt."""

    task_id: uuid.UUID
    rater_id: uuid.UUID
    better: int
    worse: int
    margin: int


class RaterFigures(NamedTuple):
    """What a rater has done in a project."""

    id: uuid.UUID
    name: str
    email: str
    kind: Kind
    rankings: int
    median_seconds: float | None
    last_at: datetime


class PolicyPair(NamedTuple):
    """One ranking's word on two policies."""

    ranking_id: uuid.UUID
    winner: uuid.UUID
    loser: uuid.UUID
    margin: int


async def list_judged_pairs(
    session: AsyncSession, project_id: uuid.UUID, kinds: Collection[Kind]
) -> Sequence[JudgedPair]:
    """Every comparison."""
    better, worse = aliased(Candidate), aliased(Candidate)
    rows = await session.execute(
        select(
            Ranking.task_id,
            Ranking.rater_id,
            better.position.label("better"),
            worse.position.label("worse"),
            Comparison.margin,
        )
        .join(Comparison, Comparison.ranking_id == Ranking.id)
        .join(User, User.id == Ranking.rater_id)
        .join(better, better.id == Comparison.better_id)
        .join(worse, worse.id == Comparison.worse_id)
        .where(Ranking.project_id == project_id, User.kind.in_(kinds))
        .order_by(Ranking.task_id, Ranking.id)
    )
    return [JudgedPair(*row) for row in rows]


async def list_rater_figures(
    session: AsyncSession, project_id: uuid.UUID, kinds: Collection[Kind]
) -> Sequence[RaterFigures]:
    """Each rater, the busiest first."""
    rows = await session.execute(
        select(
            User.id,
            User.name,
            User.email,
            User.kind,
            func.count().label("rankings"),
            func.percentile_cont(0.5).within_group(Ranking.seconds).label("median_seconds"),
            func.max(Ranking.created_at).label("last_at"),
        )
        .join(Ranking, Ranking.rater_id == User.id)
        .where(Ranking.project_id == project_id, User.kind.in_(kinds))
        .group_by(User.id)
        .order_by(func.count().desc(), User.id)
    )
    return [RaterFigures(*row) for row in rows]


async def list_gold_answers(
    session: AsyncSession, project_id: uuid.UUID
) -> Sequence[Row[uuid.UUID, dict[str, int], dict[str, int] | None]]:
    """(rater, their ranks, the gold ranks) of every answer to a gold task."""
    rows = await session.execute(
        select(Ranking.rater_id, Ranking.ranks, Task.gold_ranks)
        .join(Task, Task.id == Ranking.task_id)
        .where(Ranking.project_id == project_id, Task.gold, Task.gold_ranks.is_not(None))
    )
    return rows.all()


async def list_policy_pairs(
    session: AsyncSession, project_id: uuid.UUID, kinds: Collection[Kind]
) -> Sequence[PolicyPair]:
    """Every pair of two known policies."""
    better, worse = aliased(Candidate), aliased(Candidate)
    rows = await session.execute(
        select(
            Comparison.ranking_id,
            better.policy_id.label("winner"),
            worse.policy_id.label("loser"),
            Comparison.margin,
        )
        .join(Ranking, Ranking.id == Comparison.ranking_id)
        .join(User, User.id == Ranking.rater_id)
        .join(better, better.id == Comparison.better_id)
        .join(worse, worse.id == Comparison.worse_id)
        .where(
            Ranking.project_id == project_id,
            User.kind.in_(kinds),
            better.policy_id.is_not(None),
            worse.policy_id.is_not(None),
            better.policy_id != worse.policy_id,
        )
        .order_by(Comparison.ranking_id, Comparison.better_id, Comparison.worse_id)
    )
    return [
        PolicyPair(ranking_id, winner, loser, margin)
        for ranking_id, winner, loser, margin in rows
        if winner and loser  # the statement says so too; the columns may be null
    ]


async def list_policies_by_id(
    session: AsyncSession, ids: Collection[uuid.UUID]
) -> dict[uuid.UUID, str]:
    """The names of these policies."""
    rows = await session.execute(select(Policy.id, Policy.name).where(Policy.id.in_(ids)))
    return dict(rows.all())
