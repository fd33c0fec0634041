"""Rows as others publish them: each is a prompt and its responses, in every stage that can use it."""

import json
from pathlib import Path
from typing import Any

import pytest

from trainer.__main__ import main
from trainer.data.files import read_demonstrations, read_prompts, read_rankings
from trainer.errors import TrainerError

Row = dict[str, Any]
SHORT = ["--steps", "1", "--batch-size", "4", "--max-length", "48", "--device", "cpu"]


def user(text: str) -> Row:
    return {"role": "user", "content": text}


def assistant(text: str) -> Row:
    return {"role": "assistant", "content": text}


def ultrafeedback(number: int) -> Row:
    """A row of HuggingFaceH4/ultrafeedback_binarized."""
    prompt = user(f"tell me story {number}")
    chosen, rejected = ([prompt, assistant(said)] for said in ("the sun", "a cat"))
    return {
        "prompt": prompt["content"], "prompt_id": f"id-{number}", "chosen": chosen,
        "rejected": rejected, "messages": chosen, "score_chosen": 8.5, "score_rejected": 3.0,
    }  # fmt: skip


def implicit(number: int) -> Row:
    """A row of trl-lib/ultrafeedback_binarized."""
    row = ultrafeedback(number)
    return {name: row[name] for name in ("chosen", "rejected", "score_chosen", "score_rejected")}


def hh(number: int) -> Row:
    start = f"\n\nHuman: tell me story {number}\n\nAssistant:"
    return {"chosen": f"{start} the sun", "rejected": f"{start} a cat"}


def hh_with_prompt(number: int) -> Row:
    start = f"\n\nHuman: tell me story {number}\n\nAssistant:"
    return {"prompt": start, "chosen": " the sun", "rejected": " a cat"}


def hh_with_prompt_and_transcripts(number: int) -> Row:
    return {"prompt": hh_with_prompt(number)["prompt"], **hh(number)}


def parts(number: int) -> Row:
    """Contents in parts, names that are null: as chat interfaces export them."""
    content = [{"type": "text", "text": "tell me "}, {"type": "text", "text": f"story {number}"}]
    prompt = {"role": "user", "content": content, "name": None}
    return {
        "chosen": [prompt, assistant("the sun")],
        "rejected": [prompt, assistant("a cat")],
        "tools": None,
    }


LAYOUTS = (ultrafeedback, implicit, hh, hh_with_prompt, hh_with_prompt_and_transcripts, parts)


