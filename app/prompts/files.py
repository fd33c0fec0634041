"""Files of the import format: JSON Lines, a JSON list, CSV or Parquet, gzipped or not, row by row.

A row is one JSON object of a JSONL file, one item of a JSON list, or one record of a CSV or Parquet file
(messages and other structures as JSON text). A row that is wrong becomes a `RowError` with its line; a
file that is none of these is refused as a whole.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, NoReturn, cast

from app.errors import InvalidInput, TooLarge
from app.prompts.parse import FieldError, PromptRow, Row, RowError, parse_row

# A line may hold a prompt and nine candidates, each of the largest size, and its JSON escapes.
LINE_FACTOR = 12
# Every way that unpacking can find a gzip file cut off or altered.
GZIP_ERRORS = (gzip.BadGzipFile, EOFError, zlib.error)

Rows = Iterator[PromptRow | RowError]


def read_file(path: Path, *, max_bytes: int) -> Rows:
    """The rows of a JSONL, JSON, CSV or Parquet file, gzipped or not, by the end of its name.

    Raises InvalidInput where the file is missing or is none of these.
    """
    if not path.is_file():
        raise InvalidInput("there is no such file", field=str(path))
    name = path.name.removesuffix(".gz")
    zipped = path.name.endswith(".gz")
    with gzip.open(path, "rb") if zipped else path.open("rb") as file:
        try:
            yield from read_stream(cast(IO[bytes], file), name, max_bytes=max_bytes)
        except GZIP_ERRORS as error:
            raise InvalidInput(f"is not a whole gzip file ({error})", field=str(path)) from None


def read_upload(
    file: IO[bytes], name: str, *, max_bytes: int, max_unpacked: int
) -> list[PromptRow | RowError]:
    """The rows of an uploaded file. Raises InvalidInput for one that is no file of ours."""
    if not name.endswith(".gz"):
        return list(read_stream(file, name, max_bytes=max_bytes))
    try:
        with gzip.open(file) as plain:
            # What unpacks to more than a plain upload may hold was packed to do harm.
            text = plain.read(max_unpacked + 1)
    except GZIP_ERRORS as error:
        raise InvalidInput(f"is not a whole gzip file ({error})", field=name) from None
    if len(text) > max_unpacked:
        raise TooLarge(f"unpacks to more than {max_unpacked:,} bytes", field=name)
    return list(read_stream(io.BytesIO(text), name.removesuffix(".gz"), max_bytes=max_bytes))


def read_stream(file: IO[bytes], name: str, *, max_bytes: int) -> Rows:
    """The rows of an open file; `name` tells its kind (JSON Lines where it tells none)."""
    kind = name.rsplit(".", 1)[-1].lower()
    if kind == "csv":
        yield from _read_csv(file, max_bytes)
    elif kind == "parquet":
        yield from _read_parquet(file, max_bytes)
    elif kind == "json":
        yield from read_json(file.read(), max_bytes=max_bytes)
    else:
        yield from read_lines(file, max_bytes=max_bytes)


def read_lines(file: IO[bytes] | Iterable[bytes], *, max_bytes: int) -> Rows:
    """The rows of JSON Lines. A line over the limit is passed over without being kept in memory."""
    limit = max_bytes * LINE_FACTOR
    for number, line in enumerate(_bounded_lines(file, limit), start=1):
        if line is None:
            yield RowError(number, "line", f"is longer than {limit:,} bytes")
            continue
        text = line.strip()
        if not text:
            continue
        try:
            yield parse_row(load(text), number, max_bytes=max_bytes)
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


def read_json(body: bytes, *, max_bytes: int) -> Rows:
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
            yield parse_row(item, number, max_bytes=max_bytes)
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


def _read_csv(file: IO[bytes], max_bytes: int) -> Rows:
    csv.field_size_limit(max_bytes * LINE_FACTOR)
    # A byte that is no UTF-8 spoils the cell it stands in, not the rows around it.
    text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.DictReader(text)
    try:
        for record in reader:
            yield _from_cells(dict(record), reader.line_num, max_bytes)
    except csv.Error as error:
        # Where a cell has no end, what follows may be its inside: nothing of it is taken for rows.
        yield RowError(
            reader.line_num + 1,
            "line",
            f"cannot be read as CSV: {error}; nothing from this line on was imported",
        )
    finally:
        text.detach()  # whoever opened the file closes it


def _read_parquet(file: IO[bytes], max_bytes: int) -> Rows:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        table = pyarrow.parquet.ParquetFile(io.BytesIO(file.read()))
        for batch in table.iter_batches(batch_size=1000):
            for record in batch.to_pylist():
                number += 1
                yield _from_cells(record, number, max_bytes)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise InvalidInput(
            f"is not a whole Parquet file (after row {number}: {reason})", field="file"
        ) from None


def _from_cells(
    record: Mapping[str | None, object], line: int, max_bytes: int
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
        return parse_row(row, line, max_bytes=max_bytes)
    except FieldError as error:
        return RowError(line, error.field, error.message)


def _cell(name: str, cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    try:
        cell.encode()
    except UnicodeEncodeError:
        raise FieldError(name, "is not UTF-8") from None
    structured = name in ("candidates", "ranks", "metadata", "priority", "gold", "keep_gaps")
    if structured or (name in ("prompt", "chosen", "rejected") and cell.lstrip().startswith("[{")):
        try:
            return load(cell.strip().encode())
        except FieldError as error:
            raise FieldError(name, error.message) from None
    return cell
