"""Training runs and their metrics."""

import uuid
from enum import StrEnum
from typing import TypedDict

from sqlalchemy import ForeignKey, Index, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.db.types import CreatedAt, Id, Moment, choice


class Stage(StrEnum):
    """What a run does: the trainer's own names."""

    SFT = "sft"
    REWARD = "reward"
    PPO = "ppo"
    RLOO = "rloo"
    DPO = "dpo"


# The stages that climb a reward model.
ONLINE = (Stage.PPO, Stage.RLOO)


class RunState(StrEnum):
    """Where a run stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RunConfig(TypedDict, total=False):
    """What a run was asked for beyond its columns."""

    # The trainer's flags, by name.
    flags: dict[str, object]
    # The policy that comes of it, and whether that one serves.
    name: str | None
    serve: bool


class Run(Base):
    """One start of the trainer on an export, followed from its run directory."""

    __tablename__ = "runs"

    id: Mapped[Id]
    project_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    stage: Mapped[Stage] = mapped_column(choice(Stage))
    state: Mapped[RunState] = mapped_column(
        choice(RunState), default=RunState.QUEUED, server_default="queued"
    )
    export_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("exports.id"))
    # The policy it starts from, and the reward run that it climbs (ppo, rloo).
    base_policy_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("policies.id"))
    reward_run_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("runs.id"))
    config: Mapped[RunConfig] = mapped_column(JSONB, default=dict, server_default="{}")
    path: Mapped[str | None] = mapped_column(Text)
    step: Mapped[int] = mapped_column(default=0, server_default="0")
    total_steps: Mapped[int | None]
    cancel_requested: Mapped[bool] = mapped_column(default=False, server_default="false")
    result: Mapped[dict[str, object] | None] = mapped_column(JSONB)
    error: Mapped[str | None] = mapped_column(Text)
    policy_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("policies.id"))
    created_by: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("users.id", ondelete="SET NULL")
    )
    created_at: Mapped[CreatedAt]
    started_at: Mapped[Moment | None]
    finished_at: Mapped[Moment | None]

    __table_args__ = (Index("ix_runs_project_id_id", "project_id", "id"),)


class RunMetric(Base):
    """One line of a run's metrics.jsonl, so that every app process can show the curves."""

    __tablename__ = "run_metrics"

    run_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True
    )
    line: Mapped[int] = mapped_column(primary_key=True)
    data: Mapped[dict[str, object]] = mapped_column(JSONB)
