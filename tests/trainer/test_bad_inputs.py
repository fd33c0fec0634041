"""Bad input to any stage: no result, nothing half-written, and one line that says what to mend.

Each case names the stage, what is wrong, and words of the line. Files are named with their line wherever a
row is at fault. Exit codes are those of the contract: 1 for what the input holds, 2 for wrong usage.
"""

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.conftest import make_tokenizer
from tests.trainer.families import make_policy
from trainer.__main__ import main

CHECKOUT = Path(__file__).resolve().parents[2]
Row = dict[str, Any]


@dataclass(frozen=True)
class World:
    """What is in order, and a folder for what is not."""

    model: str
    reward: str
    tmp: Path
    good: Path  # comparisons
    run: Path  # a finished run of the reward stage on them

    def file(self, content: bytes | str | list[Row], name: str = "bad.train.jsonl") -> str:
        """A file of these bytes, this text or these rows."""
        if isinstance(content, list):
            content = "".join(json.dumps(row) + "\n" for row in content)
        path = self.tmp / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    def copy(self, model: str, change: Callable[[Path], object]) -> str:
        """A copy of a model's folder, changed."""
        folder = self.tmp / "changed"
        shutil.copytree(model, folder)
        change(folder)
        return str(folder)


@pytest.fixture(scope="module")
def ready(
    tiny_model: str, untrained_reward: str, tmp_path_factory: pytest.TempPathFactory
) -> World:
    folder = tmp_path_factory.mktemp("ready")
    world = World(tiny_model, untrained_reward, folder, folder / "good.train.jsonl", folder / "run")
    world.file([pair(number) for number in range(8)], "good.train.jsonl")
    flags = ["--data", str(world.good), "--model", tiny_model, "--out", str(world.run)]
    assert main(["reward", *flags, *STEPS]) == 0
    return world


@pytest.fixture
def world(ready: World, tmp_path: Path) -> World:
    return World(ready.model, ready.reward, tmp_path, ready.good, ready.run)


def pair(number: int) -> Row:
    return {"prompt": f"tell me {number}", "chosen": "the sun", "rejected": "a cat"}


def export_row(**more: Any) -> Row:
    candidates = [{"id": "a", "text": "the sun"}, {"id": "b", "text": "a cat"}]
    row = {"messages": [USER], "candidates": candidates, "rankings": [{"ranks": {"a": 1, "b": 2}}]}
    return row | more


USER = {"role": "user", "content": "tell me"}
SAID = {"role": "assistant", "content": "the sun"}
STEPS = ["--steps", "1", "--batch-size", "4", "--max-length", "48", "--device", "cpu"]
Bad = Callable[[World], list[str]]
Case = tuple[str, str, Bad, str]


def data(content: bytes | str | list[Row], name: str = "bad.train.jsonl") -> Bad:
    """The stage's data are these."""
    return lambda world: ["--data", world.file(content, name)]


def rows(*bad: Row) -> Bad:
    """A right row, and then these."""
    return data([pair(0) | {"messages": [USER, SAID]}, *bad])


def flags(*words: str) -> Bad:
    return lambda world: [word.format(w=world) for word in words]


def model_with(change: Callable[[Path], object], flag: str = "--model", of: str = "model") -> Bad:
    return lambda world: [flag, world.copy(getattr(world, of), change)]


def parquet(world: World) -> list[str]:
    import datetime

    import pyarrow
    import pyarrow.parquet

    file = world.tmp / "bad.train.parquet"
    moment = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    table = pyarrow.Table.from_pylist([pair(0) | {"prompt": moment}])
    pyarrow.parquet.write_table(table, file)
    return ["--data", str(file)]


def encoder(world: World) -> list[str]:
    import transformers

    config = transformers.BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    transformers.BertForMaskedLM(config).save_pretrained(world.tmp / "bert")
    make_tokenizer().save_pretrained(world.tmp / "bert")
    return ["--model", str(world.tmp / "bert")]


def other_tokens(world: World) -> list[str]:
    make_policy("Llama").save_pretrained(world.tmp / "other")
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["more"])
    tokenizer.save_pretrained(world.tmp / "other")
    return ["--reference", str(world.tmp / "other")]


def too_many_tokens(folder: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["more", "and", "most"])
    tokenizer.save_pretrained(folder)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def change_json(file: Path, **more: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | more))


