"""A file is refused before it fills the memory, whatever it says of itself, and is told the bound."""

import gzip
import io
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.errors import InvalidInput, TooLarge
from app.prompts import limits as bounds
from app.prompts.limits import Limits
from app.prompts.parse import FieldError, PromptRow, RowError, parse_row
from app.prompts.reading import Reading, read_file, read_stream
from app.settings import CHECKOUT, Settings

SMALL = Limits(text_bytes=1000, file_bytes=100_000, whole_bytes=50_000, rows=100)
MIB = 1 << 20


def parquet(table: pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def pointed_at(value: str, rows: int) -> pa.Table:
    """A table whose only value is written once, and pointed at by every row."""
    indices = pa.array([0] * rows, pa.int32())
    return pa.table({"prompt": pa.DictionaryArray.from_arrays(indices, pa.array([value]))})


def nested(depth: int) -> pa.Table:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return pa.table({"prompt": ["p"], "metadata": [value]})


LINES = b'{"prompt": "p"}\n'
TOO_MUCH: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "rows": ("a.jsonl", lambda: LINES * 101, "100 rows"),
    "rows of a list": ("a.json", lambda: json.dumps([{"prompt": "p"}] * 101).encode(), "100 rows"),
    "rows of a table": ("a.csv", lambda: b"prompt\n" + b"p\n" * 101, "100 rows"),
    "rows of a Parquet file": (
        "a.parquet",
        lambda: parquet(pa.table({"prompt": ["p"] * 101})),
        "100 are the most",
    ),
    "bytes": ("a.jsonl", lambda: b" " * 10**6, "100,000 bytes"),
    "bytes of a list": ("a.json", lambda: b"[" + b" " * 60_000 + b"]", "50,000 bytes"),
    "unpacked bytes": ("a.jsonl.gz", lambda: gzip.compress(b" " * 10**7), "100,000 bytes"),
    "unpacked bytes of a list": ("a.json.gz", lambda: gzip.compress(b" " * 10**7), "50,000 bytes"),
    "unpacked bytes of a table": (
        "a.csv.gz",
        lambda: gzip.compress(b"prompt\n" + b"p," * 10**6),
        "100,000 bytes",
    ),
    "unpacked bytes of a packed Parquet file": (
        "a.parquet.gz",
        lambda: gzip.compress(b"\0" * 10**7),
        "50,000 bytes",
    ),
    "unpacked bytes of a Parquet file": (
        "a.parquet",
        lambda: parquet(pa.table({"prompt": ["x" * 10**6]}), compression="zstd"),
        "100,000 are the most",
    ),
    "columns of a table": (
        "a.csv",
        lambda: ",".join(f"c{n}" for n in range(300)).encode(),
        "200 columns",
    ),
    "columns of a Parquet file": (
        "a.parquet",
        lambda: parquet(pa.table({f"c{n}": [1] for n in range(300)})),
        "200 are the most",
    ),
    "fields of a Parquet file": (
        "a.parquet",
        lambda: parquet(pa.table({"metadata": [{f"c{n}": 1 for n in range(1100)}]})),
        "1,000 are the most",
    ),
    "nesting of a Parquet file": ("a.parquet", lambda: parquet(nested(25)), "deeper than 20"),
}


@pytest.mark.parametrize("what", TOO_MUCH)
def test_what_holds_too_much_is_refused_with_the_bound(tmp_path: Path, what: str) -> None:
    name, make, said = TOO_MUCH[what]
    (tmp_path / name).write_bytes(make())
    with pytest.raises(InvalidInput, match=said) as caught:
        list(read_file(tmp_path / name, Reading(limits=SMALL)))
    assert caught.value.field == str(tmp_path / name)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "x" * 1001}, "prompt is larger than 1,000 bytes"),
        ({"prompt": "p", "id": "x" * 201}, "id is larger than 200 bytes"),
        ({"prompt": "p", "metadata": {"a": ["x" * 900_000] * 2}}, "1,048,576 bytes of JSON"),
        ({"prompt": [{"role": "user", "content": ""}] * 1001}, "more than 1,000 messages"),
        ({"prompt": "p", "candidates": ["x"] * 10}, "a list of 2 to 9"),
    ],
)
def test_what_a_row_may_hold(row: dict[str, Any], said: str) -> None:
    with pytest.raises(FieldError) as caught:
        parse_row(row, 1, max_bytes=1000)
    assert said in f"{caught.value.field} {caught.value.message}"


