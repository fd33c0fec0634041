"""The shapes of training runs at the edge."""

import uuid
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.projects.schemas import Name
from app.training.models import RunState, Stage


class TrainerFlags(BaseModel):
    """The trainer's flags that a run may set; each is passed on as `--its-name`."""

    model_config = ConfigDict(
        extra="forbid",
        alias_generator=lambda name: name.replace("_", "-"),
        populate_by_name=True,
    )

    steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0)
    batch_size: int | None = Field(default=None, ge=1)
    lr: float | None = Field(default=None, gt=0)
    max_length: int | None = Field(default=None, ge=8)
    seed: int | None = Field(default=None, ge=0)
    kl_coef: float | None = Field(default=None, ge=0)
    response_length: int | None = Field(default=None, ge=1)
    micro_batch: int | None = Field(default=None, ge=1)
    dtype: Literal["float32", "bfloat16"] | None = None
    lora_rank: int | None = Field(default=None, ge=0)
    beta: float | None = Field(default=None, gt=0)
    label_smoothing: float | None = Field(default=None, ge=0, lt=0.5)
    margin_scale: float | None = Field(default=None, ge=0)
    patience: int | None = Field(default=None, ge=1)
    kl_target: float | None = Field(default=None, gt=0)
    kl_stop: float | None = Field(default=None, gt=0)
    ptx_coef: float | None = Field(default=None, ge=0)


class RunIn(BaseModel):
    """A run that is asked for. What is left out is chosen as the comments say."""

    model_config = ConfigDict(extra="forbid")

    stage: Stage
    # The project's newest ready export.
    export: uuid.UUID | None = None
    # The project's first local policy that still serves.
    policy: str | None = None
    # For ppo and rloo: the project's newest succeeded reward run.
    reward: uuid.UUID | None = None
    # The name of the policy that comes of it: "<slug>-<stage>-<number>".
    name: Name | None = None
    # Whether that policy takes the place of the one it came from in the project's next generation.
    serve: bool = True
    config: TrainerFlags = Field(default_factory=TrainerFlags)


class RunOut(BaseModel):
    """A run, as the API tells it."""

    model_config = ConfigDict(from_attributes=True)

    id: uuid.UUID
    stage: Stage
    state: RunState
    export_id: uuid.UUID
    base_policy_id: uuid.UUID
    reward_run_id: uuid.UUID | None
    policy_id: uuid.UUID | None
    config: dict[str, object]
    step: int
    total_steps: int | None
    result: dict[str, object] | None
    error: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
