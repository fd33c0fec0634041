"""Principles: what a model is asked to judge, criticise and revise by, from a TOML file.

    [[principle]]
    name = "honest"
    question = "Which response is more truthful, and clearer about what it does not know?"
    critique = "Name what in your last response is untrue or claims more than it can know."
    revision = "Rewrite your response so that it holds nothing untrue."

`question` is needed to rank, `critique` and `revision` to revise.
"""

import hashlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.errors import InvalidInput

FIELDS = ("name", "question", "critique", "revision")
LONGEST = 4000


@dataclass(frozen=True)
class Principle:
    """One principle; what is empty is not asked."""

    name: str
    question: str = ""
    critique: str = ""
    revision: str = ""


@dataclass(frozen=True)
class Principles:
    """The file's principles, and the start of its SHA-256: another file is another rater."""

    all: Sequence[Principle]
    version: str

    def to_rank_by(self) -> list[Principle]:
        """Those with a question. Raises InvalidInput where there are none."""
        return self._with("question")

    def to_revise_by(self) -> list[Principle]:
        """Those with a critique and a revision. Raises InvalidInput where there are none."""
        return [each for each in self._with("critique") if each in self._with("revision")]

    def _with(self, field: str) -> list[Principle]:
        suitable = [each for each in self.all if getattr(each, field)]
        if not suitable:
            raise InvalidInput(f"no principle has a {field}", field="principles")
        return suitable


def read_principles(path: Path) -> Principles:
    """The principles of a file. Raises InvalidInput naming the field that is wrong."""
    try:
        content = path.read_bytes()
        tables = tomllib.loads(content.decode())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInput(f"{path}: {error}", field="principles") from None
    rows = tables.get("principle")
    if not isinstance(rows, list) or not rows:
        raise InvalidInput(f"{path}: has no [[principle]]", field="principles")
    principles = [_principle(row, number) for number, row in enumerate(rows, start=1)]
    names = [each.name for each in principles]
    for name in names:
        if names.count(name) > 1:
            raise InvalidInput(f"two principles are called {name!r}", field="principles")
    return Principles(principles, hashlib.sha256(content).hexdigest()[:12])


def _principle(row: object, number: int) -> Principle:
    field = f"principles.{number}"
    if not isinstance(row, dict):
        raise InvalidInput("must be a table", field=field)
    for key, value in row.items():
        if key not in FIELDS:
            raise InvalidInput(f"there is no field {key!r}", field=f"{field}.{key}")
        if not isinstance(value, str) or not value.strip() or len(value) > LONGEST:
            raise InvalidInput(f"must be text of 1 to {LONGEST} signs", field=f"{field}.{key}")
    if "name" not in row:
        raise InvalidInput("is missing", field=f"{field}.name")
    return Principle(**{key: value.strip() for key, value in row.items()})
