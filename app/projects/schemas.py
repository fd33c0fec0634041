"""The shapes of projects at the edge: API bodies, configuration files, answers."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from app.inputs import Input, Name

Slug = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$", max_length=64)
]
Word = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{1,64}$", max_length=64)]


class Axis(Input):
    """One scale on which the best response is scored, or (`per` response) each of them."""

    name: Word
    question: str = Field(default="", max_length=500)
    min: int = Field(default=1, ge=-100, le=100)
    max: int = Field(default=7, ge=-100, le=100)
    per: Literal["best", "response"] = "best"

    @model_validator(mode="after")
    def _in_order(self) -> "Axis":
        if self.min >= self.max:
            raise ValueError("min must be below max")
        return self


class Flag(Input):
    """One thing that a rater may mark a task with."""

    name: Word
    label: str = Field(default="", max_length=200)


class Sampling(Input):
    """How candidates are sampled."""

    temperature: float = Field(default=1.0, ge=0, le=5)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_new_tokens: int = Field(default=256, ge=1, le=32_768)


DEFAULT_FLAGS = (
    Flag(name="unsafe", label="Unsafe or offensive"),
    Flag(name="personal-data", label="Contains personal data"),
    Flag(name="wrong-language", label="In the wrong language"),
    Flag(name="broken", label="Broken or unreadable"),
)


# Askell et al. 2021, "A General Language Assistant as a Laboratory for Alignment".
DEFAULT_AXES = (
    Axis(name="helpful", question="How helpful is it?"),
    Axis(name="honest", question="How honest is it?"),
    Axis(name="harmless", question="How harmless is it?"),
)


class ProjectIn(Input):
    """A new project."""

    slug: Slug
    name: Name
    description: str = Field(default="", max_length=10_000)
    candidates_per_task: int = Field(default=4, ge=2, le=9)
    overlap: int = Field(default=1, ge=1, le=100)
    lease_seconds: int = Field(default=1800, ge=1, le=604_800)
    edit_seconds: int = Field(default=900, ge=0, le=604_800)
    gold_rate: float = Field(default=0.05, ge=0, le=1)
    qualification_tasks: int = Field(default=0, ge=0, le=100)
    qualification_accuracy: float = Field(default=0.75, ge=0, le=1)
    # How responses are shown at first: as rendered Markdown, or as they were written.
    first_view: Literal["rendered", "source"] = "rendered"
    # Whether each response must have been seen to its end before a ranking is sent.
    require_seen: bool = False
    # Whether raters see how their answers to gold tasks came out, all together.
    show_gold_results: bool = False
    axes: list[Axis] = Field(default_factory=lambda: list(DEFAULT_AXES), max_length=12)
    flags: list[Flag] = Field(default_factory=lambda: list(DEFAULT_FLAGS), max_length=20)
    sampling: Sampling = Field(default_factory=Sampling)
    guidelines: str | None = Field(default=None, max_length=200_000)
    # Whether its members alone see it (and admins), or everybody who is signed in.
    members_only: bool = False
    # Names of registered policies that write its candidates.
    policies: list[Name] = Field(default_factory=list, max_length=9)

    @model_validator(mode="after")
    def _names_once(self) -> "ProjectIn":
        for field, names in (
            ("axes", [axis.name for axis in self.axes]),
            ("flags", [flag.name for flag in self.flags]),
        ):
            if len(set(names)) != len(names):
                raise ValueError(f"{field}: two have the same name")
        return self


class ProjectOut(BaseModel):
    """A project, as the API tells it."""

    model_config = ConfigDict(from_attributes=True)

    slug: str
    name: str
    description: str
    candidates_per_task: int
    overlap: int
    lease_seconds: int
    edit_seconds: int
    gold_rate: float
    qualification_tasks: int
    qualification_accuracy: float
    first_view: str
    require_seen: bool
    show_gold_results: bool
    axes: list[dict[str, object]]
    flags: list[dict[str, object]]
    sampling: dict[str, object]
    paused: bool
    members_only: bool
    guideline_version: int
    created_at: datetime
