"""Files of the import format: JSON Lines, a JSON list, CSV or Parquet, gzipped or not, row by row.

A row is one JSON object of a JSONL file, one item of a JSON list, or one record of a CSV or Parquet file
(messages and other structures as JSON text). A row that is wrong becomes a `RowError` with its line; a
file that is none of these, or holds more than its limits (`app.prompts.limits`), is refused as a whole.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn, cast

from app.errors import InvalidInput, TooLarge
from app.prompts.limits import DEEPEST, MOST_COLUMNS, Limits, bound, check_parquet, rows_at_once
from app.prompts.parse import OF_A_RANKING, FieldError, PromptRow, Row, RowError, parse_row

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

# Every way that unpacking can find a gzip file cut off or altered.
GZIP_ERRORS = (gzip.BadGzipFile, EOFError, zlib.error)

Rows = Generator[PromptRow | RowError]


def read_file(path: Path, limits: Limits) -> Rows:
    """The rows of a JSONL, JSON, CSV or Parquet file, gzipped or not, by the end of its name.

    Raises InvalidInput where the file is missing or is none of these, TooLarge where it holds too much.
    """
    if not path.is_file():
        raise InvalidInput("there is no such file", field=str(path))
    with path.open("rb") as file:
        try:
            yield from read_stream(file, path.name, limits)
        except InvalidInput as error:
            error.field = str(path) if error.field == "file" else error.field
            raise


def read_stream(file: IO[bytes], name: str, limits: Limits) -> Rows:
    """The rows of an open file; `name` tells its kind (JSON Lines where it tells none).

    Raises InvalidInput for one that is no file of ours.
    """
    zipped = name.endswith(".gz")
    kind = name.removesuffix(".gz").rsplit(".", 1)[-1].lower()
    try:
        if kind == "parquet":
            # Its table of contents is at its end, and gzip cannot be read from there.
            whole = io.BytesIO(_unpack(file, limits)) if zipped else file
            rows = _read_parquet(whole, limits)
        else:
            plain = bound(
                cast(IO[bytes], gzip.GzipFile(fileobj=file, mode="rb")) if zipped else file, limits
            )
            if kind == "csv":
                rows = _read_csv(plain, limits)
            elif kind == "json":
                rows = read_json(limits.read_whole(plain), limits)
            else:
                rows = read_lines(plain, limits)
        yield from limits.count_rows(rows)
    except GZIP_ERRORS as error:
        raise InvalidInput(f"is not a whole gzip file ({error})", field="file") from None


def _unpack(file: IO[bytes], limits: Limits) -> bytes:
    with gzip.GzipFile(fileobj=file, mode="rb") as plain:
        return limits.read_whole(cast(IO[bytes], plain))


def read_lines(file: IO[bytes] | Iterable[bytes], limits: Limits) -> Rows:
    """The rows of JSON Lines. A line over the limit is passed over without being kept in memory."""
    limit = limits.line_bytes
    for number, line in enumerate(_bounded_lines(file, limit), start=1):
        if line is None:
            yield RowError(number, "line", f"is longer than {limit:,} bytes")
            continue
        text = line.strip()
        if not text:
            continue
        try:
            yield parse_row(load(text), number, max_bytes=limits.text_bytes)
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


def read_json(body: bytes, limits: Limits) -> Rows:
    """The rows of a JSON list; their lines are their places in it, from 1.

    Raises InvalidInput where the whole is no JSON list.
    """
    try:
        items = load(body)
    except FieldError as error:
        raise InvalidInput(error.message, field="body") from None
    if not isinstance(items, list):
        raise InvalidInput("must be a JSON list of rows", field="body")
    for number, item in enumerate(items, start=1):
        try:
            yield parse_row(item, number, max_bytes=limits.text_bytes)
        except FieldError as error:
            yield RowError(number, error.field, error.message)


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


def _read_csv(file: IO[bytes], limits: Limits) -> Rows:
    csv.field_size_limit(limits.line_bytes)
    # A byte that is no UTF-8 spoils the cell it stands in, not the rows around it.
    text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.DictReader(text)
    try:
        if len(reader.fieldnames or ()) > MOST_COLUMNS:
            raise TooLarge(f"has more than {MOST_COLUMNS} columns", field="file")
        for record in reader:
            yield _from_cells(dict(record), reader.line_num, limits)
    except csv.Error as error:
        # Where a cell has no end, what follows may be its inside: nothing of it is taken for rows.
        yield RowError(
            reader.line_num + 1,
            "line",
            f"cannot be read as CSV: {error}; nothing from this line on was imported",
        )
    finally:
        text.detach()  # whoever opened the file closes it


def _read_parquet(file: IO[bytes], limits: Limits) -> Rows:
    import pyarrow
    import pyarrow.parquet

    number = unpacked = 0
    try:
        table = pyarrow.parquet.ParquetFile(file)
        check_parquet(table.metadata, limits)
        _check_schema(table.schema_arrow)
        for batch in _read_batches(table):
            # What rows share counts once in what a file declares: here it counts for each of them.
            unpacked += batch.nbytes
            if unpacked > limits.file_bytes:
                raise TooLarge(f"unpacks to more than {limits.file_bytes:,} bytes", field="file")
            for record in batch.to_pylist():
                number += 1
                yield _from_cells(record, number, limits)
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


def _from_cells(
    record: Mapping[str | None, object], line: int, limits: Limits
) -> PromptRow | RowError:
    """A record of a table: empty cells are absent fields, structures may be JSON text."""
    row: Row = {}
    try:
        for name, cell in record.items():
            if cell is None or cell == "":
                continue
            if name is None:
                raise FieldError("line", "has more cells than the header has names")
            row[name] = _cell(name, cell)
        return parse_row(row, line, max_bytes=limits.text_bytes)
    except FieldError as error:
        return RowError(line, error.field, error.message)


def _cell(name: str, cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    try:
        cell.encode()
    except UnicodeEncodeError:
        raise FieldError(name, "is not UTF-8") from None
    structured = name in ("candidates", "ranks", "metadata", "priority", "gold", *OF_A_RANKING)
    if structured or (name in ("prompt", "chosen", "rejected") and cell.lstrip().startswith("[{")):
        try:
            return load(cell.strip().encode())
        except FieldError as error:
            raise FieldError(name, error.message) from None
    return cell
