"""The guard of the trainer's checklist: it fails on a name that is written in the table alone."""

from pathlib import Path

import pytest

from checks import checklist

TABLE = "\n".join(
    ["| detail | test |", "| --- | --- |"]
    + [
        f"| {number} a detail | here: `…_first_…`, `…_second`; losses: `test_third` |"
        for number in range(1, 33)
    ]
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "test_checklist.py").write_text(
        f'"""{TABLE}"""\ndef test_the_first_one(): ...\nasync def test_a_second(): ...\n'
    )
    (tmp_path / "test_losses.py").write_text("def test_third(): ...\n")
    return tmp_path


def test_a_whole_table_has_no_problems(folder: Path) -> None:
    assert checklist.problems(TABLE, folder) == []


@pytest.mark.parametrize(
    ("file", "test", "told"),
    [
        ("test_checklist.py", "test_the_first_one", "test_checklist.py has no test …_first_…"),
        ("test_checklist.py", "test_a_second", "test_checklist.py has no test …_second"),
        ("test_losses.py", "test_third", "test_losses.py has no test test_third"),
    ],
)
def test_a_test_that_is_gone_is_missed(folder: Path, file: str, test: str, told: str) -> None:
    path = folder / file
    path.write_text(path.read_text().replace(f"def {test}", f"def not_{test}"))
    assert set(checklist.problems(TABLE, folder)) == {told}


def test_a_detail_without_a_row_and_a_row_without_a_test_are_missed(folder: Path) -> None:
    without = "\n".join(line for line in TABLE.splitlines() if not line.startswith("| 31 "))
    assert checklist.problems(without, folder) == ["detail 31 has no row"]
    bare = without + "\n| 31 float32 | some day |"
    assert checklist.problems(bare, folder) == ["detail 31 names no test"]
