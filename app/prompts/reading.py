"""From a file's records to rows of the import format, by way of the layout that the file has.

The layout is the one that was named, or the one that the columns of the first records fit; where several
fit and none is the more exact one, the file is refused and they are named. Columns that a layout does not
know are refused, all at once, or kept as metadata where the sender asks for that.
"""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import IO, Protocol

from app.errors import InvalidInput
from app.prompts.files import Record, Seen, open_file, read_records
from app.prompts.layout import Layout
from app.prompts.layouts import ALIASES, LAYOUTS, OWN, recognise
from app.prompts.limits import Limits
from app.prompts.parse import FieldError, PromptRow, RowError, parse_row

Rows = Generator[PromptRow | RowError]


class Wrong(Protocol):
    """A row that is not imported, and why."""

    @property
    def line(self) -> int: ...
    @property
    def field(self) -> str: ...
    @property
    def message(self) -> str: ...


# By so many records a layout is recognised, where there is no header.
LOOKED_AT = 20
# Records that belong together (one prompt's responses, one tree's messages) are held at once.
MOST_TOGETHER = 10_000


@dataclass(kw_only=True)
class Reading:
    """How a file is to be read; what was recognised is added to its notes."""

    limits: Limits
    # By its name, or made of a mapping.
    layout: str | Layout | None = None
    # Columns that the layout does not know go to the metadata; else they are errors.
    keep_extra: bool = False
    # The scores that rank the candidates of a layout which brings scores and no ranking.
    rank_by: str | None = None
    seen: Seen = field(default_factory=Seen)

    @property
    def notes(self) -> list[str]:
        """What was recognised, for people."""
        return self.seen.notes


def read_file(path: Path, reading: Reading) -> Rows:
    """The rows of a file, by the end of its name.

    Raises InvalidInput where the file is missing, is none of ours or has no known layout; TooLarge where it
    holds too much.
    """
    with open_file(path) as file:
        try:
            yield from read_stream(file, path.name, reading)
        except InvalidInput as error:
            error.field = str(path) if error.field == "file" else error.field
            raise


def read_stream(file: IO[bytes], name: str, reading: Reading) -> Rows:
    """The rows of an open file; `name` tells its kind."""
    return read_rows(read_records(file, name, reading.limits, reading.seen), reading)


def read_rows(records: Iterable[Record | RowError], reading: Reading) -> Rows:
    """The rows that records make, in their order."""
    coming = iter(records)
    first = list(islice(coming, 1))
    if not reading.seen.columns:
        first += islice(coming, LOOKED_AT - 1)
    layout = _choose(first, reading)
    if layout is not OWN:
        reading.notes.append(f"read as {layout.title}")
    for group in _together(chain(first, coming), layout):
        if isinstance(group, RowError):
            yield group
        else:
            yield from _convert(group, layout, reading)


def _choose(first: list[Record | RowError], reading: Reading) -> Layout:
    if isinstance(reading.layout, Layout):
        return reading.layout
    if reading.layout is not None:
        name = ALIASES.get(reading.layout, reading.layout)
        if name not in LAYOUTS:
            raise InvalidInput(
                f"there is no layout {reading.layout!r}; there are {', '.join(LAYOUTS)}",
                field="layout",
            )
        return LAYOUTS[name]
    columns = set(reading.seen.columns)
    for each in first:
        if isinstance(each, Record) and isinstance(each.fields, dict):
            columns |= {str(name) for name in each.fields}
    found = recognise(columns)
    if len(found) > 1:
        raise InvalidInput(
            f"may be {' or '.join(each.title for each in found)}: name its layout "
            f"({' or '.join(each.name for each in found)})",
            field="file",
        )
    return found[0] if found else OWN


def _together(
    records: Iterable[Record | RowError], layout: Layout
) -> Iterator[list[Record] | RowError]:
    """Neighbours that make one row; where a layout has none, each record alone."""
    group: list[Record] = []
    key: object = None
    for record in records:
        if isinstance(record, RowError) or layout.key is None:
            if group:
                yield group
                group = []
            yield record if isinstance(record, RowError) else [record]
            continue
        own = layout.key(record.fields) if isinstance(record.fields, dict) else None
        if group and (own is None or own != key or len(group) == MOST_TOGETHER):
            yield group
            group = []
        group.append(record)
        key = own
    if group:
        yield group


def _convert(group: list[Record], layout: Layout, reading: Reading) -> Rows:
    line = group[0].line
    try:
        rows = []
        for record in group:
            if not isinstance(record.fields, dict):
                raise FieldError("line", "must be a JSON object")
            rows.append({str(name): value for name, value in record.fields.items()})
            # An empty cell of a table is a column that the record has.
            missing = sorted(layout.needs - set(rows[-1]) - reading.seen.columns)
            if missing:
                raise FieldError(missing[0], f"is missing, which {layout.title} has")
        made = layout.apply(rows, keep_extra=reading.keep_extra, rank_by=reading.rank_by)
    except FieldError as error:
        # What belongs together stays out together, and each record is counted.
        for record in group:
            yield RowError(record.line, error.field, error.message)
        return
    for row in made:
        try:
            yield parse_row(row, line, max_bytes=reading.limits.text_bytes)
        except FieldError as error:
            yield RowError(line, error.field, error.message)


def count_like(errors: Iterable[Wrong]) -> list[tuple[str, str, list[int]]]:
    """(field, message, lines) of wrong rows: those that say the same together, the first one first."""
    groups: dict[tuple[str, str], list[int]] = {}
    for error in errors:
        groups.setdefault((error.field, error.message), []).append(error.line)
    return [(name, message, lines) for (name, message), lines in groups.items()]
