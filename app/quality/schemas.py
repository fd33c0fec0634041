"""The shapes of quality figures at the edge."""

import uuid
from datetime import datetime

from pydantic import BaseModel, ConfigDict


class FigureOut(BaseModel):
    """A figure with its 95 % bootstrap interval; null where there is too little to say."""

    model_config = ConfigDict(from_attributes=True)

    value: float | None
    low: float | None
    high: float | None


class AgreementOut(BaseModel):
    """How far raters agree, over the pairs that two or more of them judged."""

    pairwise: FigureOut
    alpha_nominal: FigureOut
    alpha_ordinal: FigureOut
    # How much it rests on.
    pairs: int
    tasks: int


class RaterOut(BaseModel):
    """One rater's figures."""

    id: uuid.UUID
    name: str
    kind: str
    rankings: int
    median_seconds: float | None
    # The share of pairs, among those that somebody else judged too, where the other said the same.
    agreement: float | None
    tie_share: float | None
    # The share of gold pairs that the rater put right; None where no gold task was answered.
    gold_accuracy: float | None
    gold_tasks: int
    last_at: datetime


class QualityOut(BaseModel):
    """Agreement, and each rater."""

    agreement: AgreementOut
    raters: list[RaterOut]


class StandingOut(BaseModel):
    """One policy on the leaderboard."""

    policy: str
    # Bradley-Terry log strength, mean 0, with its 95 % bootstrap interval.
    strength: float
    low: float | None
    high: float | None
    wins: int
    losses: int
    ties: int
    # The modelled chance to beat the average of the others.
    win_rate: float | None


class LeaderboardOut(BaseModel):
    """Policies, the strongest first."""

    policies: list[StandingOut]
    comparisons: int
    ties: int
    # True where somebody never lost or never won: a weak prior keeps their strength finite.
    regularised: bool
