"""What a template refuses or a window cuts: left out or cut, and counted where a run says what it did."""

import html
import json
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.conftest import make_tokenizer, with_template
from trainer.__main__ import main
from trainer.data.files import read_demonstrations, read_prompts
from trainer.engine.conversations import RefusedConversation, Template
from trainer.engine.tokens import Encoder
from trainer.errors import TrainerError
from trainer.sft import encode

Row = dict[str, Any]
TURNS = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} "
    "{% if m['role'] == 'assistant' %}{{ eos_token }} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
# As Gemma's: no system, and turns by turns.
STRICT = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}{% endfor %}"
) + TURNS
# As many of older models: what it does not know, it leaves out.
DEAF = TURNS.replace(
    "<{{ m['role'] }}> {{ m['content'] }} ",
    "{% if m['role'] in ('user', 'assistant') %}<{{ m['role'] }}> {{ m['content'] }} {% endif %}",
)
# As Llama 3.1's and Qwen's: arguments as an object.
WITH_TOOLS = (
    "{% if tools %}{{ tools | tojson }} {% endif %}{% for m in messages %}<{{ m['role'] }}> "
    "{% for call in m['tool_calls'] or [] %}{{ call['function']['name'] }} "
    "{% for key, value in call['function']['arguments'] | items %}{{ key }} {{ value }} {% endfor %}"
    "{% else %}{{ m['content'] }} {% if m['role'] == 'assistant' %}{{ eos_token }} {% endif %}"
    "{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
# As DeepSeek's: arguments as text, and no content beside a call.
WITH_TEXT_TOOLS = (
    "{% for m in messages %}<{{ m['role'] }}> {% if m['content'] is not defined %}"
    "{% for call in m['tool_calls'] %}{{ call['function']['name'] + ' ' + call['function']['arguments'] }} "
    "{% endfor %}{% else %}{{ m['content'] }} {% if m['role'] == 'assistant' %}{{ eos_token }} {% endif %}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
COMMON = ["--device", "cpu", "--max-length", "48"]


def user(text: str) -> Row:
    return {"role": "user", "content": text}


def assistant(text: str) -> Row:
    return {"role": "assistant", "content": text}


def pair(prompt: Any, number: int = 0) -> Row:
    return {"prompt": prompt, "chosen": f"the sun {number}", "rejected": "a cat", "id": str(number)}


def write(file: Path, rows: list[Row]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def strict(
    tiny_model: str, untrained_reward: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """A policy and a reward model that take no system's message."""
    folder = tmp_path_factory.mktemp("strict")
    return {
        "policy": with_template(tiny_model, folder / "policy", STRICT),
        "reward": with_template(untrained_reward, folder / "reward", STRICT),
    }


def flags_of(stage: str, data: Path, out: Path, models: dict[str, str]) -> list[str]:
    flags = [stage, "--data", str(data), "--out", str(out), *COMMON]
    if stage in ("ppo", "rloo", "generate", "evaluate"):
        flags += ["--response-length", "4"]
    if stage in ("ppo", "rloo", "evaluate"):
        flags += ["--reward", models["reward"]]
    if stage == "evaluate":
        return [*flags, "--policy", models["policy"], "--against", models["policy"]]
    training = [] if stage == "generate" else ["--steps", "1", "--batch-size", "4"]
    return [*flags, "--model", models["policy"], *training]


STAGES = ("sft", "reward", "dpo", "ppo", "rloo", "evaluate", "generate")
SYSTEM = [{"role": "system", "content": "be brief"}, user("tell")]
TWICE = [user("tell me"), user("tell")]


@pytest.mark.parametrize("stage", STAGES)
def test_what_the_template_refuses_is_left_out_and_counted(
    stage: str,
    strict: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [pair(f"tell me {n}", n) for n in range(6)]
    rows[1:1] = [pair(SYSTEM, 7), pair(TWICE, 8)]
    data, out = write(tmp_path / "a.train.jsonl", rows), tmp_path / "out"
    assert main(flags_of(stage, data, out, strict)) == 0
    said = capsys.readouterr()
    result = json.loads(said.out.splitlines()[-1])
    label = "model 1: " if stage == "evaluate" else ""
    reason = f"{label}refused by the chat template"
    assert result["left_out"][reason] == 2
    places = [
        f"a.train.jsonl:{line}: Conversation roles must alternate user/assistant" for line in (2, 3)
    ]
    assert result["left_out_where"][reason] == places
    assert f"{stage}: left out: {reason} 2 ({', '.join(places)})" in said.err
    if stage == "generate":
        assert len(out.read_text().splitlines()) == result["prompts"] == 6
    elif stage == "evaluate":
        assert result["prompts"] == 6
    else:
        assert json.loads((out / "config.json").read_text())["left_out"][reason] == 2
        report = html.unescape((out / "report.html").read_text())
        assert places[0] in report
        card = (out / "model" / "README.md").read_text()
        assert reason in card
        assert "a.train.jsonl:" not in card


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_that_the_template_takes_is_one_line(
    stage: str,
    strict: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [pair(SYSTEM, n) | {"prompt": [*SYSTEM[:1], user(f"tell {n}")]} for n in range(5)]
    data, out = write(tmp_path / "a.train.jsonl", rows), tmp_path / "out"
    assert main(flags_of(stage, data, out, strict)) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if "Loading weights" not in line]
    lines = [each for each in said if each.strip()]
    assert len(lines) == 1, lines
    (line,) = lines
    assert line.startswith(f"trainer {stage}: {data}: has no ")
    assert "refused by the chat template 5 (a.train.jsonl:1: Conversation roles must" in line
    assert not out.exists()


TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "look", "arguments": '{"sun": "hill"}'},
}
WITH_CALL: list[Row] = [
    user("tell"),
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "the moon", "tool_call_id": "c1", "name": None},
    assistant("yes"),
]


def tokenizer_with(template: str) -> Any:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def demonstrations(tmp_path: Path, *rows: Row) -> Any:
    return read_demonstrations(write(tmp_path / "a.train.jsonl", [*rows]))


@pytest.mark.parametrize(
    ("template", "tools", "wanted"),
    [
        (WITH_TOOLS, None, "<user> tell <assistant> look sun hill <tool> the moon <assistant>"),
        (
            WITH_TEXT_TOOLS,
            None,
            '<user> tell <assistant> look {"sun": "hill"} <tool> the moon <assistant>',
        ),
        (
            WITH_TOOLS,
            TOOLS,
            '[{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}] '
            "<user> tell <assistant> look sun hill <tool> the moon <assistant>",
        ),
    ],
)
def test_calls_of_tools_are_read_as_the_template_writes_them(
    template: str, tools: Any, wanted: str, tmp_path: Path
) -> None:
    """And what the assistant says in words is learnt; its calls are not."""
    data = demonstrations(tmp_path, {"messages": WITH_CALL, "tools": tools})
    (example,) = data["train"]
    text = Template(tokenizer_with(template)).render(example.messages[:-1])
    assert text == wanted
    encoder = Encoder(tokenizer_with(template), 64)
    ((prompt, (response,)),) = encode(encoder, data["train"], data.left_out)
    assert prompt == encoder.tokenizer(wanted, add_special_tokens=False)["input_ids"]
    assert response == [*encoder.tokenizer("yes", add_special_tokens=False)["input_ids"], 2]
    assert data.left_out.counts == {"call of a tool, read and not learnt": 1}


@pytest.mark.parametrize(
    ("template", "row", "reason"),
    [
        (TURNS, {"messages": WITH_CALL}, "it leaves out a call of a tool"),
        (
            TURNS,
            {"messages": [user("a"), assistant("b")], "tools": TOOLS},
            "it leaves out the tools",
        ),
        (
            DEAF,
            {"messages": [*SYSTEM, assistant("b")]},
            "it leaves out a message of the role 'system'",
        ),
        (
            DEAF,
            {"messages": [{"role": "developer", "content": "be"}, user("a"), assistant("b")]},
            "it leaves out a message of the role 'developer'",
        ),
        (STRICT, {"messages": WITH_CALL}, "Conversation roles must alternate user/assistant"),
        (
            "{{ messages[0]['content'] + 1 }}",
            {"messages": [user("a"), assistant("b")]},
            "can only ",
        ),
    ],
)
def test_what_a_template_would_lose_in_silence_is_refused(
    template: str, row: Row, reason: str, tmp_path: Path
) -> None:
    data = demonstrations(tmp_path, row)
    encoder = Encoder(tokenizer_with(template), 64)
    assert encode(encoder, data["train"], data.left_out) == []
    ((place,),) = data.left_out.places.values()
    assert place.startswith(f"a.train.jsonl:1: {reason}")
    with pytest.raises(RefusedConversation):
        Template(tokenizer_with(template)).render(data["train"][0].messages)


def test_a_developers_message_is_read_where_the_template_writes_it(tmp_path: Path) -> None:
    messages = [{"role": "developer", "content": "be"}, user("a"), assistant("b")]
    data = demonstrations(tmp_path, {"messages": messages})
    text = Template(tokenizer_with(TURNS)).render(data["train"][0].messages[:-1])
    assert text == "<developer> be <user> a <assistant>"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [user("a"), {"role": "user"}, assistant("b")]}, "a message without content"),
        ({"messages": [user("a"), {"role": "assistant", "content": None}]}, "a message without"),
        ({"messages": WITH_CALL[:2]}, "nothing but calls of tools"),
        ({"chosen": WITH_CALL[:2], "rejected": [user("tell"), assistant("no")]}, "a response that"),
    ],
)
def test_a_row_that_says_nothing_is_left_out_with_its_place(
    row: Row, reason: str, tmp_path: Path
) -> None:
    good = {"messages": [user("a"), assistant("b")]}
    data = demonstrations(tmp_path, good, row, good)
    assert len(data["train"]) == 2
    ((name, places),) = data.left_out.places.items()
    assert name.startswith(reason)
    assert places == ["a.train.jsonl:2"]
    with pytest.raises(TrainerError, match=f"holds no demonstrations; left out: {reason}"):
        demonstrations(tmp_path, row)


