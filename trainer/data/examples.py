"""The examples that training takes, and the rule that splits them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from trainer.data.values import JsonObject

# What a message holds is described in `trainer/data/messages.py`.
Messages = list[dict[str, str]]
# The role of the message, before all others, that lists the tools of a conversation.
TOOLS = "tools"

SPLITS = ("train", "validation", "test")
# Of what was left out for one reason so many places are told; the rest is counted.
NAMED_PLACES = 3

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
    source: str = field(default="", compare=False)  # file and line


@dataclass(frozen=True)
class Demonstration:
    """A conversation that ends with a response worth imitating."""

    messages: Messages
    source: str = field(default="", compare=False)  # file and line


@dataclass(frozen=True)
class Prompt:
    """A conversation that waits for a response."""

    messages: Messages
    id: str = ""
    source: str = field(default="", compare=False)  # file and line


Example = TypeVar("Example", Ranking, Demonstration, Prompt)


@dataclass
class Tally:
    """What was left out or cut: how often, by reason, and where the first few of whole rows stand."""

    counts: dict[str, int] = field(default_factory=dict)
    places: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, by: int = 1, *, place: str = "") -> None:
        """Count it."""
        if by:
            self.counts[reason] = self.counts.get(reason, 0) + by
        named = self.places.setdefault(reason, []) if place else []
        if place and len(named) < NAMED_PLACES:
            named.append(place)

    def include(self, other: "Tally", label: str = "") -> None:
        """Add all of another's counts, under a label."""
        for reason, count in other.counts.items():
            self.add(f"{label}{reason}", count)
        for reason, places in other.places.items():
            for place in places:
                self.add(f"{label}{reason}", 0, place=place)

    def says(self) -> str:
        """The rows that were left out whole, in a line; empty where there are none."""
        return "; ".join(
            f"{reason} {self.counts[reason]} ({', '.join(places)}"
            f"{', …' if self.counts[reason] > len(places) else ''})"
            for reason, places in self.places.items()
        )

    def figures(self) -> JsonObject:
        """What a result says of it."""
        where: JsonObject = {reason: [*places] for reason, places in self.places.items()}
        return {"left_out": {**self.counts}} | ({"left_out_where": where} if where else {})


@dataclass
class Data(Generic[Example]):
    """Examples by split, the hash of the bytes they came from, and what was left out and why."""

    splits: dict[str, list[Example]]
    hash: str
    left_out: Tally = field(default_factory=Tally)

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
