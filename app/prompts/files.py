"""Files of the import format: JSON Lines, a JSON list, CSV or Parquet, gzipped or not, row by row.

A record is one JSON object of a JSONL file, one item of a JSON list, or one row of a CSV or Parquet file
(messages and other structures as JSON text); `app.prompts.reading` makes rows of the import format of them.
One that is wrong becomes a `RowError` with its line; a file that is none of these, or holds more than its
limits (`app.prompts.limits`), is refused as a whole. What had to be recognised (UTF-16, semicolons, an
index column) is said in the file's notes.
"""

import codecs
import csv
import gzip
import io
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, NoReturn, cast

from app.errors import InvalidInput, TooLarge
from app.prompts.limits import DEEPEST, MOST_COLUMNS, Limits, bound, check_parquet, rows_at_once
from app.prompts.parse import FieldError, Row, RowError

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

# Every way that unpacking can find a file cut off or altered.
PACKING_ERRORS = (gzip.BadGzipFile, EOFError, zlib.error)
PACKINGS = (".gz", ".zst")
KINDS = ("jsonl", "ndjson", "json", "csv", "tsv", "parquet")
# What a cell of a table holds as JSON text; the rest is text.
STRUCTURED = frozenset(
    {"candidates", "ranks", "metadata", "priority", "gold", "keep_gaps", "presented", "blind"}
    | {"seconds", "strength", "axes", "flags"}
)
MESSAGES = re.compile(r"\s*\[\s*\{")
LOOKS_LIKE_JSON = re.compile(r"\s*[\[{]")
TRUTHS = {"True": "true", "TRUE": "true", "False": "false", "FALSE": "false"}
# Where pandas puts the numbers of a table's rows.
INDEX_COLUMNS = ("", "Unnamed: 0", "__index_level_0__")
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


class Record(NamedTuple):
    """One record of a file, as it came: its line, and anything."""

    line: int
    fields: object


Records = Generator[Record | RowError]


@dataclass
class Seen:
    """What was found out about a file while it was read."""

    # For people: "read as UTF-16".
    notes: list[str] = field(default_factory=list)
    # Of a table, its columns, whatever cells of a row are empty.
    columns: set[str] = field(default_factory=set)


def list_files(path: Path) -> list[Path]:
    """A file, or those of a folder whose endings we read, in the order of their names.

    Raises InvalidInput where there is none.
    """
    if not path.is_dir():
        return [path]
    found = sorted(each for each in path.rglob("*") if each.is_file() and is_ours(each.name))
    if not found:
        raise InvalidInput(f"holds no file that ends in {', '.join(KINDS)}", field=str(path))
    return found


def is_ours(name: str) -> bool:
    """Whether the end of a file's name is one that we read."""
    return _split_name(name)[0] in KINDS


def _split_name(name: str) -> tuple[str, str]:
    """(kind, packing) by the end of a name: ("jsonl", ".gz")."""
    plain = name.lower()
    packing = next((each for each in PACKINGS if plain.endswith(each)), "")
    return plain.removesuffix(packing).rsplit(".", 1)[-1], packing


def open_file(path: Path) -> IO[bytes]:
    """Raises InvalidInput where it is missing."""
    if not path.is_file():
        raise InvalidInput("there is no such file", field=str(path))
    return path.open("rb")


def read_records(file: IO[bytes], name: str, limits: Limits, seen: Seen) -> Records:
    """The records of an open file; `name` tells its kind (JSON Lines where it tells none).

    Raises InvalidInput for one that is no file of ours, TooLarge for one that holds too much.
    """
    kind, packing = _split_name(name)
    try:
        if kind == "parquet":
            # Its table of contents is at its end, and a stream cannot be read from there.
            whole = io.BytesIO(limits.read_whole(_unpack(file, packing))) if packing else file
            records = read_parquet(whole, limits, seen)
        else:
            plain = _as_utf8(bound(_unpack(file, packing), limits), kind, seen)
            if kind in ("csv", "tsv"):
                records = read_csv(plain, limits, seen, separator="\t" if kind == "tsv" else None)
            elif kind == "json":
                records = read_json(limits.read_whole(plain))
            else:
                records = read_lines(plain, limits)
        yield from limits.count_rows(records)
    except PACKING_ERRORS as error:
        raise InvalidInput(f"is not a whole gzip file ({error})", field="file") from None


def _unpack(file: IO[bytes], packing: str) -> IO[bytes]:
    if packing == ".gz":
        return cast(IO[bytes], gzip.GzipFile(fileobj=file, mode="rb"))
    if packing == ".zst":
        return cast(IO[bytes], io.BufferedReader(_Zstandard(file)))
    return file


