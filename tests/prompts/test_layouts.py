"""Public layouts come in as they are: recognised by their columns, nothing lost, nothing guessed."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.errors import InvalidInput
from app.prompts.files import Record
from app.prompts.layouts import LAYOUTS, recognise
from app.prompts.limits import Limits
from app.prompts.parse import PromptRow, RowError
from app.prompts.reading import Reading, count_like, read_file, read_rows, read_stream

ASKED = {"role": "user", "content": "Which river?"}
SAID = {"role": "assistant", "content": "The Oder."}
SAID_BADLY = {"role": "assistant", "content": "A loaf."}
FOLLOWED = [
    ASKED,
    {"role": "assistant", "content": "Which land?"},
    {"role": "user", "content": "Poland"},
]


def options(**how: Any) -> Reading:
    return Reading(limits=Limits(text_bytes=10_000), **how)


def read(*rows: dict[str, Any], **how: Any) -> tuple[list[PromptRow | RowError], list[str]]:
    reading = options(**how)
    records = [Record(line, row) for line, row in enumerate(rows, start=1)]
    return list(read_rows(records, reading)), reading.notes


def right(*rows: dict[str, Any], **how: Any) -> list[PromptRow]:
    found, _ = read(*rows, **how)
    return (
        [each for each in found if isinstance(each, PromptRow)]
        if all(isinstance(each, PromptRow) for each in found)
        else pytest.fail(str(found))
    )


def wrong(*rows: dict[str, Any], **how: Any) -> list[RowError]:
    found, _ = read(*rows, **how)
    return [each for each in found if isinstance(each, RowError)]


Texts = Sequence[tuple[str, str | None]]
PAIR: Texts = [("The Oder.", None), ("A loaf.", None)]

# layout: (record, candidates, ranks, rater, metadata's keys)
SINGLE: dict[str, tuple[dict[str, Any], Texts, list[int] | None, str | None, set[str]]] = {
    "ultrafeedback-binarized": (
        {
            "prompt": "Which river?",
            "prompt_id": "f0",
            "chosen": [ASKED, SAID],
            "rejected": [ASKED, SAID_BADLY],
            "messages": [ASKED, SAID],
            "score_chosen": 7.5,
            "score_rejected": 2.0,
        },
        PAIR,
        [1, 2],
        "imported",
        {"prompt_id", "score_chosen", "score_rejected"},
    ),
    "argilla-ultrafeedback": (
        {
            "source": "flan",
            "prompt": "Which river?",
            "chosen": [ASKED, SAID],
            "chosen-rating": 4.75,
            "chosen-model": "big",
            "rejected": [ASKED, SAID_BADLY],
            "rejected-rating": 1.0,
            "rejected-model": "small",
        },
        [("The Oder.", "big"), ("A loaf.", "small")],
        [1, 2],
        "argilla-ultrafeedback",
        {"source", "chosen-rating", "rejected-rating"},
    ),
    "skywork": (
        {"chosen": [ASKED, SAID], "rejected": [ASKED, SAID_BADLY], "source": "helpsteer"},
        PAIR,
        [1, 2],
        "imported",
        {"source"},
    ),
    "pairs-with-margin": (
        {"prompt": "Which river?", "chosen": "The Oder.", "rejected": "A loaf.", "margin": 0.7},
        PAIR,
        [1, 2],
        "imported",
        {"margin"},
    ),
    "nectar": (
        {
            "prompt": "\n\nHuman: Which river?\n\nAssistant: ",
            "answers": [
                {"answer": "A loaf.", "model": "small", "rank": 3.0},
                {"answer": "The Oder.", "model": "big", "rank": 1.0},
                {"answer": "Water.", "model": "mid", "rank": 2.0},
            ],
            "turns": 1,
            "num_responses": 3,
            "source": ["lmsys"],
            "good_natured": False,
        },
        [("A loaf.", "small"), ("The Oder.", "big"), ("Water.", "mid")],
        [3, 1, 2],
        "nectar",
        {"turns", "num_responses", "source", "good_natured"},
    ),
    "shp": (
        {
            "post_id": "x",
            "domain": "askhistorians_test",
            "history": "Which river?",
            "human_ref_A": "A loaf.",
            "human_ref_B": "The Oder.",
            "labels": 0,
            "score_A": 2,
            "score_B": 40,
            "seconds_difference": 5.0,
        },
        [("A loaf.", None), ("The Oder.", None)],
        [2, 1],
        "shp",
        {"post_id", "domain", "score_A", "score_B", "seconds_difference"},
    ),
    "webgpt": (
        {
            "question": {"dataset": "eli5", "id": "q", "full_text": "Which river?"},
            "answer_0": "A loaf.",
            "answer_1": "The Oder.",
            "score_0": -0.5,
            "score_1": 0.5,
            "quotes_0": {"title": [], "extract": []},
        },
        [("A loaf.", None), ("The Oder.", None)],
        [2, 1],
        "webgpt",
        {"question", "score_0", "score_1", "quotes_0"},
    ),
    "pku-saferlhf": (
        {
            "prompt": "Which river?",
            "response_0": "A loaf.",
            "response_1": "The Oder.",
            "response_0_source": "small",
            "response_1_source": "big",
            "better_response_id": 1,
            "safer_response_id": 0,
            "is_response_0_safe": True,
            "is_response_1_safe": False,
        },
        [("A loaf.", "small"), ("The Oder.", "big")],
        [2, 1],
        "pku-saferlhf",
        {"safer_response_id", "is_response_0_safe", "is_response_1_safe"},
    ),
    "arena": (
        {
            "question_id": "q7",
            "model_a": "big",
            "model_b": "small",
            "winner": "model_b",
            "judge": "somebody",
            "conversation_a": [ASKED, SAID],
            "conversation_b": [ASKED, SAID_BADLY],
            "turn": 1,
            "language": "English",
            "tstamp": 1_700_000_000.5,
        },
        [("The Oder.", "big"), ("A loaf.", "small")],
        [2, 1],
        "somebody",
        {"turn", "language", "tstamp"},
    ),
    "arena-55k": (
        {
            "id": 9,
            "model_a": "big",
            "model_b": "small",
            "prompt": '["Which river?"]',
            "response_a": '["The Oder."]',
            "response_b": '["A loaf."]',
            "winner_model_a": 1,
            "winner_model_b": 0,
            "winner_tie": 0,
        },
        [("The Oder.", "big"), ("A loaf.", "small")],
        [1, 2],
        "arena-55k",
        set(),
    ),
    "openai-preference": (
        {
            "input": {"messages": [ASKED], "tools": []},
            "preferred_output": [SAID],
            "non_preferred_output": [SAID_BADLY],
        },
        PAIR,
        [1, 2],
        "imported",
        set(),
    ),
    "sharegpt-dpo": (
        {
            "conversations": [{"from": "human", "value": "Which river?"}],
            "chosen": {"from": "gpt", "value": "The Oder."},
            "rejected": {"from": "gpt", "value": "A loaf."},
        },
        PAIR,
        [1, 2],
        "imported",
        set(),
    ),
    "ultrafeedback": (
        {
            "source": "evol",
            "instruction": "Which river?",
            "models": ["big", "small"],
            "completions": [
                {
                    "model": "big",
                    "response": "The Oder.",
                    "overall_score": 8.0,
                    "annotations": {"a": 1},
                },
                {"model": "small", "response": "A loaf.", "overall_score": 3.0},
            ],
            "correct_answers": [],
        },
        [("The Oder.", "big"), ("A loaf.", "small")],
        None,
        None,
        {"source", "scores", "completions"},
    ),
}


@pytest.mark.parametrize("name", SINGLE)
def test_a_public_layout_is_recognised_and_read_whole(name: str) -> None:
    record, texts, ranks, rater, kept = SINGLE[name]
    found, notes = read(record)
    assert notes == [f"read as {LAYOUTS[name].title}"]
    (row,) = found
    assert isinstance(row, PromptRow), row
    assert row.messages == [ASKED]
    assert [(each.text, each.policy) for each in row.candidates] == list(texts)
    assert (row.ranks, row.rater) == (ranks, rater)
    assert set(row.metadata) == kept
    # Named, it is read alike.
    assert read(record, layout=name)[0] == found


@pytest.mark.parametrize("name", SINGLE)
def test_a_column_that_a_layout_does_not_have_is_refused_or_kept(name: str) -> None:
    record = SINGLE[name][0] | {"mood": "fine", "aim": 3}
    (error,) = wrong(record, layout=name)
    assert (error.field, "aim, mood" in error.message) == ("aim", True)
    (row,) = right(record, layout=name, keep_extra=True)
    assert (row.metadata["mood"], row.metadata["aim"]) == ("fine", 3)


@pytest.mark.parametrize("label", [1, 1.0, "1", "1.0", True, "True", " TRUE "])
def test_a_choice_is_known_in_every_spelling_of_a_table(label: Any) -> None:
    record = SINGLE["shp"][0]
    wanted = [1, 2] if str(label).strip().lower() != "true" else None
    found, _ = read(record | {"labels": label})
    assert [getattr(each, "ranks", None) for each in found] == [wanted]
    rows = [{"prompt": [ASKED], "completion": [SAID], "label": each} for each in (label, False)]
    assert [each.ranks for each in right(*rows)] == [[1, 2]]


def test_a_system_prompt_and_orca_pairs() -> None:
    record = {"system": "Be brief.", "question": "Which river?", "chosen": "a", "rejected": "b"}
    (row,) = right(record)
    assert [each["role"] for each in row.messages] == ["system", "user"]
    (row,) = right(record | {"system": ""})
    assert row.messages == [ASKED]


def test_scores_rank_only_where_it_is_asked_by_which() -> None:
    scored = {"correctness": 1, "coherence": 3, "complexity": 1, "verbosity": 1}
    rows = [
        {"prompt": "Which river?", "response": "A loaf.", "helpfulness": 0} | scored,
        {"prompt": "Which river?", "response": "The Oder.", "helpfulness": 4} | scored,
        {"prompt": "Which hill?", "response": "x", "helpfulness": 2} | scored,
        {"prompt": "Which hill?", "response": "y", "helpfulness": 2} | scored,
        {"prompt": "Which sea?", "response": "z", "helpfulness": 2} | scored,
    ]
    found, _ = read(*rows)
    assert [getattr(each, "ranks", "wrong") for each in found] == [None, None, "wrong"]
    assert isinstance(found[0], PromptRow)
    assert found[0].metadata["scores"]["helpfulness"] == [0, 4]  # type: ignore[index]
    assert isinstance(found[2], RowError)
    assert (found[2].line, "the only one" in found[2].message) == (5, True)
    asked, _ = read(*rows, rank_by="helpfulness")
    assert [getattr(each, "ranks", "wrong") for each in asked] == [[2, 1], [1, 1], "wrong"]
    assert "there are helpfulness" in wrong(*rows[:2], rank_by="beauty")[0].message


def test_turns_of_longer_conversations_are_told_apart() -> None:
    scored = dict.fromkeys(
        ("helpfulness", "correctness", "coherence", "complexity", "verbosity"), 1
    )
    prompt = "Which river?\n<extra_id_1>Assistant\nWhich land?\n<extra_id_1>User\nPoland"
    rows = right(*[{"prompt": prompt, "response": each} | scored for each in ("x", "y")])
    assert rows[0].messages == FOLLOWED


def test_every_annotator_of_helpsteer3_is_a_rater_of_one_prompt() -> None:
    record = {
        "domain": "general",
        "context": [ASKED],
        "response1": "The Oder.",
        "response2": "A loaf.",
        "overall_preference": -2,
        "individual_preference": [
            {"score": -3, "reasoning": "It is a river."},
            {"score": 1, "reasoning": ""},
            {"score": 0},
        ],
    }
    rows = right(record)
    assert len({each.external_id for each in rows}) == 1
    assert [(each.ranks, each.strength) for each in rows] == [
        ([1, 2], 3),
        ([2, 1], 1),
        ([1, 1], None),
    ]
    assert [each.rater for each in rows] == ["helpsteer3 1", "helpsteer3 2", "helpsteer3 3"]
    assert rows[0].rationale == "It is a river."


def oasst(
    number: int, parent: int | None, role: str, text: str, rank: int | None
) -> dict[str, Any]:
    return {
        "message_id": f"m{number}",
        "parent_id": None if parent is None else f"m{parent}",
        "text": text,
        "role": role,
        "lang": "en",
        "rank": rank,
        "message_tree_id": "m1",
        "tree_state": "ready_for_export",
    }


def test_an_openassistant_tree_is_a_task_for_each_prompt_with_ranked_replies() -> None:
    messages = [
        oasst(1, None, "prompter", "Which river?", None),
        oasst(2, 1, "assistant", "Which land?", 1),
        oasst(3, 1, "assistant", "The Oder.", 0),
        oasst(4, 1, "assistant", "unranked", None),
        oasst(5, 2, "prompter", "Poland", None),
        oasst(6, 5, "assistant", "The Oder, then.", 0),
    ]
    first, second = right(*messages)
    assert [each.text for each in first.candidates] == ["The Oder.", "Which land?"]
    assert (first.external_id, first.ranks, first.metadata["lang"]) == ("m1", [1, 2], "en")
    assert second.messages == FOLLOWED
    # One reply alone can be ranked by nobody: the prompt comes in, and it is kept beside it.
    assert (second.candidates, second.metadata["reply"]) == ([], "The Oder, then.")

    def nested(number: int) -> dict[str, Any]:
        own = dict(messages[number - 1])
        below = [each for each in messages if each["parent_id"] == own["message_id"]]
        return own | {"replies": [nested(int(each["message_id"][1:])) for each in below]}

    tree = {"message_tree_id": "m1", "tree_state": "ready_for_export", "prompt": nested(1)}
    assert [
        (each.external_id, each.messages, each.candidates, each.ranks) for each in right(tree)
    ] == [
        (each.external_id, each.messages, each.candidates, each.ranks) for each in (first, second)
    ]
    lost = wrong(oasst(7, 9, "prompter", "Whose?", None))
    assert [each.field for each in lost] == ["parent_id"]


def test_votes_of_the_arena_keep_ties_and_longer_conversations() -> None:
    record = SINGLE["arena"][0]
    (both_bad,) = right(record | {"winner": "tie (bothbad)"})
    assert (both_bad.ranks, both_bad.flags) == ([1, 1], ["none-is-good"])
    (tie,) = right(record | {"winner": "tie"})
    assert (tie.ranks, tie.flags) == ([1, 1], [])
    assert tie.at is not None and tie.at.year == 2023
    assert wrong(record | {"winner": "nobody"})[0].field == "winner"
    more = [{"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes."}]
    (longer,) = right(
        record
        | {"conversation_a": [ASKED, SAID, *more], "conversation_b": [ASKED, SAID_BADLY, *more]}
    )
    assert longer.messages == [ASKED]
    assert longer.candidates[0].text == "The Oder.\n\nHuman: Sure?\n\nAssistant: Yes."
    assert longer.metadata["parts_early"] is True


def test_unpaired_preferences_are_tasks_where_a_prompt_has_several() -> None:
    rows = [
        {"prompt": [ASKED], "completion": [SAID], "label": True},
        {"prompt": [ASKED], "completion": [SAID_BADLY], "label": False},
        {"prompt": [{"role": "user", "content": "Alone?"}], "completion": [SAID], "label": True},
    ]
    found, _ = read(*rows)
    assert isinstance(found[0], PromptRow)
    assert ([each.text for each in found[0].candidates], found[0].ranks) == (
        ["The Oder.", "A loaf."],
        [1, 2],
    )
    assert isinstance(found[1], RowError)
    assert found[1].line == 3


def test_every_submitted_ranking_of_an_argilla_record_comes_in() -> None:
    def by(user: str, *order: str, status: str = "submitted") -> dict[str, Any]:
        value = [{"value": name, "rank": rank} for rank, name in enumerate(order, start=1)]
        return {"user_id": user, "status": status, "values": {"best": {"value": value}}}

    record = {
        "fields": {
            "instruction": "Which river?",
            "one": "The Oder.",
            "two": "A loaf.",
            "three": "?",
        },
        "responses": [
            by("ann", "one", "two", "three"),
            by("bob", "three", "one", "two"),
            by("cem", "two", "one", "three", status="discarded"),
        ],
        "external_id": "r",
        "metadata": {"batch": 3},
    }
    rows = right(record)
    assert [(each.external_id, each.rater, each.ranks) for each in rows] == [
        ("r", "ann", [1, 2, 3]),
        ("r", "bob", [2, 3, 1]),
    ]
    assert rows[0].metadata == {"batch": 3}


def test_label_studio_rankings_and_pairs_come_in() -> None:
    def by(user: int, kind: str, value: dict[str, Any]) -> dict[str, Any]:
        result = {"type": kind, "value": value, "from_name": "x", "to_name": "y"}
        return {"completed_by": user, "result": [result], "lead_time": 4.5}

    items = [{"id": "i1", "title": "a", "body": "A loaf."}, {"id": "i2", "body": "The Oder."}]
    ranked = {
        "id": 5,
        "data": {"prompt": "Which river?", "items": items},
        "annotations": [
            by(1, "ranker", {"ranker": {"rank": ["i2", "i1"]}}),
            by(2, "ranker", {"ranker": ["i1", "i2"]}),
        ],
    }
    rows = right(ranked)
    assert [(each.rater, each.ranks, each.seconds) for each in rows] == [
        ("1", [2, 1], 4.5),
        ("2", [1, 2], 4.5),
    ]
    paired = {
        "id": 6,
        "data": {"prompt": "Which river?", "answer1": "The Oder.", "answer2": "A loaf."},
        "annotations": [by(3, "pairwise", {"selected": "left"})],
    }
    assert [each.ranks for each in right(paired)] == [[1, 2]]
    assert wrong(ranked | {"annotations": [by(1, "ranker", {"ranker": ["i1"]})]})[0].field == (
        "annotations.result"
    )


def test_rankings_and_comparisons_of_our_own_exports_come_back() -> None:
    line = {
        "prompt_id": "p",
        "messages": [ASKED],
        "candidates": [
            {"id": "c1", "text": "A loaf.", "policy": "small"},
            {"id": "c2", "text": "The Oder.", "policy": None},
        ],
        "rankings": [
            {
                "rater": "r1",
                "ranks": {"c1": 2, "c2": 1},
                "strength": 2,
                "axes": {"helpful": {"c2": 4}},
                "flags": ["unsafe"],
                "rationale": "Because.",
                "presented": ["c2", "c1"],
                "seconds": 3.5,
                "weight": 1.0,
            },
            {"rater": "r2", "ranks": {"c1": 1, "c2": 1}, "axes": {}, "presented": None},
        ],
    }
    one, other = right(line)
    assert (one.ranks, one.strength, one.axes) == ([2, 1], 2, {"helpful": [None, 4.0]})
    assert (one.presented, one.seconds, one.rationale) == ([1, 0], 3.5, "Because.")
    assert (other.ranks, other.rater, other.presented) == ([1, 1], "r2", None)
    comparison = {
        "prompt": [ASKED],
        "chosen": [SAID],
        "rejected": [SAID_BADLY],
        "prompt_id": "p",
        "rater": "r1",
        "margin": 2,
        "weight": 1.0,
        "chosen_policy": None,
        "rejected_policy": "small",
    }
    (row,) = right(comparison)
    assert (row.rater, row.ranks, row.candidates[1].policy) == ("r1", [1, 2], "small")
    assert row.metadata == {"prompt_id": "p", "margin": 2, "weight": 1.0}


def test_where_two_layouts_fit_none_is_guessed() -> None:
    row = {"chosen": [ASKED, SAID], "rejected": [ASKED, SAID_BADLY], "source": "x", "margin": 1.0}
    with pytest.raises(InvalidInput, match="Skywork preferences or pairs with a margin"):
        read(row)
    (found,) = right(row, layout="pairs-with-margin", keep_extra=True)
    assert (found.strength, found.metadata["source"]) == (1, "x")
    transcripts = {
        each: f"\n\nHuman: Which river?\n\nAssistant: {each}" for each in ("chosen", "rejected")
    }
    assert [each.messages for each in right(transcripts, layout="hh")] == [[ASKED]]
    with pytest.raises(InvalidInput, match="there is no layout 'nonsense'"):
        read(row, layout="nonsense")


def test_no_layout_is_taken_for_another() -> None:
    for name, (record, *_) in SINGLE.items():
        assert [each.name for each in recognise(set(record))] == [name]


def test_a_prompt_beside_whole_conversations_is_what_they_share() -> None:
    sides = {"chosen": [*FOLLOWED, SAID], "rejected": [*FOLLOWED, SAID_BADLY]}
    for prompt in (FOLLOWED, "Poland"):
        (row,) = right({"prompt": prompt, **sides})
        assert (row.messages, row.candidates[1].text) == (FOLLOWED, "A loaf.")
    assert wrong({"prompt": "Which river?", **sides})[0].field == "prompt"


def test_a_prompt_with_markers_is_split_into_its_turns() -> None:
    prompt = "\n\nHuman: Which river?\n\nAssistant: Which land?\n\nHuman: Poland\n\nAssistant:"
    for start, text in ((prompt, " The Oder."), (f"{prompt} ", "The Oder."), (prompt, "The Oder.")):
        (row,) = right({"prompt": start, "chosen": text, "rejected": "A loaf."})
        assert (row.messages, row.candidates[0].text) == (FOLLOWED, "The Oder.")
    assert wrong({"prompt": "\n\nHuman: Hm", "chosen": "a", "rejected": "b"})[0].field == "prompt"


PARTS = [{"type": "text", "text": "Which"}, {"type": "text", "text": "river?"}]


@pytest.mark.parametrize(
    ("message", "content"),
    [
        ({"role": "user", "content": "a", "name": None, "tool_calls": []}, "a"),
        ({"role": "user", "content": PARTS}, "Which\nriver?"),
    ],
)
def test_messages_as_libraries_write_them(message: dict[str, Any], content: str) -> None:
    (row,) = right({"prompt": [{"role": "developer", "content": "Be brief."}, message]})
    assert row.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": content},
    ]


def test_a_part_that_is_no_text_is_refused_by_name() -> None:
    image = {"type": "image_url", "image_url": {"url": "x"}}
    (error,) = wrong({"prompt": [{"role": "user", "content": [PARTS[0], image]}]})
    assert error.field == "prompt.0.content.1"
    assert "image_url" in error.message
    called = {"role": "assistant", "content": None, "tool_calls": [{"id": "x"}]}
    assert wrong({"prompt": [ASKED, called, ASKED]})[0].field == "prompt.1"
    assert wrong({"prompt": [{"role": ["user"], "content": "a"}]})[0].field == "prompt.0.role"


TABLE = [
    ["id", "prompt", "candidates", "ranks", "rater", "priority"],
    ["1.0", "Which; river,\tthen?", '["a", "b"]', "[1.0, 2.0]", "17", "3.0"],
]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_tables_as_people_have_them(separator: str, encoding: str, end: str) -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator=end).writerows(TABLE)
    reading = options()
    (row,) = read_stream(io.BytesIO(text.getvalue().encode(encoding)), "rows.CSV", reading)
    assert isinstance(row, PromptRow), row
    assert row.messages[0]["content"] == "Which; river,\tthen?"
    assert (row.ranks, row.rater, row.priority) == ([1, 2], "17", 3)
    assert any("UTF-16" in each for each in reading.notes) == (encoding == "utf-16")
    assert any("between its cells" in each for each in reading.notes) == (separator != ",")


def test_json_lines_of_other_encodings_and_packings(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"prompt": f"ü {n}"}, ensure_ascii=False) + "\n" for n in range(3))
    files = {
        "a.jsonl": lines.encode("utf-16"),
        "b.jsonl": lines.replace("\n", "\r").encode(),
        "c.JSONL.ZST": pa.compress(lines.encode(), codec="zstd", asbytes=True),
        "d.tsv": b"prompt\tpriority\n\xc3\xbc 0\t1\n",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        found = list(read_file(tmp_path / name, options()))
        assert all(isinstance(each, PromptRow) for each in found), (name, found)
        assert getattr(found[0], "messages", None) == [{"role": "user", "content": "ü 0"}]
        assert len(found) == (1 if name == "d.tsv" else 3)
    (tmp_path / "cut.jsonl.zst").write_bytes(files["c.JSONL.ZST"][:-6])
    with pytest.raises(InvalidInput, match="not a whole zstd file"):
        list(read_file(tmp_path / "cut.jsonl.zst", options()))


def test_pandas_tables_keep_their_values_and_lose_their_index(tmp_path: Path) -> None:
    columns = {
        "prompt": ["Which river?", "Which hill?"],
        "candidates": [["a", "b"], ["a", "b"]],
        "ranks": [[1.0, 2.0], None],
        "gold": [True, None],
        "id": [1.0, float("nan")],
        "__index_level_0__": [4, 9],
    }
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    reading = options()
    first, second = read_file(tmp_path / "rows.parquet", reading)
    assert isinstance(first, PromptRow), first
    assert (first.external_id, first.ranks, first.gold) == ("1", [1, 2], True)
    assert isinstance(second, PromptRow), second
    assert (second.external_id, second.ranks) == (None, None)
    assert reading.notes == ["the index column '__index_level_0__' is left out"]
    text = ',prompt,gold,ranks,candidates\n0,Which river?,True,"[1,2]","[\n ""a"",\n ""b""]"\n'
    (row,) = read_stream(io.BytesIO(text.encode()), "a.csv", options())
    assert isinstance(row, PromptRow), row
    assert row.gold


def test_a_message_list_in_a_cell_is_never_taken_for_text() -> None:
    for cell in (
        '[ {"role": "user", "content": "Hi"} ]',
        '[\n  {"role": "user",\n"content": "Hi"}]',
    ):
        text = io.StringIO()
        csv.writer(text).writerows([["prompt"], [cell]])
        (row,) = read_stream(io.BytesIO(text.getvalue().encode()), "a.csv", options())
        assert isinstance(row, PromptRow)
        assert row.messages == [{"role": "user", "content": "Hi"}]


def test_an_empty_response_is_a_response() -> None:
    (row,) = right(
        {"prompt": "a", "candidates": ["", {"text": ""}, "x"], "ranks": [2, 3, 1], "rater": "r"}
    )
    assert [each.text for each in row.candidates] == ["", "", "x"]
    (pair,) = read_stream(io.BytesIO(b"prompt,chosen,rejected\na,b,\n"), "a.csv", options())
    assert isinstance(pair, PromptRow)
    assert pair.candidates[1].text == ""


def test_a_column_twice_is_refused() -> None:
    with pytest.raises(InvalidInput, match="column 'prompt' twice"):
        list(read_stream(io.BytesIO(b"prompt,prompt\na,b\n"), "a.csv", options()))


def test_like_errors_are_told_together() -> None:
    errors = wrong(*[{"prompt": "a", "mood": 1}] * 3, {"prompt": ""})
    assert [(field, lines) for field, _, lines in count_like(errors)] == [
        ("mood", [1, 2, 3]),
        ("prompt", [4]),
    ]