def forget_tokenizer(folder: Path) -> None:
    for file in folder.glob("token*"):
        file.unlink()


def again(*words: str, change: Callable[[Path], object] = lambda folder: None) -> Bad:
    """The same as the finished run, in a copy of its folder."""

    def flags_of(world: World) -> list[str]:
        shutil.copytree(world.run, world.tmp / "run")
        change(world.tmp / "run")
        return ["--out", str(world.tmp / "run"), *words]

    return flags_of


IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}
DEEP = '{"prompt": ' + "[" * 100_000 + "]" * 100_000 + "}\n"
GOOD_ZIP = gzip.compress(json.dumps(pair(0)).encode() * 50)

# In what the file is or holds. {bad} is its path.
DATA: list[Case] = [
    ("reward", "missing", flags("--data", "{w.tmp}/no"), "{w.tmp}/no: there is no such file or"),
    ("sft", "a folder", flags("--data", "{w.tmp}"), "holds no file that this stage reads (none of"),
    ("dpo", "empty", data(""), "{bad}: holds no rankings"),
    ("ppo", "blank lines", data("\n \n\n"), "{bad}: holds no rankings"),
    (
        "sft",
        "no JSON",
        data('{"messages": 1}\n{"mess'.replace("1", json.dumps([USER, SAID]))),
        ":2: is not JSON",
    ),
    (
        "generate",
        "Latin-1",
        data(b'{"prompt": "a"}\n{"prompt": "caf\xe9"}\n'),
        "{bad}:2: is not UTF-8",
    ),
    ("evaluate", "UTF-16", data(json.dumps(pair(1)).encode("utf-16")), "{bad}:1: is not UTF-8"),
    ("reward", "NUL bytes", data(b"\0" * 90), "{bad}:1: is not JSON"),
    ("dpo", "a JSON list", data(json.dumps([pair(1), pair(2)])), "{bad}:1: must be a JSON object"),
    ("dpo", "a printed list", data(json.dumps([pair(1)], indent=1)), "{bad}:1: is not JSON"),
    ("rloo", "no fields", rows({}), "{bad}:2: holds no prompt"),
    ("reward", "no fields", rows({}), "{bad}:2: holds no ranking"),
    ("sft", "no fields", rows({}), "{bad}:2: holds no demonstration"),
    (
        "ppo",
        "a number as prompt",
        rows({"prompt": 5}),
        "{bad}:2: prompt: must be a string or a list",
    ),
    (
        "generate",
        "no messages",
        rows({"messages": []}),
        "{bad}:2: messages: must be a string or a list",
    ),
    (
        "reward",
        "number as response",
        rows(pair(1) | {"chosen": 5}),
        ":2: chosen and rejected: must",
    ),
    (
        "reward",
        "text and list",
        rows(pair(1) | {"chosen": [USER, SAID]}),
        "chosen and rejected: must",
    ),
    (
        "dpo",
        "a weight of NaN",
        rows(pair(1) | {"weight": float("nan")}),
        ":2: weight: must be a number",
    ),
    (
        "dpo",
        "a weight below 0",
        rows(pair(1) | {"weight": -1}),
        "{bad}:2: weight: must be a number",
    ),
    (
        "reward",
        "an endless weight",
        rows(pair(1) | {"weight": float("inf")}),
        ":2: weight: must be",
    ),
    (
        "reward",
        "a margin of text",
        rows(pair(1) | {"margin": "1"}),
        "{bad}:2: margin: must be a number",
    ),
    (
        "reward",
        "a score of NaN",
        rows(
            export_row(rankings=[{"ranks": {"a": 1, "b": 2}, "axes": {"x": {"a": float("nan")}}}])
        ),
        "{bad}:2: axes.x: must be numbers",
    ),
    (
        "reward",
        "a rater that is a list",
        rows(pair(1) | {"rater": ["x"]}),
        "{bad}:2: rater: must be text",
    ),
    (
        "reward",
        "K = 1",
        data([{"prompt": "a", "candidates": ["b"], "ranks": [1]}]),
        "{bad}: has no rankings to train on",
    ),
    (
        "dpo",
        "ties alone",
        data([{"prompt": "a", "candidates": ["b", "c"], "ranks": [1, 1]}]),
        "{bad}: has no comparisons to train on",
    ),
    (
        "evaluate",
        "ties alone",
        data([{"prompt": "a", "candidates": ["b", "c"], "ranks": [1, 1]}]),
        "has no pair of which one is preferred",
    ),
    (
        "reward",
        "a rank too few",
        rows({"prompt": "a", "candidates": ["b", "c"], "ranks": [1]}),
        "{bad}:2: ranks: must be whole",
    ),
    (
        "reward",
        "rank 0",
        rows({"prompt": "a", "candidates": ["b", "c"], "ranks": [0, 1]}),
        "{bad}:2: ranks: must be whole",
    ),
    (
        "reward",
        "a rank of 400 digits",
        rows({"prompt": "a", "candidates": ["b", "c"], "ranks": [1, 10**400]}),
        "{bad}:2: ranks: must be whole",
    ),
    (
        "reward",
        "a rank of nobody",
        rows(export_row(rankings=[{"ranks": {"a": 1, "c": 2}}])),
        ":2: rankings.0.ranks: must give",
    ),
    (
        "dpo",
        "one id twice",
        rows(export_row(candidates=[{"id": "a", "text": "b"}] * 2)),
        "{bad}:2: candidates: two have the same id",
    ),
    (
        "generate",
        "one id twice",
        data([{"prompt": "a", "id": 1}, {"prompt": "b", "id": 1}]),
        "bad.train.jsonl:2: has the id '1' of bad.train.jsonl:1",
    ),
    (
        "reward",
        "a number of 5,000 digits",
        data('{"prompt": "a", "weight": ' + "9" * 5000 + "}"),
        "{bad}:1: holds a number that is too long",
    ),
    ("sft", "100,000 brackets", data(DEEP), "{bad}:1: is nested too deep"),
    (
        "dpo",
        "gzip cut short",
        data(GOOD_ZIP[:-9], "bad.train.jsonl.gz"),
        "bad.train.jsonl.gz: cannot be read",
    ),
    (
        "dpo",
        "gzip with a broken byte",
        data(GOOD_ZIP[:20] + b"\xff\xff" + GOOD_ZIP[22:], "bad.train.jsonl.gz"),
        "bad.train.jsonl.gz",
    ),
    (
        "dpo",
        "text named gzip",
        data("{}", "bad.train.jsonl.gz"),
        "bad.train.jsonl.gz: cannot be read",
    ),
    (
        "dpo",
        "text named Parquet",
        data("{}", "bad.train.parquet"),
        "bad.train.parquet: cannot be read",
    ),
    ("dpo", "a moment in Parquet", parquet, "bad.train.parquet:1: prompt: must be a string"),
    (
        "sft",
        "an image",
        rows({"messages": [{"role": "user", "content": [IMAGE]}, SAID]}),
        "{bad}:2: messages.0.content.0: holds a part of type 'image_url'",
    ),
    (
        "sft",
        "an unknown role",
        rows({"messages": [{"role": "human", "content": "a"}, SAID]}),
        "{bad}:2: messages.0: must have a role",
    ),
    (
        "sft",
        "a content that is a number",
        rows({"messages": [{"role": "user", "content": 1}, SAID]}),
        "{bad}:2: messages.0.content: must be text",
    ),
    (
        "sft",
        "a name that is a number",
        rows({"messages": [USER | {"name": 1}, SAID]}),
        "{bad}:2: messages.0.name: must be text",
    ),
    (
        "sft",
        "tools that are text",
        rows({"messages": [USER, SAID], "tools": "look"}),
        "{bad}:2: tools: must be a list",
    ),
    (
        "sft",
        "a call without a name",
        rows({"messages": [USER, SAID | {"tool_calls": [{}]}]}),
        "{bad}:2: messages.1.tool_calls.0: must be",
    ),
    (
        "sft",
        "a user who calls a tool",
        rows({"messages": [USER | {"tool_calls": [{"name": "a"}]}, SAID]}),
        "{bad}:2: messages.0.tool_calls: only",
    ),
    (
        "sft",
        "nothing to answer",
        rows({"messages": [SAID]}),
        "{bad}:2: messages: has nothing that the",
    ),
    (
        "sft",
        "no answer",
        rows({"messages": [USER]}),
        "{bad}:2: messages: must end with an assistant's",
    ),
    (
        "ppo",
        "no question",
        rows({"prompt": [USER, SAID]}),
        "{bad}:2: prompt: must end with a user's message",
    ),
    (
        "reward",
        "two prompts",
        rows({"chosen": [USER, SAID], "rejected": [USER, USER, SAID]}),
        "{bad}:2: rejected: must differ",
    ),
    (
        "reward",
        "texts without a prompt",
        rows({"chosen": "a", "rejected": "b"}),
        "{bad}:2: chosen: without a prompt",
    ),
    (
        "reward",
        "half a pair",
        rows({"prompt": "a", "chosen": "b"}),
        "{bad}:2: rejected: is missing",
    ),
    ("ppo", "half a character", data('{"prompt": "\\ud83d"}'), "{bad}:1: holds half a character"),
    (
        "ppo",
        "rankings as demonstrations",
        flags("--ptx-coef", "1", "--data", "{w.tmp}/ptx.jsonl"),
        "{w.tmp}/ptx.jsonl:1: holds no demonstration",
    ),
]

