"""What a layout of preference data is: columns that it is known by, and how its records become rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from app.prompts.parse import FieldError, Row

Rows = list[Row]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One kind of data."""

    name: str
    title: str
    # It is recognised where it has all of these columns.
    needs: frozenset[str]
    # And may have these, which are kept as metadata unless they are made use of.
    knows: frozenset[str] = frozenset()
    # From a prompt's records (one, unless there is a key) to rows; what it takes out of them it has used.
    make: Callable[["Use"], Rows]
    # Neighbours with the same key belong together.
    key: Callable[[Mapping[str, object]], object] | None = None

    def apply(self, records: Rows, *, keep_extra: bool, rank_by: str | None) -> Rows:
        """The rows of these records. Raises FieldError."""
        for record in records:
            unknown = sorted(set(record) - self.needs - self.knows)
            if unknown and self.needs and not keep_extra:
                raise FieldError(
                    unknown[0], f"is not a column of {self.title}: {', '.join(unknown)}"
                )
        return self.make(Use(self, records, keep_extra=keep_extra, rank_by=rank_by))


class Use:
    """Records being made into rows. What is taken out is used; what is left is metadata."""

    def __init__(
        self, layout: Layout, records: Rows, *, keep_extra: bool, rank_by: str | None
    ) -> None:
        self.layout = layout
        self.records = [dict(record) for record in records]
        self.keep_extra = keep_extra
        self.first = self.records[0]
        self.rank_by = rank_by

    def take(self, name: str) -> object:
        """A column of the first record, used with this."""
        return self.first.pop(name, None)

    def row(self, metadata: Mapping[str, object] | None = None, /, **fields: object) -> Row:
        """A row with these fields, and with all that is left of the first record as metadata."""
        left = {name: value for name, value in self.first.items() if value not in (None, {}, [])}
        kept = {**left, **(metadata or {})}
        own = {name: value for name, value in fields.items() if value is not None}
        return own | ({"metadata": kept} if kept else {})

    def ranking(self, scores: Mapping[str, Sequence[object]]) -> Row:
        """The ranking by the score that was asked for, best first; nothing where none was."""
        if self.rank_by is None:
            return {}
        if self.rank_by not in scores:
            raise FieldError(
                "rank_by", f"there is no score {self.rank_by!r}; there are {', '.join(scores)}"
            )
        values = [to_number(self.rank_by, each) for each in scores[self.rank_by]]
        return {"ranks": rank_scores(values), "rater": self.layout.name}


def rank_scores(scores: Sequence[float]) -> list[int]:
    """Dense ranks, the highest score first: [4, 0, 4] is [1, 2, 1]."""
    order = sorted(set(scores), reverse=True)
    return [order.index(each) + 1 for each in scores]


def to_number(name: str, value: object) -> float:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            raise FieldError(name, "must be a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FieldError(name, "must be a number")
    return float(value)


def to_choice(name: str, value: object, choices: Mapping[object, int]) -> int:
    """Which of two is the better one, by a value that a table may have as text: "1", "1.0", "True"."""
    text = str(value).strip().lower().removesuffix(".0")
    for choice, meaning in choices.items():
        if str(choice).lower() == text:
            return meaning
    raise FieldError(name, f"must be one of {', '.join(str(each) for each in choices)}")


def to_list(name: str, value: object, *, least: int = 1) -> list[object]:
    if not isinstance(value, list) or len(value) < least:
        raise FieldError(name, f"must be a list of at least {least}")
    return value


def to_object(name: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise FieldError(name, "must be an object")
    return value
