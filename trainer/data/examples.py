"""The examples that training takes, and the rule that splits them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Messages = list[dict[str, str]]

SPLITS = ("train", "validation", "test")

# A single file without a split in its name is split by this rule, so that no prompt is in two parts.
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


@dataclass(frozen=True)
class Ranking:
    """One rater's ranking of K candidates."""

    messages: Messages
    candidates: list[str]
    ranks: list[int]  # (K,), 1 is best, equal ranks are ties
    weight: float = 1.0
    rater: str = ""
    policies: tuple[str | None, ...] = ()
    strength: float | None = None  # of a pair: how much better the better one is
    # Scores of each candidate on the project's axes, where raters gave one for each.
    axes: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Demonstration:
    """A conversation that ends with a response worth imitating."""

    messages: Messages


@dataclass(frozen=True)
class Prompt:
    """A conversation that waits for a response."""

    messages: Messages
    id: str = ""


Example = TypeVar("Example", Ranking, Demonstration, Prompt)


@dataclass
class Data(Generic[Example]):
    """Examples by split, the hash of the bytes they came from, and what was left out and why."""

    splits: dict[str, list[Example]]
    hash: str
    left_out: dict[str, int] = field(default_factory=dict)

    def __getitem__(self, split: str) -> list[Example]:
        """The examples of a split."""
        return self.splits[split]


def split_of(messages: Messages) -> str:
    """The split of a prompt in a file that has none: SHA-256 of its canonical JSON as a fraction."""
    text = json.dumps(messages, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    fraction = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
    edge = 0.0
    for name, share in SHARES.items():
        edge += share
        if fraction < edge:
            return name
    return "train"