# In what a model's folder is or holds.
MODELS: list[Case] = [
    (
        "sft",
        "no folder",
        flags("--model", "{w.tmp}/no/model"),
        "{w.tmp}/no/model: no tokenizer can be loaded",
    ),
    (
        "reward",
        "an empty folder",
        flags("--model", "{w.tmp}"),
        "{w.tmp}: no tokenizer can be loaded",
    ),
    ("sft", "no config", model_with(lambda f: (f / "config.json").unlink()), "changed: "),
    ("sft", "a broken config", model_with(lambda f: cut(f / "config.json")), "changed: "),
    (
        "sft",
        "an unknown family",
        model_with(lambda f: change_json(f / "config.json", model_type="nobody")),
        "changed: ",
    ),
    ("generate", "an encoder", encoder, "bert: is no causal language model"),
    (
        "dpo",
        "weights cut short",
        model_with(lambda f: cut(f / "model.safetensors")),
        "changed: the model cannot be loaded",
    ),
    (
        "reward",
        "no weights",
        model_with(lambda f: (f / "model.safetensors").unlink()),
        "changed: the model cannot be loaded",
    ),
    ("sft", "no tokenizer", model_with(forget_tokenizer), "changed: no tokenizer can be loaded"),
    (
        "sft",
        "a broken tokenizer",
        model_with(lambda f: cut(f / "tokenizer.json")),
        "changed: no tokenizer can be loaded",
    ),
    (
        "generate",
        "more tokens than rows",
        model_with(too_many_tokens),
        "changed: its tokenizer has 32 tokens, and the model rows for 29",
    ),
    ("evaluate", "a policy as reward", flags("--reward", "{w.model}"), "is no reward model"),
    (
        "ppo",
        "a reward as policy",
        flags("--model", "{w.reward}"),
        "is a reward model, and a policy is wanted",
    ),
    ("dpo", "a reference of other tokens", other_tokens, "other: its tokens are not those of"),
]

