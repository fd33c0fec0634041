"""The shapes of rating at the edge: leases, rankings, progress."""

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, NotRequired, TypedDict

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    StringConstraints,
    model_validator,
)

from app.inputs import Input

LONGEST_TEXT = 100_000


Word = Annotated[str, StringConstraints(max_length=64)]
Words = Annotated[str, StringConstraints(max_length=LONGEST_TEXT)]
Rank = Annotated[int, Field(ge=1, le=9)]


def in_letters(ranked: Sequence[tuple[int, str]]) -> str:
    """Ranks and letters, best first, as "B > A = D > C"."""
    words: list[str] = []
    before: int | None = None
    for rank, letter in ranked:
        if before is not None:
            words.append("=" if rank == before else ">")
        words.append(letter)
        before = rank
    return " ".join(words)


class Scale(TypedDict):
    """One of a project's axes, as it is stored."""

    name: str
    question: NotRequired[str]
    min: int
    max: int
    per: NotRequired[Literal["best", "response"]]


class KnownFlag(TypedDict):
    """One of a project's flags, as it is stored."""

    name: str
    label: NotRequired[str]


def hash_questions(axes: Sequence[Scale], flags: Sequence[KnownFlag]) -> str:
    """What a project asks beside the order, as one word: another once an axis or a flag changes."""
    text = json.dumps([list(axes), list(flags)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Shown:
    """A candidate as a rater sees it: it does not tell which policy wrote it."""

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
    axes: Sequence[Scale]
    flags: Sequence[KnownFlag]
    draft: Mapping[str, object] | None
    guideline_version: int
    # One of the gold tasks of the rater's qualification.
    qualification: bool = False
    expired: bool = False

    @property
    def questions(self) -> str:
        """Its axes and flags as one word: a ranking sends back to which of them it is the answer."""
        return hash_questions(self.axes, self.flags)


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
    axes: list[dict[str, object]]
    flags: list[dict[str, object]]
    # What a ranking may send back, so that it is held against what was shown.
    guideline_version: int
    questions: str

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
            guideline_version=lease.guideline_version,
            questions=lease.questions,
        )


# A score of the best response, or one for each of them.
Score = FiniteFloat | Annotated[dict[uuid.UUID, FiniteFloat], Field(max_length=9)]


class RankingIn(Input):
    """A rater's judgement. Equal ranks are ties; 1 is best."""

    ranks: dict[uuid.UUID, Rank] = Field(max_length=50)
    # Of two candidates: how much better the one is, from 1 (slightly) to 3 (much).
    strength: int | None = Field(default=None, ge=1, le=3, strict=True)
    axes: dict[Word, Score] = Field(default_factory=dict, max_length=50)
    flags: list[Word] = Field(default_factory=list, max_length=50)
    rationale: Words | None = None
    rewrite: Words | None = None
    seconds: float | None = Field(default=None, ge=0, le=7 * 86_400, allow_inf_nan=False)
    # What was on the screen, where the sender knows: the guidelines' version, and the axes and flags.
    guideline_version: int | None = Field(default=None, ge=0, le=1_000_000, strict=True)
    questions: Word | None = None
    # The candidates whose end has been on the screen; left out where nobody knows.
    seen: list[uuid.UUID] | None = Field(default=None, max_length=9)

    @model_validator(mode="before")
    @classmethod
    def _whole_ranks(cls, values: object) -> object:
        # A rank of 1.0 or "1" or true is a program's mistake: say so rather than guess.
        if isinstance(values, dict) and isinstance(values.get("ranks"), dict):
            for candidate, rank in values["ranks"].items():
                if isinstance(rank, bool) or not isinstance(rank, int):
                    raise ValueError(
                        f"ranks.{candidate}: a rank is a whole number, not {repr(rank)[:50]}"
                    )
        return values


class RankingOut(BaseModel):
    """A stored ranking."""

    model_config = ConfigDict(from_attributes=True)

    id: uuid.UUID
    assignment_id: uuid.UUID | None
    task_id: uuid.UUID
    ranks: dict[str, int]
    strength: int | None
    axes: dict[str, float | dict[str, float]]
    flags: list[str]
    rationale: str | None
    rewrite: str | None
    seconds: float | None
    # It came after its slot had gone to somebody else: kept beside the others, and marked.
    surplus: bool = Field(serialization_alias="extra")
    created_at: datetime
    revised_at: datetime | None


class SkipIn(Input):
    """Why a task is given back."""

    reason: str = Field(min_length=1, max_length=2000)


class DraftIn(Input):
    """What a rater has put down so far; the page reads back what it wrote."""

    ranks: dict[Word, Rank] = Field(default_factory=dict, max_length=9)
    # Of two candidates: from 3 (the first is much better) to -3 (the second is).
    preference: int | None = Field(default=None, ge=-3, le=3)
    axes: dict[Word, Score] = Field(default_factory=dict, max_length=50)
    flags: list[Word] = Field(default_factory=list, max_length=50)
    rationale: Words = ""
    rewrite: Words = ""
    seconds: float = Field(default=0, ge=0, le=7 * 86_400, allow_inf_nan=False)


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
    ranked: list[tuple[int, str, str]]
    strength: int | None
    # Of each axis: one score, or one for each letter.
    axes: dict[str, float | dict[str, float]]
    flags: list[str]
    rationale: str | None
    rewrite: str | None
    seconds: float | None
    surplus: bool
    created_at: datetime
    revised_at: datetime | None
    # Until when it may be changed; None where that is over, or never was.
    open_until: datetime | None

    @property
    def recap(self) -> str:
        """The order in letters: "B > A = D > C"."""
        return in_letters([(rank, letter) for rank, letter, _ in self.ranked])


@dataclass(frozen=True)
class Feedback:
    """How one answer of a qualification compares with the gold one, and how far it has come."""

    # The orders in letters, as shown to the rater.
    own: str
    gold: str
    right: float
    pairs: int
    done: int
    tasks: int
    # None until the qualification is over.
    passed: bool | None
    accuracy: float | None
    needed: float
