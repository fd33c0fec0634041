"""Data that is not as it should be: a clear error or a stated rule, counted in the report."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.conftest import make_tokenizer
from trainer import dpo, ppo, reward, sft
from trainer.__main__ import main
from trainer.engine import tokens
from trainer.errors import TrainerError
from trainer.formulas.losses import policy_loss
from trainer.settings.dpo import DPOConfig
from trainer.settings.ppo import PPOConfig
from trainer.settings.reward import RewardConfig
from trainer.settings.sft import SFTConfig


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def pair(number: int, chosen: str = "the sun", rejected: str = "a cat") -> dict[str, Any]:
    return {"prompt": f"tell me {number}", "chosen": chosen, "rejected": rejected}


def config(kind: type[Any], model: str, data: Path, out: Path, **more: Any) -> Any:
    wanted = {
        "data": str(data), "model": model, "out": str(out), "steps": 2, "batch_size": 4,
        "max_length": 64, "device": "cpu",
    }  # fmt: skip
    return kind(**(wanted | more))


def told(out: Path, what: str) -> bool:
    return f">{what}</th>" in (out / "report.html").read_text()


def test_what_carries_nothing_is_left_out_and_counted(tiny_model: str, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [pair(number) for number in range(30)]
    rows += [
        {"prompt": "one alone", "candidates": ["a cat"], "ranks": [1]},
        {"prompt": "all alike", "candidates": ["a cat", "the sun", "no"], "ranks": [1, 1, 1]},
        pair(98) | {"weight": 0},
        pair(99, rejected=""),
        pair(100, chosen="the sun " * 80),
        {"prompt": "tell me " * 90, "chosen": "the sun", "rejected": "a cat"},
    ]
    data = write(tmp_path / "rankings.train.jsonl", rows)
    for kind, stage in ((RewardConfig, reward), (DPOConfig, dpo)):
        out = tmp_path / stage.__name__
        result = stage.main(config(kind, tiny_model, data, out))
        left = result["left_out"]
        assert left["single candidate"] == 1
        assert left["all tied, kept"] == 1
        assert left["weight 0"] == 1
        assert left["empty response"] == 1
        assert left["response cut at its end"] == 1
        assert left["prompt cut at its start"] >= 2
        for what in left:
            assert told(out, what), what


def test_empty_demonstrations_teach_their_end_and_are_counted(
    tiny_model: str, tmp_path: Path
) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "tell"}, {"role": "assistant", "content": said}]}
        for said in ["the sun"] * 20 + [""]
    ]
    data = write(tmp_path / "demonstrations.train.jsonl", rows)
    result = sft.main(config(SFTConfig, tiny_model, data, tmp_path / "out"))
    assert result["left_out"] == {"empty response": 1}


def test_nothing_but_ties_is_no_ranking(tiny_model: str, tmp_path: Path) -> None:
    rows = [{"prompt": str(n), "candidates": ["a", "b"], "ranks": [1, 1]} for n in range(9)]
    data = write(tmp_path / "rankings.train.jsonl", rows)
    with pytest.raises(TrainerError, match="has no rankings to train on"):
        reward.main(config(RewardConfig, tiny_model, data, tmp_path / "r"))
    with pytest.raises(TrainerError, match="has no comparisons to train on"):
        dpo.main(config(DPOConfig, tiny_model, data, tmp_path / "d"))


@pytest.mark.parametrize("stage", ["reward", "ppo"])
def test_a_loss_that_is_no_number_ends_the_run_and_is_never_saved(
    tiny_model: str, tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "rankings.train.jsonl", [pair(number) for number in range(30)])
    out = tmp_path / "out"
    more: dict[str, Any] = {"steps": 9, "checkpoint_every": 1}
    if stage == "ppo":
        scorer = tmp_path / "scorer"
        reward.main(config(RewardConfig, tiny_model, data, scorer))
        more |= {"reward": str(scorer / "model"), "response_length": 8}
        wanted = config(PPOConfig, tiny_model, data, out, **more)
        real = policy_loss
        calls = 0

        def spoil(*values: Any) -> Any:
            nonlocal calls
            calls += 1
            loss, share = real(*values)
            return (loss * torch.nan if calls > 20 else loss), share

        monkeypatch.setattr(ppo, "policy_loss", spoil)
        with pytest.raises(TrainerError, match="step 3: loss is nan; try a smaller --lr"):
            ppo.main(wanted)
    else:
        wanted = config(RewardConfig, tiny_model, data, out, lr=1e30, **more)
        with pytest.raises(
            TrainerError, match=r"step \d: (loss|grad_norm) is (nan|inf); try a smaller --lr"
        ):
            reward.main(wanted)
    assert not (out / "model").exists()
    assert not (out / "result.json").exists()
    for checkpoint in (out / "checkpoints").glob("step-*/state.pt"):
        state = torch.load(checkpoint, weights_only=True)
        for name in ("model", "policy"):
            assert all(torch.isfinite(each).all() for each in state.get(name, {}).values())


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(TrainerError, match="no end-of-sequence token"):
        tokens.load_tokenizer(str(tmp_path))


def test_a_tokenizer_without_padding_gets_one_that_is_not_its_end(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    loaded = tokens.load_tokenizer(str(tmp_path))
    assert loaded.pad_token_id is not None
    assert loaded.pad_token_id != loaded.eos_token_id


def test_a_prompt_longer_than_the_window_keeps_its_end(tiny_model: str) -> None:
    tokenizer: Any = tokens.load_tokenizer(tiny_model)
    encoder = tokens.Encoder(tokenizer, 16)
    long = [{"role": "user", "content": "please " * 40 + "cat"}]
    prompt, response = encoder.pair(long, "the sun")
    assert len(prompt) + len(response) == 16
    assert tokenizer.convert_ids_to_tokens(prompt)[-2:] == ["cat", "<assistant>"]
    assert encoder.cut == {"prompt cut at its start": 1, "prompt tokens cut": 31}


@pytest.mark.parametrize("field", ["chosen", "prompt", "rater"])
def test_half_a_character_is_told_with_its_line(
    field: str, tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [pair(1, chosen="a moon \U0001f600"), pair(2) | {field: "cut \ud83d"}]
    data = write(tmp_path / "pairs.train.jsonl", rows)
    flags = ["--data", str(data), "--model", tiny_model, "--device", "cpu"]
    for stage in ("reward", "dpo", "sft", "generate"):
        assert main([stage, *flags, "--out", str(tmp_path / stage)]) == 1
        said = capsys.readouterr().err.strip().splitlines()
        assert said[-1].startswith(f"trainer {stage}: {data}:2: holds half a character")