# In what is asked for.
USAGE: list[Case] = [
    ("sft", "a learning rate below 0", flags("--lr", "-1"), "--lr must be above 0, not -1.0"),
    (
        "sft",
        "a learning rate of NaN",
        flags("--lr", "nan"),
        "--lr must be a finite number, not nan",
    ),
    ("dpo", "a short window", flags("--max-length", "4"), "--max-length must be at least 8, not 4"),
    (
        "dpo",
        "a batch of a trillion",
        flags("--batch-size", "1000000000000"),
        "--batch-size must be at most",
    ),
    (
        "sft",
        "steps in words",
        flags("--steps", "two"),
        "argument --steps: invalid int value: 'two'",
    ),
    ("sft", "an unknown flag", flags("--stepz", "2"), "unrecognized arguments: --stepz 2"),
    ("sft", "half a flag", flags("--gradient-check"), "unrecognized arguments: --gradient-check"),
    (
        "sft",
        "data twice",
        flags("--data", "{w.good}", "--data", "{w.tmp}"),
        "--data is given twice",
    ),
    ("sft", "no output", flags("--out", ""), "--out is empty"),
    ("ppo", "no room", flags("--response-length", "48"), "--response-length 48 leaves no room"),
    (
        "ppo",
        "uneven minibatches",
        flags("--minibatches", "3"),
        "--batch-size 4 does not divide into",
    ),
    (
        "ppo",
        "one reward twice",
        flags("--reward", "{w.reward},{w.reward}"),
        "--reward names {w.reward} twice",
    ),
    ("ppo", "no reward", flags("--reward", ","), "--reward names no model"),
    (
        "ppo",
        "two references",
        flags("--lora-rank", "2", "--reference", "{w.model}"),
        "--reference: with --lora-rank",
    ),
    ("rloo", "one response", flags("--responses", "1"), "--responses must be at least 2, not 1"),
    (
        "dpo",
        "smoothing of IPO",
        flags("--loss", "ipo", "--label-smoothing", "0.1"),
        "--label-smoothing goes with",
    ),
    (
        "dpo",
        "an unknown loss",
        flags("--loss", "hinge"),
        "--loss must be sigmoid or ipo, not 'hinge'",
    ),
    ("dpo", "an unknown type", flags("--dtype", "float8"), "--dtype must be float32 or bfloat16"),
    ("reward", "an unknown device", flags("--device", "tpu"), "--device must be auto, cpu or cuda"),
    ("reward", "shares in words", flags("--sizes", "half"), "--sizes must be numbers with commas"),
    ("reward", "an unknown tracker", flags("--trackers", "nobody"), "--trackers nobody: "),
    ("evaluate", "one side", flags("--policy", "{w.model}"), "--policy and --against go together"),
    (
        "evaluate",
        "one seed too large",
        flags("--seed", str(2**70)),
        "--seed must be at least 0 and below 2^32",
    ),
    (
        "generate",
        "one seed too large",
        flags("--seed", str(2**70)),
        "--seed must be at least 0 and below 2^32",
    ),
    (
        "generate",
        "ten candidates",
        flags("--candidates", "10"),
        "--candidates must be 1 to 9, not 10",
    ),
    (
        "generate",
        "no folder for the file",
        flags("--out", "{w.tmp}/no/a.jsonl"),
        "no/a.jsonl: its folder is not there",
    ),
    (
        "evaluate",
        "a folder for the file",
        flags("--out", "{w.tmp}"),
        "{w.tmp}: is a folder, and a file is wanted",
    ),
    (
        "sft",
        "a file for the folder",
        flags("--out", "{w.good}"),
        "--out {w.good}: {w.good} is a file",
    ),
    (
        "sft",
        "a folder in a file",
        flags("--out", "{w.good}/run"),
        "--out {w.good}/run: {w.good} is a file",
    ),
    ("sft", "no settings", flags("--config", "{w.tmp}/no.toml"), "--config {w.tmp}/no.toml: "),
    ("reward", "a run that is there", again(), "holds a run already; say --resume to go on"),
    ("compare", "an unknown method", flags("--methods", "grpo"), "--methods: there is no 'grpo'"),
    ("compare", "no prices", flags("--kl-scales", ""), "--kl-scales must be above 0"),
    ("compare", "endless prices", flags("--kl-scales", "inf"), "--kl-scales must be above 0"),
]

