"""The import format: every right row is read, every wrong one is told by its line and field."""

import gzip
import hashlib
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.errors import InvalidInput
from app.prompts.files import read_json, read_lines
from app.prompts.limits import Limits
from app.prompts.parse import PromptRow, RowError
from app.prompts.reading import Reading, read_file, read_rows, read_stream
from app.prompts.transcripts import parse_transcript, render_transcript, split_pair

LIMIT = 10_000
LIMITS = Limits(text_bytes=LIMIT)


def reading() -> Reading:
    return Reading(limits=LIMITS)


def read(*rows: Any) -> list[PromptRow | RowError]:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    return list(read_rows(read_lines(io.BytesIO(b"\n".join(lines)), LIMITS), reading()))


def only(row: Any) -> PromptRow:
    (found,) = read(row)
    assert isinstance(found, PromptRow), found
    return found


def wrong(row: Any) -> RowError:
    (found,) = read(row)
    assert isinstance(found, RowError), found
    return found


def test_a_string_is_one_user_turn() -> None:
    row = only({"prompt": "Why?", "id": 7, "priority": 3, "metadata": {"a": [1, None]}})
    assert row.messages == [{"role": "user", "content": "Why?"}]
    assert (row.external_id, row.priority, row.metadata) == ("7", 3, {"a": [1, None]})


def test_messages_candidates_and_ranks_come_along() -> None:
    row = only(
        {
            "prompt": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hi"},
            ],
            "candidates": ["a", {"text": "b", "policy": "gpt"}],
            "ranks": [2, 1],
            "rater": "ann",
        }
    )
    assert [each.policy for each in row.candidates] == [None, "gpt"]
    assert (row.ranks, row.rater, row.gold) == ([2, 1], "ann", False)


def test_comparisons_become_rankings() -> None:
    plain = only({"prompt": "Q", "chosen": "good", "rejected": "bad"})
    assert [each.text for each in plain.candidates] == ["good", "bad"]
    assert (plain.ranks, plain.rater) == ([1, 2], "imported")
    listed = only(
        {
            "chosen": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "good"}],
            "rejected": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "bad"}],
        }
    )
    assert listed.messages == plain.messages
    assert listed.content_hash == plain.content_hash


def test_benchmark_questions_are_prompts() -> None:
    row = only({"question_id": 81, "category": "writing", "turns": ["First?", "Then?"]})
    assert row.messages == [{"role": "user", "content": "First?"}]
    assert (row.external_id, row.metadata["turns"]) == ("81", ["First?", "Then?"])
    assert wrong({"question_id": 1, "turns": []}).field == "turns"


def test_the_real_files_are_read_whole(real_data: Path) -> None:
    for name, rows in (
        ("mt-bench/questions.jsonl", 41),
        ("vicuna-bench/questions.jsonl", 52),
        ("self-instruct/prompts-with-candidates.jsonl", 139),
    ):
        file = real_data / name
        found = (
            list(read_file(file, Reading(limits=Limits(text_bytes=256 * 1024))))
            if file.exists()
            else []
        )
        assert [each for each in found if isinstance(each, RowError)] == []
        assert len(found) == (rows if file.exists() else 0)


