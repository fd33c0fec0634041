"""`generate` writes what the policy says by the draws of its seed, and each flag changes its own part."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.trainer.rl import plain
from tests.trainer.rl.conftest import ENDS, Models
from trainer import generate
from trainer.errors import UsageError
from trainer.settings.generate import GenerateConfig

PROMPTS = ("tell me", "a dog ran on the hill under the sun", "story", "yes please", "the moon")
Write = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def write(models_of: Callable[[str], Models], tmp_path: Path) -> Write:
    """The rows of the file that it writes with these settings."""
    data = tmp_path / "prompts.jsonl"
    data.write_text(
        "".join(
            json.dumps({"prompt": text, "id": f"p{number}"}) + "\n"
            for number, text in enumerate(PROMPTS)
        )
    )
    (tmp_path / "other.jsonl").write_text(json.dumps({"prompt": "cat cat"}) + "\n")

    def call(**more: Any) -> list[dict[str, Any]]:
        config = settings(models_of("GPT2"), tmp_path, **more)
        done = generate.main(config)
        rows = [json.loads(line) for line in Path(config.out).read_text().splitlines()]
        count = sum(len(row["candidates"]) for row in rows)
        assert (done["prompts"], done["responses"], done["out"]) == (len(rows), count, config.out)
        return rows

    return call


def settings(models: Models, folder: Path, **more: Any) -> GenerateConfig:
    wanted: dict[str, Any] = {
        "model": models.policy, "data": str(folder / "prompts.jsonl"), "device": "cpu",
        "out": str(folder / "candidates.jsonl"), "candidates": 3, "max_length": 20,
        "response_length": 9, "temperature": 0.7, "seed": 3,
    }  # fmt: skip
    return GenerateConfig(**wanted | more)


def texts_of(rows: list[dict[str, Any]]) -> list[str]:
    return [each["text"] for row in rows for each in row["candidates"]]


def test_it_writes_what_plain_forward_passes_draw(
    write: Write, models_of: Callable[[str], Models], tmp_path: Path
) -> None:
    config = settings(models_of("GPT2"), tmp_path)
    found = sorted(write(), key=lambda row: row["id"])
    assert [row["prompt"] for row in found] == [
        [{"role": "user", "content": text}] for text in PROMPTS
    ]
    order = [row["id"] for row in write()]
    tokenizer = transformers.AutoTokenizer.from_pretrained(config.model)
    policy = plain.load(transformers.AutoModelForCausalLM, config.model)
    draws = torch.rand((15, 9), generator=torch.Generator().manual_seed(3)).tolist()
    for row in found:
        prompt = plain.encode(tokenizer, row["prompt"], 11)  # one is longer
        for number, candidate in enumerate(row["candidates"]):
            own = draws[order.index(row["id"]) * 3 + number]
            response = plain.sample(policy, prompt, own, 0.7, ENDS, len(tokenizer))
            said = response[:-1] if response[-1] in ENDS else response
            assert candidate["text"] == tokenizer.decode(said, skip_special_tokens=True)
            assert candidate["policy"] == "policy"


def test_the_likeliest_tokens_need_no_draws(write: Write) -> None:
    rows = write(temperature=0.0)
    assert all(len({each["text"] for each in row["candidates"]}) == 1 for row in rows)
    assert write(temperature=0.0, seed=9) == rows


@pytest.mark.parametrize("flag", [each.name for each in dataclasses.fields(GenerateConfig)])
def test_a_flag_of_generate_changes_what_it_is_for_and_nothing_else(
    flag: str, write: Write, models_of: Callable[[str], Models], tmp_path: Path
) -> None:
    models = models_of("GPT2")
    # Another value of each, and whether what the policy says changes by it.
    others: dict[str, tuple[Any, bool]] = {
        "model": (models.reference, True),
        "data": (str(tmp_path / "other.jsonl"), True),
        "out": (str(tmp_path / "elsewhere.jsonl"), False),
        "candidates": (2, True),
        "policy_name": ("named", False),
        "limit": (2, True),
        "max_length": (14, True),
        "response_length": (2, True),
        "temperature": (1.5, True),
        "batch_size": (2, False),
        "seed": (4, True),
        "device": ("cuda", True),
    }
    assert flag in others, f"{flag} is new: what does it change?"
    value, says_something_else = others[flag]
    if flag == "device":
        if not torch.cuda.is_available():
            with pytest.raises(UsageError, match="--device cuda"):
                write(device=value)
        return
    before, after = write(), write(**{flag: value})
    assert (texts_of(before) != texts_of(after)) == says_something_else
    prompts = [row["prompt"] for row in before]
    if flag == "data":
        prompts = [[{"role": "user", "content": "cat cat"}]]
    assert [row["prompt"] for row in after] == prompts[: value if flag == "limit" else None]
    count = value if flag == "candidates" else 3
    assert {len(row["candidates"]) for row in after} == {count}
    name = {"policy_name": "named", "model": "reference"}.get(flag, "policy")
    assert {each["policy"] for row in after for each in row["candidates"]} == {name}
    if flag == "limit":
        assert texts_of(after) == texts_of(before)[: 3 * value]
    if flag == "response_length":
        assert max(len(text.split()) for text in texts_of(after)) <= value