# In a run that is to go on.
RESUMED: list[Case] = [
    ("sft", "another stage's run", again("--resume"), "its checkpoint is of another run"),
    (
        "reward",
        "a run with other settings",
        again("--resume", "--lr", "0.5"),
        "another run: lr was None, is 0.5",
    ),
    (
        "reward",
        "a description cut short",
        again("--resume", change=lambda f: cut(f / "config.json")),
        "run/config.json: cannot be read",
    ),
    (
        "reward",
        "a description that is a list",
        again("--resume", change=lambda f: (f / "config.json").write_text("[]")),
        "run/config.json: cannot be read: it holds no",
    ),
]

ALL = [(case, 1) for case in DATA + MODELS + RESUMED] + [(case, 2) for case in USAGE]


def words_of(stage: str, world: World, bad: list[str]) -> list[str]:
    """A command in which all is in order but what is bad."""
    wanted = {"--data": str(world.good), "--out": str(world.tmp / "out"), "--device": "cpu"}
    wanted["--max-length"] = "48"
    if stage in ("ppo", "rloo", "evaluate", "generate", "compare"):
        wanted["--response-length"] = "4"
    if stage in ("ppo", "rloo", "evaluate", "compare"):
        wanted["--reward"] = world.reward
    if stage != "evaluate":
        wanted["--model"] = world.model
    if stage not in ("evaluate", "generate", "compare"):
        wanted |= {"--steps": "1", "--batch-size": "4"}
    return [
        stage,
        *(word for flag in wanted if flag not in bad for word in (flag, wanted[flag])),
        *bad,
    ]


