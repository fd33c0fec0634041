"""Training runs and their metrics."""

import uuid
from enum import StrEnum

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column
from typing_extensions import TypedDict  # pydantic cannot read typing's before Python 3.12

from app.db.base import Base
from app.db.types import CreatedAt, Id, Moment, choice

# What a reward model is called where the trainer says what a stage makes and needs.
REWARD = "reward"


class RunState(StrEnum):
    """Where a run stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


Setting = int | float | bool | str


class RunConfig(TypedDict, total=False):
    """What a run was asked for beyond its columns."""

    # The trainer's flags, by name.
    flags: dict[str, Setting]
    # The policy that comes of it, whether that one serves, and whether instead of its parent.
    name: str | None
    serve: bool
    replace: bool
    # Every setting that is in force, defaults too, as the trainer tells it once the run has begun.
    in_force: dict[str, object]


class CurveEntry(TypedDict):
    """A curve of a run: names of metrics in one unit."""

    title: str
    unit: str
    metrics: list[str]


class RunCatalogue(TypedDict, total=False):
    """What the trainer says of a run's stage."""

    title: str
    makes: str
    needs: list[str]
    # Known once the run has begun.
    curves: list[CurveEntry]


class Run(Base):
    """One start of the trainer on an export, followed from its run directory."""

    __tablename__ = "runs"

    id: Mapped[Id]
    project_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    # One of the trainer's own names: which there are, the trainer knows.
    stage: Mapped[str] = mapped_column(String(32))
    # What it is called, what it makes and which curves it has: the stage's entry in the trainer's catalogue
    # when the run was asked for, and as its own config.json tells it once it has begun.
    catalogue: Mapped[RunCatalogue] = mapped_column(JSONB, default=dict, server_default="{}")
    state: Mapped[RunState] = mapped_column(
        choice(RunState), default=RunState.QUEUED, server_default="queued"
    )
    export_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("exports.id"))
    # The policy it starts from, and the run of the reward model that it is trained against, if it is.
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

    @property
    def title(self) -> str:
        """What people call the stage."""
        return str(self.catalogue.get("title") or self.stage)

    @property
    def makes_reward_model(self) -> bool:
        """Whether it makes a reward model, which is no policy: it cannot speak."""
        return self.catalogue.get("makes") == REWARD


class RunMetric(Base):
    """One line of a run's metrics.jsonl, so that every app process can show the curves."""

    __tablename__ = "run_metrics"

    run_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True
    )
    line: Mapped[int] = mapped_column(primary_key=True)
    data: Mapped[dict[str, object]] = mapped_column(JSONB)
