"""What a folder has to hold to be a policy or a reward model; what is not whole is refused in one line."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.trainer.conftest import WORDS, make_tokenizer
from tests.trainer.families import CONFIGS, make_policy
from trainer.__main__ import main
from trainer.engine.capabilities import probe_sampling
from trainer.engine.models import load_policy, load_reward_model, without_dropout
from trainer.engine.tokens import load_tokenizer
from trainer.errors import TrainerError
from trainer.evaluate import check_figures
from trainer.rl.rollout import rows_of, sample

CPU = torch.device("cpu")
Weights = dict[str, torch.Tensor]


def change_weights(folder: Path, change: Callable[[Weights], object]) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def make_folder(folder: Path, family: str = "Llama") -> Path:
    make_policy(family).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def make_reward_folder(folder: Path, start: str) -> Path:
    tokenizer = load_tokenizer(start)
    load_reward_model(start, tokenizer, CPU, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What a command that has to fail says, without the bars that transformers draws."""
    capsys.readouterr()
    assert main([*argv]) == 1
    said = capsys.readouterr().err.replace("\r", "\n").splitlines()
    lines = [line for line in said if line.strip() and "%|" not in line]
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize("stage", ["dpo", "generate", "ppo", "evaluate"])
def test_a_reward_model_is_no_policy(
    stage: str,
    tiny_model: str,
    rankings: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its embeddings are tied: nothing is missing from it."""
    reward = str(make_reward_folder(tmp_path / "reward", tiny_model))
    flags = ["--data", str(rankings), "--device", "cpu", "--out", str(tmp_path / "out")]
    flags += ["--response-length", "4"] if stage in ("ppo", "evaluate", "generate") else []
    flags += ["--reward", reward] if stage in ("ppo", "evaluate") else []
    flags += ["--policy", reward, "--against", reward] if stage == "evaluate" else []
    flags += ["--model", reward] if stage != "evaluate" else []
    assert "is a reward model, and a policy is wanted" in refusal(capsys, stage, *flags)


def lose_a_layer(weights: Weights) -> None:
    for name in [name for name in weights if ".layers.1." in name]:
        del weights[name]


def lose_the_head(weights: Weights) -> None:
    del weights["lm_head.weight"]


def cut_the_head(weights: Weights) -> None:
    weights["lm_head.weight"] = weights["lm_head.weight"][:40].clone()


def break_a_weight(weights: Weights) -> None:
    weights["model.layers.0.mlp.up_proj.weight"][3, 3] = torch.nan


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lose_a_layer, "its weights are not all there: model.layers.1.input_layernorm.weight and"),
        (lose_the_head, "its weights are not all there: lm_head.weight"),
        (cut_the_head, "its weight lm_head.weight has the shape (40, 32)"),
        (break_a_weight, "model.layers.0.mlp.up_proj.weight holds values that are no numbers"),
    ],
)
def test_a_policy_that_is_not_whole_is_refused(
    change: Callable[[Weights], object],
    reason: str,
    rankings: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = make_folder(tmp_path / "model")
    change_weights(folder, change)
    flags = ["--model", str(folder), "--data", str(rankings), "--device", "cpu"]
    out = tmp_path / "candidates.jsonl"
    said = refusal(capsys, "generate", *flags, "--response-length", "4", "--out", str(out))
    assert reason in said
    assert not out.exists()
    assert reason in refusal(capsys, "dpo", *flags, "--out", str(tmp_path / "dpo"))


def test_a_reward_model_without_its_head_or_with_no_numbers_is_refused(
    tiny_model: str, rankings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_reward_folder(tmp_path / "reward", tiny_model)
    flags = ["--data", str(rankings), "--device", "cpu"]
    broken = make_reward_folder(tmp_path / "broken", tiny_model)
    change_weights(broken, lambda weights: weights["score.weight"].fill_(torch.nan))
    said = refusal(capsys, "evaluate", *flags, "--reward", str(broken))
    assert "its weight score.weight holds values that are no numbers" in said
    change_weights(folder, lambda weights: weights.pop("score.weight"))
    said = refusal(capsys, "evaluate", *flags, "--reward", str(folder))
    assert "its weights are not all there: score.weight" in said
    said = refusal(
        capsys, "reward", *flags, "--model", str(folder), "--out", str(tmp_path / "again")
    )
    assert "its weights are not all there: score.weight" in said


def test_an_encoder_is_no_policy(
    rankings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = transformers.BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, initializer_range=0.2,
    )  # fmt: skip
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    make_tokenizer().save_pretrained(tmp_path / "bert")
    flags = ["--model", str(tmp_path / "bert"), "--data", str(rankings), "--device", "cpu"]
    for stage in ("dpo", "generate"):
        said = refusal(capsys, stage, *flags, "--out", str(tmp_path / stage))
        assert "is no causal language model" in said


@pytest.mark.parametrize("family", CONFIGS)
def test_greedy_tokens_are_those_of_plain_forwards(family: str) -> None:
    """Prompts of several lengths in one batch, against each row alone, whole, at every token."""
    policy = without_dropout(make_policy(family))
    probe_sampling(policy, family)
    stream = torch.Generator().manual_seed(3)
    prompts = [torch.randint(3, 64, (size,), generator=stream).tolist() for size in (9, 70, 31)]
    rollout = sample(policy, prompts, length=10, temperature=0, end=-1, pad=0, stream=stream)
    for prompt, response, _ in rows_of(rollout):
        expected = list(prompt)
        with torch.no_grad():
            for _ in range(10):
                logits = policy(input_ids=torch.tensor([expected]), use_cache=False).logits
                expected.append(int(logits[0, -1].argmax()))
        assert response == expected[len(prompt) :]


def test_a_model_whose_cache_is_wrong_samples_without_and_others_with_it() -> None:
    mamba, llama = (without_dropout(make_policy(family)) for family in ("Mamba", "Llama"))
    probe_sampling(mamba, "mamba")
    probe_sampling(llama, "llama")
    assert (mamba.samples_with_cache, llama.samples_with_cache) == (False, True)


def test_a_model_that_looks_at_its_padding_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = without_dropout(make_policy("Llama"))
    forward = type(policy).forward

    def deaf(self: Any, attention_mask: Any = None, position_ids: Any = None, **given: Any) -> Any:
        return forward(self, **given)

    monkeypatch.setattr(type(policy), "forward", deaf)
    with pytest.raises(TrainerError, match="the folder: this model cannot be sampled in batches"):
        probe_sampling(policy, "the folder")


@pytest.mark.slow
def test_vocabularies_may_be_padded_differently_for_one_tokenizer(
    tiny_model: str, rankings: Path, tmp_path: Path
) -> None:
    """A policy with 112 more rows than its tokenizer and its reward model; a reference with 16 more."""
    reward = make_reward_folder(tmp_path / "reward", tiny_model)
    tokenizer = load_tokenizer(tiny_model)
    for name, more in (("policy", 112), ("reference", 16)):
        model = load_policy(tiny_model, tokenizer, CPU)
        torch.manual_seed(0)
        model.resize_token_embeddings(len(tokenizer) + more)
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    flags = ["--data", str(rankings), "--device", "cpu", "--response-length", "12"]
    flags += ["--reward", str(reward)]
    training = ["--model", str(tmp_path / "policy"), "--batch-size", "8", "--steps", "2"]
    training += ["--lr", "1e-3"]
    assert main(["ppo", *flags, *training, "--out", str(tmp_path / "ppo")]) == 0
    metrics = (tmp_path / "ppo" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(row) for row in metrics]
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert rows[0]["sequence_entropy"] > 0
    other = ["--reference", str(tmp_path / "reference"), "--out", str(tmp_path / "rloo")]
    assert main(["rloo", *flags, *training, *other]) == 0
    sides = ["--policy", str(tmp_path / "policy"), "--against", tiny_model]
    out = tmp_path / "figures.json"
    assert main(["evaluate", *flags, *sides, "--out", str(out)]) == 0
    # The rows that were added are the mean of the others: without them the two are one model.
    assert json.loads(out.read_text())["kl"] == pytest.approx(0, abs=1e-3)


def test_tokens_without_text_are_never_drawn(tiny_model: str) -> None:
    tokenizer = load_tokenizer(tiny_model)
    policy = load_policy(tiny_model, tokenizer, CPU)
    policy.resize_token_embeddings(len(tokenizer) + 112)
    stream = torch.Generator().manual_seed(0)
    rollout = sample(
        policy, [[1, 4, 8, 5]] * 500, length=2, temperature=1.0, end=2, pad=0,
        known=len(tokenizer), stream=stream,
    )  # fmt: skip
    assert int(rollout.response.max()) < len(tokenizer) == 6 + len(WORDS)


def test_a_policy_that_comes_to_no_numbers_ends_generate(
    rankings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Finite weights, and products that are not."""
    folder = make_folder(tmp_path / "model")
    change_weights(folder, lambda weights: weights["lm_head.weight"].mul_(1e38).mul_(10))
    flags = ["--model", str(folder), "--data", str(rankings), "--device", "cpu"]
    out = tmp_path / "candidates.jsonl"
    for temperature in ("0", "1"):
        more = ["--response-length", "4", "--temperature", temperature, "--out", str(out)]
        assert "no numbers" in refusal(capsys, "generate", *flags, *more)
        assert not out.exists()


def test_a_reward_model_that_comes_to_no_numbers_ends_evaluate(
    tiny_model: str, rankings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Finite weights, and rewards that are not: neither a figure of theirs nor a file."""
    folder = make_reward_folder(tmp_path / "reward", tiny_model)
    change_weights(folder, lambda weights: weights["score.weight"].fill_(3e38))
    out = tmp_path / "figures.json"
    flags = ["--reward", str(folder), "--data", str(rankings), "--device", "cpu"]
    flags += ["--response-length", "4", "--out", str(out)]
    sides = ["--policy", tiny_model, "--against", tiny_model]
    for more in ([], sides):
        said = refusal(capsys, "evaluate", *flags, *more)
        assert "the reward model's rewards are no numbers" in said
        assert not out.exists()


def test_no_figure_of_evaluate_is_without_a_number() -> None:
    check_figures({"a": [1.0, None, {"b": 2}], "c": "nan"})
    with pytest.raises(TrainerError, match=r"^a\.1\.b is nan"):
        check_figures({"a": [1.0, {"b": math.nan}]})
