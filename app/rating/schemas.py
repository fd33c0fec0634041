"""The shapes of rating at the edge: leases, rankings, progress."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

LONGEST_TEXT = 100_000


@dataclass(frozen=True)
class Shown:
    """A candidate as a rater sees it: which policy wrote it is not among its facts."""

    id: uuid.UUID
    text: str


@dataclass(frozen=True)
class Lease:
    """One rater's hold on one task, with all that the ranking page needs."""

    assignment_id: uuid.UUID
    task_id: uuid.UUID
    project_slug: str
    expires_at: datetime
    messages: Sequence[Mapping[str, str]]
    # In the order drawn for this assignment.
    candidates: Sequence[Shown]
    axes: Sequence[Mapping[str, Any]]
    flags: Sequence[Mapping[str, Any]]
    draft: Mapping[str, Any] | None
    guideline_version: int
    expired: bool = False


class CandidateOut(BaseModel):
    """A candidate, through the API."""

    model_config = ConfigDict(from_attributes=True)

    id: uuid.UUID
    text: str


class LeaseOut(BaseModel):
    """A leased task, through the API."""

    id: uuid.UUID
    task_id: uuid.UUID
    expires_at: datetime
    messages: list[dict[str, str]]
    candidates: list[CandidateOut]
    axes: list[dict[str, Any]]
    flags: list[dict[str, Any]]

    @classmethod
    def of(cls, lease: Lease) -> "LeaseOut":
        """The lease, less what only the page needs."""
        return cls(
            id=lease.assignment_id,
            task_id=lease.task_id,
            expires_at=lease.expires_at,
            messages=[dict(message) for message in lease.messages],
            candidates=[CandidateOut.model_validate(each) for each in lease.candidates],
            axes=[dict(axis) for axis in lease.axes],
            flags=[dict(flag) for flag in lease.flags],
        )


class RankingIn(BaseModel):
    """A rater's judgement. Equal ranks are ties; 1 is best."""

    model_config = ConfigDict(extra="forbid", strict=False)

    ranks: dict[uuid.UUID, int]
    axes: dict[str, float] = Field(default_factory=dict)
    flags: list[str] = Field(default_factory=list, max_length=50)
    rationale: str | None = Field(default=None, max_length=LONGEST_TEXT)
    rewrite: str | None = Field(default=None, max_length=LONGEST_TEXT)
    seconds: float | None = Field(default=None, ge=0, le=7 * 86_400, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _whole_ranks(cls, values: Any) -> Any:
        # A rank of 1.0 or "1" or true is a program's mistake: say so rather than guess.
        if isinstance(values, dict) and isinstance(values.get("ranks"), dict):
            for candidate, rank in values["ranks"].items():
                if isinstance(rank, bool) or not isinstance(rank, int):
                    raise ValueError(f"ranks.{candidate}: a rank is a whole number, not {rank!r}")
        return values


class RankingOut(BaseModel):
    """A stored ranking."""

    model_config = ConfigDict(from_attributes=True)

    id: uuid.UUID
    assignment_id: uuid.UUID | None
    task_id: uuid.UUID
    ranks: dict[str, int]
    axes: dict[str, float]
    flags: list[str]
    rationale: str | None
    rewrite: str | None
    seconds: float | None
    # It came after its slot had gone to somebody else: kept beside the others, and marked.
    extra: bool
    created_at: datetime


class SkipIn(BaseModel):
    """Why a task is given back."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=1, max_length=2000)


class DraftIn(BaseModel):
    """What a rater has put down so far; the page reads back what it wrote."""

    model_config = ConfigDict(extra="forbid")

    ranks: dict[str, int] = Field(default_factory=dict, max_length=9)
    axes: dict[str, float] = Field(default_factory=dict, max_length=12)
    flags: list[str] = Field(default_factory=list, max_length=50)
    rationale: str = Field(default="", max_length=LONGEST_TEXT)
    rewrite: str = Field(default="", max_length=LONGEST_TEXT)
    seconds: float = Field(default=0, ge=0, allow_inf_nan=False)


class Progress(BaseModel):
    """Counts of a project. `prompts` is all of them; a prompt is `generated` once it has candidates."""

    prompts: int
    queued: int
    generating: int
    failed: int
    generated: int
    # Tasks that somebody could lease now.
    ready: int
    leased: int
    # Tasks with all the rankings they wait for.
    rated: int
    rankings: int
    skipped: int


class OwnRanking(BaseModel):
    """One of a rater's own rankings, for their history: texts, never policies."""

    model_config = ConfigDict(from_attributes=True)

    id: uuid.UUID
    project_slug: str
    project_name: str
    messages: list[dict[str, str]]
    # (rank, letter shown, text), best first.
    placed: list[tuple[int, str, str]]
    axes: dict[str, float]
    flags: list[str]
    rationale: str | None
    rewrite: str | None
    seconds: float | None
    extra: bool
    created_at: datetime

    @property
    def recap(self) -> str:
        """The order in letters: "B > A = D > C"."""
        words: list[str] = []
        before: int | None = None
        for rank, letter, _ in self.placed:
            if before is not None:
                words.append("=" if rank == before else ">")
            words.append(letter)
            before = rank
        return " ".join(words)