WRONG: list[tuple[Any, str, str]] = [
    (b"{", "line", "is not JSON"),
    (b"\xff\xfe{}", "line", "is not UTF-8"),
    (b"[1]", "line", "must be a JSON object"),
    (b'{"prompt": NaN}', "line", "NaN"),
    (b"[" * 100_000, "line", ""),
    (b'{"prompt": "a", "priority": ' + b"9" * 5000 + b"}", "line", "not JSON that we take"),
    ({}, "prompt", "is missing"),
    ({"prompt": ""}, "prompt", "is empty"),
    ({"prompt": 3}, "prompt", "must be a string or a list of messages"),
    ({"prompt": "x" * (LIMIT + 1)}, "prompt", "is larger than 10,000 bytes"),
    ({"prompt": "a\x00b"}, "prompt", "NUL"),
    ({"prompt": "\ud800"}, "prompt", "surrogate"),
    ({"prompt": []}, "prompt", "must be a string or a list"),
    ({"prompt": [{"role": "user"}]}, "prompt.0", "must be an object with role and content"),
    ({"prompt": [{"role": "boss", "content": "x"}]}, "prompt.0.role", "must be one of"),
    ({"prompt": [{"role": "assistant", "content": "x"}]}, "prompt", "must end with a user's"),
    ({"prompt": "a", "colour": 1}, "colour", "is not a field"),
    ({"prompt": "a", "\ud800\x00": 1}, "\\ud800\\x00", "is not a field"),
    ({"prompt": "a", "x" * 999: 1}, "x" * 100, "is not a field"),
    ({"prompt": "a", "id": {}}, "id", "must be a string"),
    ({"prompt": "a", "id": "x" * 201}, "id", "is larger than"),
    ({"prompt": "a", "priority": "high"}, "priority", "must be a whole number"),
    ({"prompt": "a", "priority": True}, "priority", "must be a whole number"),
    ({"prompt": "a", "priority": 10**9}, "priority", "must be between"),
    ({"prompt": "a", "metadata": []}, "metadata", "must be an object"),
    ({"prompt": "a", "metadata": {"k": "\x00"}}, "metadata", "NUL"),
    ({"prompt": "a", "candidates": ["one"]}, "candidates", "must be a list of 2 to 9"),
    ({"prompt": "a", "candidates": ["x"] * 10}, "candidates", "must be a list of 2 to 9"),
    ({"prompt": "a", "candidates": ["x", {"text": 1}]}, "candidates.1.text", "must be a string"),
    ({"prompt": "a", "candidates": ["x", {"txt": "y"}]}, "candidates.1", "must be a string or an"),
    ({"prompt": "a", "candidates": ["x", "y"], "ranks": [1, 2]}, "rater", "need a rater"),
    ({"prompt": "a", "candidates": ["x", "y"], "ranks": [1], "rater": "r"}, "ranks", "as long as"),
    (
        {"prompt": "a", "candidates": ["x", "y"], "ranks": [1, 3], "rater": "r"},
        "ranks.1",
        "between",
    ),
    ({"prompt": "a", "candidates": ["x", "y"], "ranks": [2, 2], "rater": "r"}, "ranks", "rank 1"),
    (
        {"prompt": "a", "candidates": ["x", "y"], "ranks": [1, 1.5], "rater": "r"},
        "ranks.1",
        "whole",
    ),
    ({"prompt": "a", "ranks": [1, 2], "rater": "r"}, "ranks", "as long as candidates (0)"),
    ({"prompt": "a", "candidates": ["x", "y"], "gold": True}, "ranks", "a gold row needs"),
    ({"prompt": "a", "candidates": ["x", "y"], "rater": "r"}, "ranks", "needs their ranks"),
    ({"chosen": "x"}, "rejected", "is missing"),
    ({"chosen": "x", "rejected": "y"}, "chosen", "a transcript starts with"),
    ({"prompt": "q", "chosen": 1, "rejected": "y"}, "chosen", "must be a string"),
]


@pytest.mark.parametrize(("row", "field", "message"), WRONG)
def test_a_wrong_row_is_told_by_its_field(row: Any, field: str, message: str) -> None:
    found = wrong(row)
    assert found.line == 1
    assert found.field == field
    assert message in found.message


def test_the_line_of_an_error_is_the_files_own() -> None:
    found = read({"prompt": "a"}, b"", {"prompt": 1}, b"{", {"prompt": "b"})
    assert [each.line for each in found] == [1, 3, 4, 5]
    assert [isinstance(each, RowError) for each in found] == [False, True, True, False]


def test_a_line_of_fifty_megabytes_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "huge.jsonl"
    with file.open("wb") as lines:
        lines.write(b'{"prompt": "a"}\n{"prompt": "')
        for _ in range(50):
            lines.write(b"x" * 1_000_000)
        lines.write(b'"}\n{"prompt": "b"}\n')
    first, huge, last = read_file(file, reading())
    assert isinstance(first, PromptRow)
    assert isinstance(last, PromptRow)
    assert isinstance(huge, RowError)
    assert (huge.line, last.line) == (2, 3)
    assert "is longer than" in huge.message


def test_tables_and_zipped_files_read_like_lines(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"id": "1", "prompt": '[{"role": "user", "content": "Hi"}]', "candidates": '["x", "y"]'},
        {"id": "2", "prompt": "Plain, with a comma", "candidates": ""},
    ]
    text = (
        'id,prompt,candidates\n1,"[{""role"": ""user"", ""content"": ""Hi""}]","[""x"", ""y""]"\n'
    )
    (tmp_path / "rows.csv").write_text(text + '2,"Plain, with a comma",\n')
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    lines = "\n".join(
        [
            json.dumps(
                {"id": "1", "prompt": [{"role": "user", "content": "Hi"}], "candidates": ["x", "y"]}
            ),
            json.dumps({"id": "2", "prompt": "Plain, with a comma"}),
        ]
    )
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    found = []
    for name in ("rows.csv", "rows.parquet", "rows.jsonl.gz"):
        read_rows = list(read_file(tmp_path / name, reading()))
        found.append([(r.external_id, r.messages, r.candidates) for r in read_rows])  # type: ignore[union-attr]
    assert found[0] == found[1] == found[2]


