"""How much of a file is read: what an import may hold, whatever its format says of itself."""

import io
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import IO, Protocol, TypeVar

from app.errors import InvalidInput, TooLarge
from app.settings import Settings

Row = TypeVar("Row")

# A line may hold a prompt and nine candidates, each of the largest size, and its JSON escapes.
LINE_FACTOR = 12
MOST_COLUMNS = 200
# Fields of a Parquet file, with those inside of structures; and their values in one group of rows.
MOST_LEAVES = 1_000
MOST_VALUES = 5_000_000
# Messages of one conversation.
MOST_MESSAGES = 1_000
# As deep as metadata may be: no layout of preference data is deeper.
DEEPEST = 20
METADATA_BYTES = 1 << 20
# What a few rows of a Parquet file may take in memory at once: a value that is written once, and pointed
# at by every row, makes terabytes of a kilobyte.
BATCH_BYTES = 256 << 20


class ParquetColumn(Protocol):
    """What a Parquet file's footer says of a column in a group of rows."""

    total_uncompressed_size: int
    num_values: int


class ParquetGroup(Protocol):
    """And of a group of rows."""

    num_rows: int

    def column(self, index: int) -> ParquetColumn: ...


class ParquetMetadata(Protocol):
    """And of itself."""

    num_columns: int
    num_rows: int
    num_row_groups: int

    def row_group(self, index: int) -> ParquetGroup: ...


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The bounds of one import; those that are the same for every one stand above."""

    # Of a prompt or a candidate, in UTF-8.
    text_bytes: int
    # Of the file, once it is unpacked.
    file_bytes: int = 64 << 20
    # Of a file that is held in memory as a whole: a JSON list, a Parquet file inside of gzip.
    whole_bytes: int = 64 << 20
    rows: int = 1_000_000

    @classmethod
    def of(cls, settings: Settings, *, upload: bool = False) -> "Limits":
        """What the settings allow; an upload may unpack to no more than it could have been itself."""
        most = settings.max_request_bytes
        return cls(
            text_bytes=settings.max_prompt_bytes,
            file_bytes=most if upload else settings.max_import_bytes,
            whole_bytes=most,
            rows=settings.max_import_rows,
        )

    @property
    def line_bytes(self) -> int:
        """Of one line of JSON Lines, or one cell of a table."""
        return self.text_bytes * LINE_FACTOR

    def count_rows(self, rows: Generator[Row]) -> Iterator[Row]:
        """The rows, as long as they are not too many. Raises TooLarge."""
        with closing(rows):
            for number, row in enumerate(rows, start=1):
                if number > self.rows:
                    raise TooLarge(
                        f"has more than {self.rows:,} rows: import it in parts", field="file"
                    )
                yield row

    def read_whole(self, file: IO[bytes]) -> bytes:
        """All of a file that has to be in memory at once. Raises TooLarge."""
        most = min(self.whole_bytes, self.file_bytes)
        data = file.read(most + 1)
        if len(data) > most:
            raise TooLarge(
                f"holds more than {most:,} bytes, and is read as a whole: use JSON Lines",
                field="file",
            )
        return data


class Bounded(io.RawIOBase):
    """A file of which only so much can be read: what unpacks to more was packed to do harm."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file = file
        self._most = most
        self._read = 0

    def readable(self) -> bool:
        """It is for reading only."""
        return True

    def readinto(self, buffer: "memoryview[int]") -> int:  # type: ignore[override]
        """As `io.RawIOBase` has it. Raises TooLarge."""
        data = self._file.read(len(buffer))
        self._read += len(data)
        if self._read > self._most:
            raise TooLarge(f"unpacks to more than {self._most:,} bytes", field="file")
        buffer[: len(data)] = data
        return len(data)


def bound(file: IO[bytes], limits: Limits) -> io.BufferedReader:
    """The file, of which no more than the limit can be read."""
    return io.BufferedReader(Bounded(file, limits.file_bytes), 1 << 16)


def check_parquet(metadata: ParquetMetadata, limits: Limits) -> None:
    """What a Parquet file says of itself, before any of it is unpacked. Raises TooLarge, InvalidInput."""
    leaves = metadata.num_columns
    if leaves > MOST_LEAVES:
        raise TooLarge(f"has {leaves:,} columns; {MOST_LEAVES:,} are the most", field="file")
    if metadata.num_rows > limits.rows:
        raise TooLarge(
            f"has {metadata.num_rows:,} rows; {limits.rows:,} are the most: import it in parts",
            field="file",
        )
    unpacked = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = [group.column(each) for each in range(leaves)]
        sizes = [each.total_uncompressed_size for each in columns]
        values = max((each.num_values for each in columns), default=0)
        if min(sizes, default=0) < 0 or values < 0 or group.num_rows < 0:
            raise InvalidInput("is not a whole Parquet file (a size below zero)", field="file")
        unpacked += sum(sizes)
        if values > MOST_VALUES:
            raise TooLarge(
                f"has {values:,} values in one group of rows; {MOST_VALUES:,} are the most: "
                "write it with smaller groups",
                field="file",
            )
    if unpacked > limits.file_bytes:
        raise TooLarge(
            f"unpacks to {unpacked:,} bytes; {limits.file_bytes:,} are the most", field="file"
        )


def rows_at_once(group: ParquetGroup, leaves: int) -> int:
    """How many rows of a group can be unpacked together, at the worst that its sizes allow."""
    size = sum(group.column(each).total_uncompressed_size for each in range(leaves))
    return max(1, min(1000, BATCH_BYTES // max(1, size)))
