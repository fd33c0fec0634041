"""The shapes of training runs at the edge."""

import uuid
from datetime import datetime
from typing import Annotated

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from app.inputs import MOST_INT4, Input, Name
from app.training.models import RunCatalogue, RunState, Setting

# Lines count from 0: all of them come after line -1.
LineNumber = Annotated[int, Query(ge=-1, le=MOST_INT4)]


class RunIn(Input):
    """A run that is asked for. What is left out is chosen as the comments say."""

    # The trainer's own name of it; `python -m trainer` lists them.
    stage: str = Field(max_length=32)
    # The project's newest ready export.
    export: uuid.UUID | None = None
    # The project's first local policy that still serves.
    policy: Name | None = None
    # For a stage that needs one: the project's newest succeeded reward run.
    reward: uuid.UUID | None = None
    # The name of the policy that comes of it: "<slug>-<stage>-<number>".
    name: Name | None = None
    # Whether that policy writes candidates of the project's next tasks, beside the one it came from: so
    # that tasks pit the two against each other.
    serve: bool = True
    # Whether it takes the place of the one it came from instead.
    replace: bool = False
    # The trainer's flags by name (`kl-coef` or `kl_coef`); the trainer checks them.
    config: dict[str, Setting] = Field(default_factory=dict, max_length=100)


class RunOut(BaseModel):
    """A run, as the API tells it."""

    model_config = ConfigDict(from_attributes=True)

    id: uuid.UUID
    stage: str
    # What the stage is called, what it makes, and its curves (once the run has begun).
    catalogue: RunCatalogue
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