class _Zstandard(io.RawIOBase):
    """A file packed by Zstandard, unpacked by Arrow's own."""

    def __init__(self, file: IO[bytes]) -> None:
        import pyarrow

        self._stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "zstd")

    def readable(self) -> bool:
        """It is for reading only."""
        return True

    def readinto(self, buffer: "memoryview[int]") -> int:  # type: ignore[override]
        """As `io.RawIOBase` has it. Raises InvalidInput where the file is cut off or altered."""
        try:
            data: bytes = self._stream.read(len(buffer))
        except OSError as error:
            raise InvalidInput(f"is not a whole zstd file ({error})", field="file") from None
        buffer[: len(data)] = data
        return len(data)


class _Recoded(io.RawIOBase):
    """Text of another encoding, or with other ends of line, as UTF-8 with ours."""

    def __init__(self, file: IO[bytes], encoding: str, newline: str | None) -> None:
        # A byte that is wrong spoils the line it stands in, not the lines around it.
        self._text = io.TextIOWrapper(file, encoding, errors="surrogateescape", newline=newline)
        self._left = b""

    def readable(self) -> bool:
        """It is for reading only."""
        return True

    def readinto(self, buffer: "memoryview[int]") -> int:  # type: ignore[override]
        """As `io.RawIOBase` has it. Raises InvalidInput for text that is not of the encoding."""
        if not self._left:
            try:
                text = self._text.read(1 << 14)
            except UnicodeError as error:
                raise InvalidInput(
                    f"is not text as its first bytes say ({error})", field="file"
                ) from None
            self._left = text.encode("utf-8", "surrogateescape")
        data, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


def _as_utf8(file: io.BufferedReader, kind: str, seen: Seen) -> IO[bytes]:
    """The file in UTF-8 and with lines that end in a line feed, whatever it has."""
    start = file.peek(1 << 16)[: 1 << 16]
    utf16 = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if utf16:
        seen.notes.append("read as UTF-16")
    # Of old Macs; a carriage return inside of JSON is always written as an escape.
    returns = kind not in ("csv", "tsv") and b"\r" in start and b"\n" not in start
    if returns:
        seen.notes.append("its lines end in carriage returns")
    if not (utf16 or returns):
        return file
    recoded = _Recoded(file, "utf-16" if utf16 else "utf-8", None if returns else "")
    return cast(IO[bytes], io.BufferedReader(recoded))


def read_lines(file: IO[bytes] | Iterable[bytes], limits: Limits) -> Records:
    """The records of JSON Lines. A line over the limit is passed over without being kept in memory."""
    limit = limits.line_bytes
    for number, line in enumerate(_bounded_lines(file, limit), start=1):
        if line is None:
            yield RowError(number, "line", f"is longer than {limit:,} bytes")
            continue
        text = line.strip()
        if not text:
            continue
        try:
            yield Record(number, load(text))
        except FieldError as error:
            yield RowError(number, error.field, error.message)


def _bounded_lines(file: IO[bytes] | Iterable[bytes], limit: int) -> Iterator[bytes | None]:
    if not isinstance(file, io.IOBase) and not hasattr(file, "readline"):
        for line in file:
            yield line if len(line) <= limit else None
        return
    while line := file.readline(limit + 1):
        if len(line) <= limit or line.endswith(b"\n"):
            yield line if len(line) <= limit + 1 else None
            continue
        while (rest := file.readline(1 << 20)) and not rest.endswith(b"\n"):
            pass
        yield None


def read_json(body: bytes) -> Records:
    """The records of a JSON list; their lines are their places in it, from 1.

    Raises InvalidInput where the whole is no JSON list.
    """
    try:
        items = load(body)
    except FieldError as error:
        raise InvalidInput(error.message, field="body") from None
    if not isinstance(items, list):
        raise InvalidInput("must be a JSON list of rows", field="body")
    for number, item in enumerate(items, start=1):
        yield Record(number, item)


def load(text: bytes) -> object:
    """JSON, with every way it can be broken as a FieldError."""
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FieldError("line", f"is not UTF-8 (byte {error.start})") from None
    try:
        loaded: object = json.loads(decoded, parse_constant=_no_constant)
        return loaded
    except json.JSONDecodeError as error:
        raise FieldError("line", f"is not JSON: {error.msg} (column {error.colno})") from None
    except RecursionError:
        raise FieldError("line", "is nested too deeply") from None
    except ValueError as error:  # an integer with thousands of digits
        raise FieldError("line", f"is not JSON that we take: {error}") from None


def _no_constant(name: str) -> NoReturn:
    raise FieldError("line", f"holds {name}, which is not JSON")


def read_csv(
    file: IO[bytes], limits: Limits, seen: Seen, *, separator: str | None = None
) -> Records:
    """The records of a table with a header; its separator is the one that parts the header."""
    csv.field_size_limit(limits.line_bytes)
    # A byte that is no UTF-8 spoils the cell it stands in, not the rows around it.
    text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
    try:
        header = text.readline(limits.line_bytes)
        if separator is None:
            separator = _find_separator(header)
            if separator != ",":
                seen.notes.append(f"read with {SEPARATORS[separator]} between its cells")
        reader = csv.DictReader(chain([header], text), delimiter=separator)
        names = reader.fieldnames or ()
        if len(names) > MOST_COLUMNS:
            raise TooLarge(f"has more than {MOST_COLUMNS} columns", field="file")
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise InvalidInput(f"has the column {twice[0]!r} twice", field="file")
        _note_columns(names, seen)
        for record in reader:
            yield _from_cells(dict(record), reader.line_num)
    except csv.Error as error:
        # Where a cell has no end, what follows may be its inside: nothing of it is taken for rows.
        yield RowError(
            reader.line_num + 1,
            "line",
            f"cannot be read as CSV: {error}; nothing from this line on was imported",
        )
    finally:
        text.detach()  # whoever opened the file closes it


