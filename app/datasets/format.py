"""What the files of an export hold, line by line, and what its manifest says of them."""

from collections.abc import Sequence
from typing import TypedDict

Message = dict[str, str]


class CandidateEntry(TypedDict):
    """A candidate of a line of rankings."""

    id: str
    text: str
    policy: str | None


class RankingEntry(TypedDict):
    """One rater's word on a line of rankings."""

    rater: str
    ranks: dict[str, int]
    strength: int | None
    keep_gaps: bool
    axes: dict[str, object]
    flags: Sequence[str]
    rationale: str | None
    # None in the next two: not known.
    presented: list[str] | None
    blind: bool | None
    timed: bool
    seconds: float | None
    weight: float


class RankingLine(TypedDict):
    """A line of rankings.jsonl: a prompt with its candidates and everybody's ranks."""

    prompt_id: str
    messages: list[Message]
    candidates: list[CandidateEntry]
    rankings: list[RankingEntry]


class ComparisonLine(TypedDict):
    """A line of comparisons: a strict pair, in TRL's conversational preference format."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    prompt_id: str
    rater: str
    margin: float
    weight: float
    chosen_policy: str | None
    rejected_policy: str | None


class DemonstrationLine(TypedDict):
    """A line of demonstrations.jsonl."""

    messages: list[Message]
    prompt_id: str
    source: str


class FileDigest(TypedDict):
    """A file's size and hash."""

    bytes: int
    sha256: str


class FileEntry(FileDigest):
    """The same with its rows; None where it has none to count."""

    rows: int | None


class SplitCounts(TypedDict):
    """How much a split holds."""

    prompts: int
    rankings: int
    comparisons: int
    demonstrations: int


class Margins(TypedDict):
    """What a margin is, and how many rankings' margins keep the gaps of their ranks."""

    rule: str
    keep_gaps: int


class Manifest(TypedDict):
    """manifest.json: what was asked for, what came of it, and the hash of every file."""

    format: str
    format_version: int
    name: str
    project: dict[str, str]
    filters: dict[str, object]
    split: dict[str, object]
    guideline_version: int
    counts: dict[str, SplitCounts]
    ties: int
    margins: Margins
    raters: dict[str, object]
    schema: dict[str, dict[str, str]]
    files: dict[str, FileEntry]
    content_hash: str