def test_json_without_end_is_a_wrong_row() -> None:
    deep = b'{"prompt": "p", "metadata": ' + b'{"a": ' * 5000 + b"1" + b"}" * 5000 + b"}"
    (row,) = read_stream(io.BytesIO(deep), "a.jsonl", Reading(limits=Limits(text_bytes=100_000)))
    assert isinstance(row, RowError)
    assert "nested" in row.message


def test_a_parquet_bomb_is_read_a_few_rows_at_a_time() -> None:
    bomb = parquet(pointed_at("x" * 4 * MIB, 500_000), compression="zstd")
    assert len(bomb) < 10_000  # it holds 2 TB
    before = pa.total_allocated_bytes()
    limits = Limits(text_bytes=1000, file_bytes=280 * MIB)
    read = 0
    tracemalloc.start()
    with pytest.raises(TooLarge, match="unpacks to more than 293,601,280 bytes"):
        for row in read_stream(io.BytesIO(bomb), "a.parquet", Reading(limits=limits)):
            assert isinstance(row, RowError)
            assert "larger than 1,000 bytes" in row.message
            assert pa.total_allocated_bytes() - before < 2 * bounds.BATCH_BYTES
            read += 1
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2 * bounds.BATCH_BYTES
    assert 1 <= read <= 280 // 4


def test_a_list_of_endless_nothing_is_refused_by_its_number_of_values() -> None:
    offsets = pa.array([0, bounds.MOST_VALUES + 1], pa.int32())
    nothing = pa.nulls(bounds.MOST_VALUES + 1, pa.int8())
    column = pa.ListArray.from_arrays(offsets, nothing)
    bomb = parquet(pa.table({"prompt": ["p"], "metadata": column}))
    assert len(bomb) < 100_000
    with pytest.raises(TooLarge, match="5,000,000 are the most"):
        list(read_stream(io.BytesIO(bomb), "a.parquet", Reading(limits=Limits(text_bytes=1000))))


def test_a_gzip_bomb_is_not_unpacked_whole() -> None:
    """In a process that has no room for what it unpacks to."""
    script = """
import gzip, io, resource, sys
from app.errors import TooLarge
from app.prompts.reading import Reading, read_stream
from app.prompts.limits import Limits
bomb = sys.stdin.buffer.read()
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (200 << 20), size + (200 << 20)))
for name in ("a.jsonl.gz", "a.csv.gz", "a.json.gz", "a.parquet.gz"):
    try:
        for row in read_stream(io.BytesIO(bomb), name, Reading(limits=Limits(text_bytes=1000))):
            pass
    except TooLarge as error:
        print(name, error)
"""
    packed = io.BytesIO()
    with gzip.open(packed, "wb", compresslevel=1) as file:
        for _ in range(400):
            file.write(b" " * MIB)
    done = subprocess.run(
        [sys.executable, "-c", script], input=packed.getvalue(), capture_output=True, cwd=CHECKOUT
    )
    lines = done.stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == [
        *("a.jsonl.gz", "a.csv.gz", "a.json.gz", "a.parquet.gz")
    ], done.stderr.decode()[-2000:]
    assert all("67,108,864 bytes" in line for line in lines)


def test_many_groups_of_rows_are_read_in_order() -> None:
    table = pa.table({"prompt": [f"p{n}" for n in range(2500)]})
    data = parquet(table, row_group_size=700)
    rows = list(read_stream(io.BytesIO(data), "a.parquet", Reading(limits=Limits(text_bytes=1000))))
    assert [row.messages[0]["content"] for row in rows if isinstance(row, PromptRow)] == [
        f"p{n}" for n in range(2500)
    ]


def test_the_readme_states_the_bounds() -> None:
    text = (CHECKOUT / "README.md").read_text()
    settings = Settings(database_url="postgresql://unused")
    for number in (
        *(settings.max_import_rows, bounds.MOST_COLUMNS, bounds.MOST_LEAVES, bounds.DEEPEST),
        *(bounds.MOST_VALUES, bounds.MOST_MESSAGES),
    ):
        assert f"{number:,}" in text, number
    for size in (
        *(settings.max_import_bytes, settings.max_request_bytes, settings.max_prompt_bytes),
        *(bounds.METADATA_BYTES, settings.max_prompt_bytes * bounds.LINE_FACTOR),
    ):
        names = {30: "GiB", 20: "MiB", 10: "KiB"}
        unit = max(power for power in names if size >= 1 << power)
        assert f"{size >> unit} {names[unit]}" in text, size