def test_a_byte_that_is_no_text_spoils_its_own_row_alone(tmp_path: Path) -> None:
    rows = [b"%d,Question %d" % (number, number) for number in range(1, 3001)]
    rows[1499] = b"1500,\xff"
    (tmp_path / "rows.csv").write_bytes(b"id,prompt\n" + b"\n".join(rows))
    found = list(read_file(tmp_path / "rows.csv", reading()))
    wrong_rows = [each for each in found if isinstance(each, RowError)]
    assert wrong_rows == [RowError(1501, "prompt", "is not UTF-8")]
    assert len(found) == 3000


def test_a_cell_without_an_end_ends_the_table_and_says_so(tmp_path: Path) -> None:
    table = "id,prompt\n1,a\n2," + "x" * (13 * LIMIT) + "\n3,b\n"
    (tmp_path / "rows.csv").write_text(table)
    first, second = read_file(tmp_path / "rows.csv", reading())
    assert isinstance(first, PromptRow)
    assert isinstance(second, RowError)
    assert second.line == 3
    assert "nothing from this line on was imported" in second.message


def test_a_table_brings_nothing_that_json_does_not_have(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"prompt": "a", "metadata": {"at": datetime(2020, 1, 1, tzinfo=UTC)}},
        {"prompt": "b", "metadata": {"at": None}},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    first, second = read_file(tmp_path / "rows.parquet", reading())
    assert isinstance(first, PromptRow)
    assert first.metadata == {"at": "2020-01-01T00:00:00+00:00"}
    assert isinstance(second, PromptRow)


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl.gz"])
def test_a_file_altered_on_its_way_brings_nothing_in(tmp_path: Path, name: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if name.endswith("parquet"):
        pq.write_table(
            pa.Table.from_pylist([{"prompt": f"p{n}"} for n in range(99)]), tmp_path / name
        )
    else:
        noise = "".join(
            f'{{"prompt": "{hashlib.sha256(b"%d" % n).hexdigest()}"}}\n' for n in range(999)
        )
        (tmp_path / name).write_bytes(gzip.compress(noise.encode()))
    altered = bytearray((tmp_path / name).read_bytes())
    altered[12:60] = b"\xff" * 48
    (tmp_path / name).write_bytes(altered)
    with pytest.raises(InvalidInput, match="is not a whole"):
        list(read_file(tmp_path / name, reading()))


def test_what_is_no_list_and_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="must be a JSON list"):
        list(read_json(b"{}"))
    with pytest.raises(InvalidInput, match="no such file"):
        list(read_file(tmp_path / "none.jsonl", reading()))
    with pytest.raises(InvalidInput, match="not a whole Parquet file"):
        list(read_stream(io.BytesIO(b"hello"), "x.parquet", reading()))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "a"}' * 999)[:-20])
    with pytest.raises(InvalidInput, match="not a whole gzip file"):
        list(read_file(tmp_path / "cut.jsonl.gz", reading()))


START = "\n\nHuman: Hi \n\nAssistant:  Hello.\n\nHuman: Why?"


@pytest.mark.parametrize(
    ("chosen", "rejected", "early"),
    [
        (f"{START}\n\nAssistant: Because.", f"{START}\n\nAssistant: No idea. ", False),
        (f"{START}\n\nAssistant: ", f"{START}\n\nAssistant: x", False),
        (
            f"{START}\n\nAssistant: A\n\nHuman: B\n\nAssistant: C",
            f"{START}\n\nAssistant: A\n\nHuman: Other\n\nAssistant: D",
            True,
        ),
    ],
)
def test_transcripts_come_back_byte_for_byte(chosen: str, rejected: str, early: bool) -> None:
    messages, good, bad, parts_early = split_pair(chosen, rejected)
    assert render_transcript(messages, good) == chosen
    assert render_transcript(messages, bad) == rejected
    assert parts_early is early
    assert [each["role"] for each in messages] == ["user", "assistant", "user"]


def test_a_transcript_is_split_at_its_markers_alone() -> None:
    text = "\n\nHuman: Say 'Human: x'\nAssistant: y\n\nAssistant: ok"
    assert [role for role, _ in parse_transcript(text)] == ["user", "assistant"]


def test_the_real_pairs_come_back_byte_for_byte(real_data: Path) -> None:
    file = real_data / "hh-harmless" / "pairs.jsonl.gz"
    lines = gzip.decompress(file.read_bytes()).splitlines() if file.exists() else []
    early = 0
    for line in lines:
        row = json.loads(line)
        messages, chosen, rejected, parts_early = split_pair(row["chosen"], row["rejected"])
        assert render_transcript(messages, chosen) == row["chosen"]
        assert render_transcript(messages, rejected) == row["rejected"]
        early += parts_early
    assert early == (5 if lines else 0)
