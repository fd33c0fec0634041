"""What a flag changes, and what it leaves: two runs that differ in one flag, seen from outside."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

CHECKOUT = Path(__file__).resolve().parents[2]
# What a run shows, by name: numbers, names, weights, lists and dictionaries of them.
Seen = dict[str, Any]


@dataclass(frozen=True)
class Effect:
    """What a flag does when it is given this value."""

    value: Any
    changes: frozenset[str]  # names of what is seen; all else stays
    beside: Mapping[str, Any] = field(default_factory=dict)  # settings of both runs


@dataclass(frozen=True)
class Elsewhere:
    """A flag that another test tries, since it takes more than two short runs."""

    test: str  # its node id

    def exists(self) -> bool:
        """Whether there is such a test."""
        file, _, name = self.test.partition("::")
        return f"def {name}(" in (CHECKOUT / file).read_text()


def effect(value: Any, *changes: str, **beside: Any) -> Effect:
    """Briefly."""
    return Effect(value, frozenset(changes), beside)


def check_table(kind: type, table: Mapping[str, Effect | Elsewhere]) -> None:
    """Every flag is in the table, and nothing else is."""
    assert dataclasses.is_dataclass(kind)
    assert set(table) == {each.name for each in dataclasses.fields(kind)}
    missing = [each for each in table.values() if isinstance(each, Elsewhere) and not each.exists()]
    assert not missing


def changed(one: Seen, other: Seen) -> set[str]:
    """The names of what differs by more than rounding."""
    return {name for name in one.keys() | other.keys() if not alike(one.get(name), other.get(name))}


def alike(one: Any, other: Any) -> bool:
    """Whether two things are the same but for rounding."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-5)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float) and isinstance(other, int | float):
        return bool(one == pytest.approx(other, rel=1e-5, abs=1e-6))
    return bool(one == other)