def listing(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


@pytest.mark.parametrize(("case", "code"), ALL, ids=[f"{each[0]}: {each[1]}" for each, _ in ALL])
def test_bad_input_is_one_line_and_leaves_nothing(
    case: Case, code: int, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    stage, _, bad, reason = case
    world.file([{"prompt": "a", "candidates": ["b", "c"], "ranks": [1, 2]}], "ptx.jsonl")
    words = words_of(stage, world, bad(world))
    before = listing(world.tmp)
    capsys.readouterr()
    assert main(words) == code
    said = capsys.readouterr()
    # transformers draws bars while it loads.
    lines = [
        line for line in said.err.splitlines() if line.strip() and "Loading weights" not in line
    ]
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"trainer {stage}: ")
    assert reason.format(w=world, bad=world.tmp / "bad.train.jsonl") in lines[0]
    assert said.out == ""
    assert listing(world.tmp) == before


def test_there_are_forty_and_more_in_every_stage() -> None:
    assert len(ALL) >= 40
    stages = {case[0] for case, _ in ALL}
    assert stages >= {"sft", "reward", "dpo", "ppo", "rloo", "evaluate", "generate", "compare"}


@pytest.mark.parametrize(
    ("stage", "bad", "code", "reason"),
    [
        ("sft", data("{"), 1, ":1: is not JSON"),
        ("ppo", flags("--reward", ","), 2, "--reward names no model"),
    ],
)
def test_the_process_says_the_same(
    stage: str, bad: Bad, code: int, reason: str, world: World
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trainer", *words_of(stage, world, bad(world))],
        cwd=CHECKOUT, capture_output=True, text=True, timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == code
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"trainer {stage}: ")
    assert reason in line


# What looks bad and is not.
FINE: list[tuple[str, bytes, str]] = [
    (
        "Windows line ends",
        "\r\n".join(json.dumps(pair(n)) for n in range(8)).encode(),
        "a.train.jsonl",
    ),
    ("a byte order mark", b"\xef\xbb\xbf" + json.dumps(pair(1)).encode(), "a.train.jsonl"),
    ("gzip in capitals", gzip.compress(json.dumps(pair(1)).encode()), "a.train.JSONL.GZ"),
    ("a NUL in a text", json.dumps(pair(1) | {"chosen": "the \0 sun"}).encode(), "a.train.jsonl"),
    (
        "3,000 words",
        json.dumps(pair(1) | {"chosen": "sun " * 3000, "prompt": "tell " * 3000}).encode(),
        "a.train.jsonl",
    ),
    (
        "fields that are null",
        json.dumps(
            pair(1) | {"weight": None, "rater": None, "margin": None, "tools": None}
        ).encode(),
        "a.train.jsonl",
    ),
]


@pytest.mark.parametrize(("content", "name"), [each[1:] for each in FINE], ids=[f[0] for f in FINE])
def test_what_looks_bad_and_is_not_is_read(content: bytes, name: str, world: World) -> None:
    file = world.file(content, name)
    assert main(words_of("dpo", world, ["--data", file])) == 0
    result = json.loads((world.tmp / "out" / "result.json").read_text())
    assert result["train_pairs"] == (8 if b"\r\n" in content else 1)
    assert ("response cut at its end" in result["left_out"]) == (len(content) > 9000)


def test_a_comparison_of_wrong_data_leaves_no_folder_that_refuses_the_right(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    out = world.tmp / "out"
    wrong = words_of("compare", world, ["--data", str(world.tmp / "no")])
    assert main(wrong) == 1
    assert not out.exists()
    settings = world.file('[ppo]\nbatch_size = "8"\n', "stages.toml")
    assert main(words_of("compare", world, ["--settings", settings])) == 2
    assert "ppo.batch_size must be of type int" in capsys.readouterr().err
    assert not out.exists()