def test_a_tools_answer_can_be_answered(tmp_path: Path) -> None:
    file = write(tmp_path / "a.train.jsonl", [{"messages": WITH_CALL}])
    assert read_prompts(file)["train"][0].messages[-1]["role"] == "tool"


# --- windows


CUT = "prompt cut at its start"
OF_PAIRS = {
    CUT: 2,
    "prompt tokens cut": 41,
    "response cut at its end": 1,
    "response tokens cut": 14,
}
OF_PROMPTS = {CUT: 1, "prompt tokens cut": 19}


@pytest.mark.parametrize(
    ("stage", "wanted"),
    [
        ("sft", OF_PAIRS | {"prompt tokens cut": 23}),
        ("reward", OF_PAIRS),
        ("dpo", OF_PAIRS),
        ("evaluate pairs", OF_PAIRS),
        ("ppo", OF_PROMPTS),
        ("rloo", OF_PROMPTS),
        ("generate", OF_PROMPTS),
        ("evaluate", {f"model {n}: {CUT}": 1 for n in (1, 2, 3)}),
    ],
)
def test_what_a_window_cuts_is_counted_by_row_and_token(
    stage: str,
    wanted: dict[str, int],
    tiny_model: str,
    untrained_reward: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A prompt of 63 tokens and a response of 61 where 48 fit, in a row each.

    Beside responses of 4 tokens (and 3, where both of a pair are read) the prompt loses 19 (and 18); of the
    other the response loses 14, and of its prompt of 5 tokens 4 give way. Where responses are written, 4
    tokens are kept for them.
    """
    rows = [pair(f"tell me {n}", n) for n in range(6)]
    rows += [pair("tell " * 60, 6), pair("tell me", 7) | {"chosen": "sun " * 60}]
    data, out = write(tmp_path / "a.train.jsonl", rows), tmp_path / "out"
    models = {"policy": tiny_model, "reward": untrained_reward}
    flags = flags_of(stage.split(maxsplit=1)[0], data, out, models)
    if stage == "evaluate pairs":
        flags = flags[: flags.index("--policy")]
    assert main(flags) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["cut_to"] == "48 tokens: --max-length"
    if stage == "evaluate":
        assert result["left_out"].items() >= wanted.items()
        assert result["left_out"][f"as judged: {CUT}"] == 2, "both policies' responses to it"
        return
    assert result["left_out"] == wanted
    if stage not in ("evaluate pairs", "generate"):
        assert json.loads((out / "config.json").read_text())["left_out"] == wanted
        assert "48 tokens: --max-length" in (out / "report.html").read_text()


def test_the_models_own_window_cuts_too(tiny_model: str, tmp_path: Path) -> None:
    data = write(tmp_path / "a.train.jsonl", [pair("tell " * 200, n) for n in range(4)])
    out = tmp_path / "out"
    flags = ["--data", str(data), "--out", str(out), "--device", "cpu", "--steps", "1"]
    assert main(["sft", *flags, "--model", tiny_model]) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["left_out"] == {CUT: 4, "prompt tokens cut": 4 * (203 + 4 - 128)}
    assert result["cut_to"] == "128 tokens: what the model reads"


def test_what_a_reward_model_of_other_tokens_reads_cut_is_counted(
    tiny_model: str, strict: dict[str, str], tmp_path: Path
) -> None:
    """Its template makes other tokens of the same text, and the policy's window does not bind it."""
    longer = with_template(strict["reward"], tmp_path / "longer", "tell " * 30 + STRICT)
    data = write(tmp_path / "a.train.jsonl", [pair("tell me " * 8 + str(n), n) for n in range(4)])
    out = tmp_path / "out"
    flags = flags_of("ppo", data, out, {"policy": tiny_model, "reward": longer})
    assert main(flags) == 0
    result = json.loads((out / "result.json").read_text())
    row = json.loads((out / "metrics.jsonl").read_text())
    assert row["cut_for_reward"] == result["left_out"]["response that a reward model read cut"] == 4
