"""The sources that the checks read, and what a check finds in them."""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
ROOMS = ("app", "trainer", "demo", "migrations", "checks", "simulation", "bench", "tests")


@dataclass(frozen=True)
class Breach:
    """One place that breaks a rule."""

    path: str
    line: int
    rule: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}"


@dataclass(frozen=True)
class Source:
    """One parsed file; its path is relative to the checkout, with slashes."""

    path: str
    tree: ast.Module

    @property
    def room(self) -> str:
        """The top-level folder."""
        return self.path.split("/", 1)[0]

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.path.rsplit("/", 1)[-1]

    def breach(self, node: ast.stmt | ast.expr, rule: str) -> Breach:
        """A breach of the rule at a node."""
        return Breach(self.path, node.lineno, rule)


def read_sources(root: Path, rooms: Sequence[str] = ROOMS) -> Iterator[Source]:
    """Every Python file of the rooms, in order."""
    for room in rooms:
        for path in sorted((root / room).rglob("*.py")):
            yield Source(path.relative_to(root).as_posix(), ast.parse(path.read_text()))
