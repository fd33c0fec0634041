"""The shapes of exports at the edge."""

import uuid
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.accounts.models import Kind
from app.datasets.models import ExportState
from app.inputs import Count, Input, Name, Seed
from app.projects.schemas import Word

SPLITS = ("train", "validation", "test")


class Filters(Input):
    """Which rankings an export holds. Every field narrows; the defaults hold what people said."""

    # Whose: a model's judgements are in only when asked for.
    kinds: list[Kind] = Field(
        default_factory=lambda: [Kind.PERSON, Kind.IMPORTED], min_length=1, max_length=9
    )
    # When they were given: from this moment on, and before that one.
    since: datetime | None = None
    before: datetime | None = None
    # Prompts with at least so many rankings (of those that the other filters leave).
    min_rankings: Count = 1
    # Leave out rankings with any of these flags.
    without_flags: list[Word] = Field(default_factory=list, max_length=50)
    # Rankings that came after their slot had gone to somebody else.
    extra: bool = True
    # Rankings of gold tasks, whose right answer was known before.
    gold: bool = False


class Split(Input):
    """Shares of train, validation and test, and the seed that varies which prompt goes where."""

    train: float = Field(default=0.8, ge=0, le=1)
    validation: float = Field(default=0.1, ge=0, le=1)
    test: float = Field(default=0.1, ge=0, le=1)
    seed: Seed = 0

    @model_validator(mode="after")
    def _whole(self) -> "Split":
        if abs(self.train + self.validation + self.test - 1) > 1e-9:
            raise ValueError("train, validation and test must add up to 1")
        return self


class ExportIn(Input):
    """An export that is asked for."""

    name: Name = "export"
    filters: Filters = Field(default_factory=Filters)
    split: Split = Field(default_factory=Split)


class ExportOut(BaseModel):
    """An export, as the API tells it."""

    model_config = ConfigDict(from_attributes=True)

    id: uuid.UUID
    name: str
    state: ExportState
    filters: dict[str, object]
    split: dict[str, object]
    content_hash: str | None
    manifest: dict[str, object] | None
    error: str | None
    created_at: datetime
    finished_at: datetime | None