def _find_separator(header: str) -> str:
    """Of those that stand outside of quotes in the header, the most frequent; a comma where none does."""
    bare = re.sub(r'"[^"]*"', "", header)
    return max(SEPARATORS, key=lambda each: (bare.count(each), each == ","))


def _note_columns(names: Sequence[str], seen: Seen) -> None:
    seen.columns |= set(names) - set(INDEX_COLUMNS)
    for name in names:
        if name in INDEX_COLUMNS:
            seen.notes.append(f"the index column {name!r} is left out")


def read_parquet(file: IO[bytes], limits: Limits, seen: Seen) -> Records:
    """The records of a Parquet file."""
    import pyarrow
    import pyarrow.parquet

    number = unpacked = 0
    try:
        table = pyarrow.parquet.ParquetFile(file)
        check_parquet(table.metadata, limits)
        _check_schema(table.schema_arrow)
        _note_columns(table.schema_arrow.names, seen)
        for batch in _read_batches(table):
            # What rows share counts once in what a file declares: here it counts for each of them.
            unpacked += batch.nbytes
            if unpacked > limits.file_bytes:
                raise TooLarge(f"unpacks to more than {limits.file_bytes:,} bytes", field="file")
            for record in batch.to_pylist():
                number += 1
                yield _from_cells(record, number)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise InvalidInput(
            f"is not a whole Parquet file (after row {number}: {reason})", field="file"
        ) from None


def _read_batches(table: "pyarrow.parquet.ParquetFile") -> Iterator["pyarrow.RecordBatch"]:
    """A few rows at a time, each with its own values where the file lets rows share them."""
    import pyarrow

    for group in range(table.metadata.num_row_groups):
        size = rows_at_once(table.metadata.row_group(group), table.metadata.num_columns)
        for batch in table.iter_batches(batch_size=size, row_groups=[group], use_threads=False):
            columns = [
                each.dictionary_decode() if pyarrow.types.is_dictionary(each.type) else each
                for each in batch.columns
            ]
            yield pyarrow.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _check_schema(schema: "pyarrow.Schema") -> None:
    if len(schema) > MOST_COLUMNS:
        raise TooLarge(f"has {len(schema)} columns; {MOST_COLUMNS} are the most", field="file")
    if max((_depth(each.type) for each in schema), default=0) > DEEPEST:
        raise InvalidInput(f"is nested deeper than {DEEPEST}", field="file")


def _depth(kind: "pyarrow.DataType", reached: int = 0) -> int:
    """How many structures a column's type has inside of each other."""
    import pyarrow

    if reached > DEEPEST or not kind.num_fields:
        return reached
    inside = [kind.field(each).type for each in range(kind.num_fields)]
    if any(pyarrow.types.is_dictionary(each) for each in inside):
        raise InvalidInput("holds a dictionary inside of a structure", field="file")
    return max(_depth(each, reached + 1) for each in inside)


def _from_cells(record: Mapping[str | None, object], line: int) -> Record | RowError:
    """A record of a table: empty cells are absent fields, structures may be JSON text."""
    row: Row = {}
    try:
        for name, cell in record.items():
            if name in INDEX_COLUMNS or cell is None:
                continue
            # An empty response is a response; any other empty cell is one that was left out.
            if cell == "" and name not in ("chosen", "rejected"):
                continue
            if name is None:
                raise FieldError("line", "has more cells than the header has names")
            value = _cell(name, cell)
            if value is not None:
                row[name] = value
    except FieldError as error:
        return RowError(line, error.field, error.message)
    return Record(line, row)


def _cell(name: str, cell: object) -> object:
    if not isinstance(cell, str):
        return _plain(cell)
    try:
        cell.encode()
    except UnicodeEncodeError:
        raise FieldError(name, "is not UTF-8") from None
    if name in STRUCTURED or (
        name in ("prompt", "chosen", "rejected") and MESSAGES.match(cell) is not None
    ):
        try:
            return load(TRUTHS.get(cell.strip(), cell.strip()).encode())
        except FieldError as error:
            raise FieldError(name, error.message) from None
    if name not in ("prompt", "chosen", "rejected", "rationale") and LOOKS_LIKE_JSON.match(cell):
        # A structure of some layout; text that only begins like one stays text.
        with suppress(FieldError):
            return load(cell.strip().encode())
    return cell


def _plain(value: object) -> object:
    """A value of a typed table as JSON has it: what is missing there is None, a moment is text."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value