def write(file: Path, rows: list[Row]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_a_row_is_one_prompt_and_two_responses(layout: Any, tmp_path: Path) -> None:
    """The prompt once, whoever repeats it."""
    file = write(tmp_path / "pairs.train.jsonl", [layout(3)])
    (ranking,) = read_rankings(file)["train"]
    assert ranking.messages == [user("tell me story 3")]
    assert (ranking.candidates, ranking.ranks) == (["the sun", "a cat"], [1, 2])
    (demonstration,) = read_demonstrations(file)["train"]
    assert demonstration.messages == [user("tell me story 3"), assistant("the sun")]
    (prompt,) = read_prompts(file)["train"]
    assert prompt.messages == [user("tell me story 3")]


def test_parquet_holds_the_same_rows(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    file = tmp_path / "pairs.train.parquet"
    rows = [ultrafeedback(1), parts(2) | {"prompt": None}]
    table = pyarrow.Table.from_pylist([rows[0]])
    pyarrow.parquet.write_table(table, file)
    (ranking,) = read_rankings(file)["train"]
    assert ranking.messages == [user("tell me story 1")]
    assert ranking.source == "pairs.train.parquet:1"


SYSTEM = {"role": "system", "content": "be brief"}
FIRST = [user("why"), assistant("no"), user("tell")]


@pytest.mark.parametrize(
    ("prompt", "begins", "wanted"),
    [
        ("tell", [SYSTEM, user("tell")], [SYSTEM, user("tell")]),
        ("tell ", FIRST, FIRST),
        ("why", FIRST, FIRST),
        (FIRST, FIRST, FIRST),
        (FIRST, FIRST[-1:], FIRST),
        (FIRST[-1:], FIRST, FIRST),
        (FIRST, [], FIRST),
        ([user("why")], FIRST[1:], FIRST),
    ],
)
def test_a_prompt_beside_conversations_stands_in_them_or_before_them(
    prompt: Any, begins: list[Row], wanted: list[Row], tmp_path: Path
) -> None:
    row = {
        "prompt": prompt,
        "chosen": [*begins, assistant("yes")],
        "rejected": [*begins, assistant("no")],
    }
    (ranking,) = read_rankings(write(tmp_path / "a.train.jsonl", [row]))["train"]
    assert ranking.messages == wanted
    assert ranking.candidates == ["yes", "no"]


def test_conversations_that_begin_with_another_prompt_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.train.jsonl", [ultrafeedback(1), ultrafeedback(2) | {"prompt": "x"}])
    with pytest.raises(TrainerError, match=r"a.train.jsonl:2: chosen: begins with another prompt"):
        read_rankings(file)


def test_what_speaks_against_a_row_is_counted(tmp_path: Path) -> None:
    rows = [ultrafeedback(1), ultrafeedback(2) | {"score_rejected": 8.5}]
    data = read_rankings(write(tmp_path / "a.train.jsonl", rows))
    assert data.left_out.counts == {"score_chosen not above score_rejected, kept": 1}
    again = [ultrafeedback(1), ultrafeedback(1)]
    prompts = read_prompts(write(tmp_path / "b.train.jsonl", again))
    assert prompts.left_out.counts == {"prompt that stands there already": 1}


def test_responses_that_repeat_their_prompt_are_counted_and_all_of_many_refused(
    tmp_path: Path,
) -> None:
    """Else a model would read, and learn, each prompt twice."""
    rows = [
        {"prompt": f"why {n}", "chosen": f"why {n} yes", "rejected": f"why {n} no"}
        for n in range(10)
    ]
    file = write(tmp_path / "a.train.jsonl", rows)
    for read in (read_rankings, read_demonstrations):
        with pytest.raises(TrainerError, match="every response begins with its prompt"):
            read(file)
    rows[3]["rejected"] = "no"
    data = read_rankings(write(file, rows))
    assert data.left_out.counts == {"response that begins with its prompt, kept": 9}


@pytest.mark.parametrize(
    ("row", "rankings", "demonstrations", "prompts"),
    [
        ({"prompt": "a"}, "holds no ranking: ", "holds no demonstration: ", None),
        ({"messages": [user("a")]}, "holds no ranking: ", "messages: must end with an", None),
        ({"messages": [user("a"), assistant("b")]}, "holds no ranking: ", None, None),
        ({"text": "a"}, "holds no ranking: ", "holds no demonstration: ", "holds no prompt: "),
        ({"chosen": "a"}, "rejected: is missing", "rejected: is missing", "rejected: is missing"),
    ],
)
def test_rows_of_another_kind_are_told_what_is_wanted(
    row: Row, rankings: str | None, demonstrations: str | None, prompts: str | None, tmp_path: Path
) -> None:
    file = write(tmp_path / "a.train.jsonl", [row])
    for read, reason in (
        (read_rankings, rankings),
        (read_demonstrations, demonstrations),
        (read_prompts, prompts),
    ):
        if reason is None:
            assert len(read(file)["train"]) == 1
        else:
            with pytest.raises(TrainerError, match=f"a.train.jsonl:1: {reason}"):
                read(file)


@pytest.mark.parametrize(
    ("stage", "layout"),
    [
        *(("sft", ultrafeedback), ("reward", implicit), ("dpo", ultrafeedback), ("ppo", implicit)),
        *(("rloo", ultrafeedback), ("evaluate", ultrafeedback), ("evaluate", implicit)),
        ("generate", ultrafeedback),
    ],
)
def test_every_stage_takes_ultrafeedback(
    stage: str, layout: Any, tiny_model: str, untrained_reward: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "pairs.train.jsonl", [layout(number) for number in range(8)])
    out = tmp_path / "out"
    flags = ["--data", str(file), "--out", str(out), "--device", "cpu", "--max-length", "48"]
    if stage == "generate":
        flags += ["--model", tiny_model, "--response-length", "4"]
    elif stage == "evaluate":
        flags += ["--reward", untrained_reward, "--response-length", "4"]
        flags += ["--policy", tiny_model, "--against", tiny_model] if layout is implicit else []
    else:
        flags += ["--model", tiny_model, *SHORT]
    if stage in ("ppo", "rloo"):
        flags += ["--reward", untrained_reward, "--response-length", "4"]
    assert main([stage, *flags]) == 0
    if stage == "generate":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert [row["prompt"] for row in rows] == [[user(f"tell me story {n}")] for n in range(8)]
        assert rows[0]["id"] == "id-0"
    elif stage == "evaluate":
        figures = json.loads(out.read_text())
        assert figures["prompts" if layout is implicit else "pairs"] == 8
        assert figures["left_out"] == {}
    else:
        assert json.loads((out / "result.json").read_text())["left_out"] == {}
