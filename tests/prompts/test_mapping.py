"""A mapping file says which columns are what, and several raters of one record come in as several."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import InvalidInput
from app.intake.service import import_prompts
from app.prompts.files import Record
from app.prompts.limits import Limits
from app.prompts.mapping import load_mapping
from app.prompts.parse import PromptRow, RowError
from app.prompts.reading import Reading, read_file, read_rows
from app.quality.service import get_leaderboard, get_quality
from tests.factories.projects import create_project

LIMITS = Limits(text_bytes=100_000)
MEANS = '{ "0" = [1, 1], "1" = [1, 2], "2" = [2, 1] }'
PANDALM = """
id = "idx"
prompt = { join = ["instruction", "input"], with = "\\n\\n" }
candidates = [
  { text = "response1", policy = { path = "cmp_key", before = "_" } },
  { text = "response2", policy = { path = "cmp_key", after = "_" } },
]
metadata = ["motivation_app"]
""" + "".join(
    f"""
[[rankings]]
rater = {{ is = "annotator {number}" }}
ranks = {{ path = "annotator{number}", means = {MEANS} }}
"""
    for number in (1, 2, 3)
)


def read(tmp_path: Path, mapping: str, *records: dict[str, Any], **how: Any) -> list[Any]:
    file = tmp_path / "mapping.toml"
    file.write_text(mapping)
    reading = Reading(limits=LIMITS, layout=load_mapping(file), **how)
    return list(read_rows([Record(n, each) for n, each in enumerate(records, start=1)], reading))


def judged(**fields: Any) -> dict[str, Any]:
    return {
        "idx": 4,
        "instruction": "Name it.",
        "input": "",
        "response1": "x",
        "response2": "y",
        "cmp_key": "big-7b_small",
        "motivation_app": "mail",
        "annotator1": 1,
        "annotator2": 2,
        "annotator3": 0,
    } | fields


def test_three_judgments_of_one_record_are_three_rankings(tmp_path: Path) -> None:
    rows = read(tmp_path, PANDALM, judged(), judged(idx=5, input="A hill", annotator2=None))
    assert [type(each) for each in rows] == [PromptRow] * 5
    assert [(each.external_id, each.rater, each.ranks) for each in rows] == [
        ("4", "annotator 1", [1, 2]),
        ("4", "annotator 2", [2, 1]),
        ("4", "annotator 3", [1, 1]),
        ("5", "annotator 1", [1, 2]),
        ("5", "annotator 3", [1, 1]),
    ]
    assert rows[0].messages == [{"role": "user", "content": "Name it."}]
    assert rows[3].messages == [{"role": "user", "content": "Name it.\n\nA hill"}]
    assert [each.policy for each in rows[0].candidates] == ["big-7b", "small"]
    assert rows[0].metadata == {"motivation_app": "mail"}


def test_a_value_that_the_mapping_does_not_foresee_is_an_error(tmp_path: Path) -> None:
    wrong = [
        (judged(annotator1=3), "annotator1", "'3' is none of 0, 1, 2"),
        (judged(cmp_key="one"), "cmp_key", "has no '_' to be cut at"),
        (judged(input=["a"]), "input", "must be a text"),
        (judged(mood=1), "mood", "is not a column of the mapping"),
    ]
    for record, field, message in wrong:
        (found,) = read(tmp_path, PANDALM, record)
        assert isinstance(found, RowError)
        assert (found.field, message in found.message) == (field, True), found
    kept = read(tmp_path, PANDALM, judged(mood=1), keep_extra=True)
    assert kept[0].metadata == {"motivation_app": "mail", "mood": 1}


def test_paths_scores_and_what_else_a_rater_said(tmp_path: Path) -> None:
    mapping = """
prompt = "ask.messages"
candidates = ["answers[0].text", "answers[1].text"]
drop = ["row"]

[[rankings]]
rater = "by.name"
ranks = { scores = ["answers[0].rating", "answers[1].rating"], best = "lowest" }
strength = "by.strength"
rationale = { join = ["why", "more"], with = " " }
seconds = "took"
at = "when"
"""
    record = {
        "ask": {"messages": [{"role": "user", "content": "Q"}]},
        "answers": [{"text": "x", "rating": 2.5}, {"text": "y", "rating": "1"}],
        "by": {"name": 7, "strength": 2},
        "why": "It is",
        "more": "short.",
        "took": 3,
        "when": "2024-01-01T00:00:00Z",
        "row": 5,
    }
    (row,) = read(tmp_path, mapping, record)
    assert isinstance(row, PromptRow), row
    assert (row.ranks, row.rater, row.strength) == ([2, 1], "7", 2)
    assert (row.rationale, row.seconds, row.metadata) == ("It is short.", 3.0, {})
    (error,) = read(tmp_path, mapping, record | {"answers": [{"text": "x", "rating": "good"}]})
    assert error.field == "answers[0].rating"


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ("prompt = ", "is no TOML"),
        ("", "prompt"),
        ('prompt = "a"\ncolour = "b"', "colour"),
        ('prompt = "a..b"', "'a..b' is no path"),
        (
            'prompt = "a"\ncandidates = ["b", "c"]\n[[rankings]]\nrater = "r"\nranks = ["d"]',
            "2 cand",
        ),
        ('prompt = { joins = ["a"] }', "prompt"),
    ],
)
def test_a_mapping_that_is_wrong_is_refused_with_its_place(
    tmp_path: Path, mapping: str, said: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(tmp_path, mapping, {"a": "b"})
    assert said in f"{caught.value.field} {caught.value.message}"
    assert "mapping.toml" in (caught.value.field or "")


async def test_pandalm_comes_in_by_a_mapping_and_its_figures_are_the_published_ones(
    session: AsyncSession, real_data: Path, tmp_path: Path
) -> None:
    source = real_data / "pandalm" / "judgments.jsonl"
    records = source.read_text().splitlines() if source.exists() else [json.dumps(judged())]
    file, mapping = tmp_path / "judgments.jsonl", tmp_path / "pandalm.toml"
    file.write_text("\n".join(records))
    mapping.write_text(PANDALM)
    project = await create_project(session, overlap=3)
    rows = read_file(file, Reading(limits=LIMITS, layout=load_mapping(mapping)))
    report = await import_prompts(session, project, rows, source="pandalm", actor=None)
    assert (report.accepted, report.rejected) == (3 * len(records), [])
    if not source.exists():
        return
    quality = await get_quality(session, project)
    assert quality.agreement.alpha_ordinal.value == pytest.approx(0.886777, abs=1e-6)
    assert quality.agreement.pairwise.value == pytest.approx(0.927039, abs=1e-6)
    board = await get_leaderboard(session, project)
    assert {each.policy: each.strength for each in board.policies} == pytest.approx(
        {
            "llama-7b": 0.8703,
            "bloom-7b": 0.0699,
            "pythia-6.9b": -0.0568,
            "opt-7b": -0.1843,
            "cerebras-gpt-6.7B": -0.6991,
        },
        abs=5e-4,
    )
