"""What is trained on is never measured on: a file is split by prompt, and a directory by its files."""

import json
import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.collected import write_export
from trainer.data.examples import SPLITS, Data
from trainer.data.files import read_demonstrations, read_prompts, read_rankings

PROMPTS = 150


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Three comparisons of every prompt, in no order, in one file without a split in its name."""
    rows = [
        {
            "prompt": [{"role": "user", "content": f"question {number}"}],
            "chosen": [{"role": "assistant", "content": f"good answer {turn}"}],
            "rejected": [{"role": "assistant", "content": f"bad answer {turn * number}"}],
        }
        for number in range(PROMPTS)
        for turn in range(3)
    ]
    random.Random(0).shuffle(rows)
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def splits_by_prompt(data: Data[Any], *, answered: bool = False) -> dict[str, set[str]]:
    """The splits in which each first question stands."""
    found = defaultdict(set)
    for split in SPLITS:
        for each in data[split]:
            found[each.messages[0]["content"]].add(split)
            assert answered == (each.messages[-1]["role"] == "assistant")
    return found


def test_all_rows_of_a_prompt_are_in_one_part_whatever_they_hold(pairs: Path) -> None:
    found = splits_by_prompt(read_rankings(pairs))
    assert len(found) == PROMPTS
    assert all(len(splits) == 1 for splits in found.values())
    shares = Counter(split for (split,) in found.values())
    assert shares["train"] / PROMPTS == pytest.approx(0.8, abs=0.08)
    assert shares["validation"] / PROMPTS == pytest.approx(0.1, abs=0.06)
    assert shares["test"] / PROMPTS == pytest.approx(0.1, abs=0.06)


def test_every_stage_holds_the_same_prompts_out(pairs: Path) -> None:
    """Or a policy would imitate what its reward model is measured on."""
    ranked = splits_by_prompt(read_rankings(pairs))
    assert splits_by_prompt(read_demonstrations(pairs), answered=True) == ranked
    assert splits_by_prompt(read_prompts(pairs)) == ranked


def test_the_order_of_lines_moves_no_prompt(pairs: Path) -> None:
    before = splits_by_prompt(read_rankings(pairs))
    pairs.write_text("".join(reversed(pairs.read_text().splitlines(keepends=True))))
    assert splits_by_prompt(read_rankings(pairs)) == before


def test_conversations_are_split_by_all_that_stands_before_the_last_answer(tmp_path: Path) -> None:
    file = tmp_path / "demonstrations.jsonl"
    with file.open("w") as lines:
        for number in range(60):
            for answer in ("one", "two", "three"):
                turns = [
                    {"role": "user", "content": f"question {number}"},
                    {"role": "assistant", "content": "why ?"},
                    {"role": "user", "content": "tell me"},
                    {"role": "assistant", "content": answer},
                ]
                lines.write(json.dumps({"messages": turns}) + "\n")
    data = read_demonstrations(file)
    found = splits_by_prompt(data, answered=True)
    assert all(len(splits) == 1 for splits in found.values())
    assert {split for (split,) in found.values()} == set(SPLITS)
    assert all(len(data[split]) % 3 == 0 for split in SPLITS)


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_in_a_files_name_is_the_split_of_all_its_rows(pairs: Path, split: str) -> None:
    named = pairs.rename(pairs.with_name(f"comparisons.{split}.jsonl"))
    data = read_rankings(named)
    assert {each: len(data[each]) for each in SPLITS} == {
        each: 3 * PROMPTS if each == split else 0 for each in SPLITS
    }


def test_a_directorys_files_are_its_splits(tmp_path: Path) -> None:
    data = read_rankings(write_export(tmp_path / "export"))
    assert {split: len(data[split]) for split in SPLITS} == {"train": 9, "validation": 4, "test": 4}
    turns = read_demonstrations(tmp_path / "export")
    assert {split: len(turns[split]) for split in SPLITS} == {
        "train": 7,
        "validation": 2,
        "test": 3,
    }


def test_the_hash_is_of_every_byte_in_its_place(pairs: Path, tmp_path: Path) -> None:
    """A run that goes on with `--resume` must see the examples it saw, in their order, in their splits."""
    first = read_rankings(pairs).hash
    lines = pairs.read_text().splitlines(keepends=True)
    pairs.write_text("".join([*lines[1:], lines[0]]))
    assert read_rankings(pairs).hash != first
    pairs.write_text("".join(lines))
    assert read_rankings(pairs).hash == first

    export = Path(write_export(tmp_path / "export"))
    before = read_rankings(export).hash
    train, validation = (export / f"rankings.{split}.jsonl" for split in ("train", "validation"))
    *kept, moved = train.read_text().splitlines(keepends=True)
    train.write_text("".join(kept))
    validation.write_text(moved + validation.read_text())
    assert read_rankings(export).hash != before


def test_an_export_reads_the_same_in_every_format(tmp_path: Path) -> None:
    import gzip

    import pyarrow
    import pyarrow.parquet

    plain = Path(write_export(tmp_path / "plain"))
    wanted = read_demonstrations(plain)
    for ending in ("jsonl.gz", "parquet"):
        folder = tmp_path / ending
        folder.mkdir()
        for split in SPLITS:
            text = (plain / f"demonstrations.{split}.jsonl").read_text()
            file = folder / f"demonstrations.{split}.{ending}"
            if ending == "parquet":
                rows = [json.loads(line) for line in text.splitlines()]
                pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
            else:
                file.write_bytes(gzip.compress(text.encode()))
        assert read_demonstrations(folder).splits == wanted.splits
