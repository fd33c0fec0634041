"""Whole steps of SFT, the reward model and DPO equal those of a plain loop (tests/trainer/plain.py).

Loss, logged figures, weights after every step that was made and figures on what is held out; with
accumulation, batches that run over the end of an epoch, batches by length, rankings of two to four with
ties, raters' weights, a rate that rises and falls, decay and clipping.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.trainer import plain
from tests.trainer.collected import write_export
from tests.trainer.conftest import make_tokenizer
from tests.trainer.families import CONFIGS, make_policy
from tests.trainer.flags import alike
from trainer import dpo, reward, sft
from trainer.data.files import read_demonstrations, read_rankings
from trainer.engine import forward, models, tokens
from trainer.settings.dpo import DPOConfig
from trainer.settings.reward import RewardConfig
from trainer.settings.sft import SFTConfig

STAGES: dict[str, tuple[Any, Any, Callable[[Any], plain.Outcome]]] = {
    "sft": (sft.main, SFTConfig, plain.sft),
    "reward": (reward.main, RewardConfig, plain.reward),
    "dpo": (dpo.main, DPOConfig, plain.dpo),
}
# A batch of 6 is no divisor of any stage's number of examples, and 4 is none of 6.
COMMON = {
    "steps": 4, "batch_size": 6, "micro_batch": 4, "lr": 3e-3, "weight_decay": 0.3, "max_grad_norm": 0.4,
    "max_length": 64, "seed": 5, "device": "cpu",
    # Weights whose gradient is 0 but for rounding (a key's bias) would move by that with less.
    "adam_eps": 1e-5,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _without_drawings(module_patch: pytest.MonkeyPatch) -> None:
    """Plots are most of a short run's time."""
    module_patch.setattr("trainer.run.plots._svg", lambda _: "<svg></svg>")


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_export(tmp_path_factory.mktemp("collected") / "export")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], str]:
    """A policy's folder by family and the side on which its tokenizer pads."""
    folder = tmp_path_factory.mktemp("starts")

    def make(family: str, side: str) -> str:
        path = folder / f"{family}-{side}"
        if not path.exists():
            make_policy(family).save_pretrained(path)
            tokenizer = make_tokenizer()
            tokenizer.padding_side = side
            tokenizer.save_pretrained(path)
        return str(path)

    return make


def check(stage: str, config: Any, found: dict[str, Any], wanted: plain.Outcome) -> None:
    """Every figure and every weight."""
    out = Path(config.out)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == len(wanted.metrics)
    for row, expected in zip(rows, wanted.metrics, strict=True):
        if "ties" in wanted.result:  # whose figures on what is held out are test_ties.py's
            row = {name: each for name, each in row.items() if not name.startswith("validation")}
        if expected.get("margin") == 0:  # whichever side of 0 rounding puts it on
            row["accuracy"] = 0.5
        assert row == {name: pytest.approx(each, rel=1e-4, abs=2e-5)
                       for name, each in expected.items()}  # fmt: skip
    for name, figures in wanted.result.items():
        of_run = found[name]
        if not isinstance(figures, dict):
            of_run, figures = {name: of_run}, {name: figures}
        for key, each in figures.items():
            assert of_run[key] == pytest.approx(each, rel=1e-4, abs=2e-5), (name, key)
    load = plain.load_scorer if stage == "reward" else plain.load_policy
    saved = plain.weights_of(load(str(out / "model")))
    for name, weight in plain.weights_of(wanted.model).items():
        torch.testing.assert_close(saved[name], weight, rtol=1e-4, atol=1e-5, msg=name)


def compare(stage: str, model: str, data: str, out: Path, **more: Any) -> None:
    """Run both."""
    main, settings, by_hand = STAGES[stage]
    if stage == "reward":  # Davidson-Luce is held against all outcomes in test_ties.py
        more = {"ties": "breslow"} | more
    config = settings(model=model, data=data, out=str(out), **(COMMON | more))
    check(stage, config, main(config), by_hand(config))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["Llama", "GPT2", "OPT"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_steps_are_those_of_a_plain_loop(
    stage: str,
    family: str,
    side: str,
    start: Callable[[str, str], str],
    export: str,
    tmp_path: Path,
) -> None:
    compare(stage, start(family, side), export, tmp_path / "run")


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "sft-packed": ("sft", {"packing": True, "batch_size": 7, "micro_batch": 3}),  # its seven rows
    "sft-cut": ("sft", {"max_length": 17}),
    "sft-twice": ("sft", {"gradient_checkpointing": True}),
    "reward-smoothed": ("reward", {"label_smoothing": 0.2}),
    "reward-margins": ("reward", {"margin_scale": 0.7}),
    "reward-mean": ("reward", {"max_mean_examples": 3}),
    "reward-cut": ("reward", {"max_length": 17}),
    "reward-davidson": ("reward", {"ties": "davidson", "tie_lr": 0.2, "label_smoothing": 0.1}),
    "reward-length": ("reward", {"length_control": True}),
    "reward-twice": ("reward", {"gradient_checkpointing": True}),
    "dpo-smoothed": ("dpo", {"label_smoothing": 0.2, "beta": 0.5}),
    "dpo-ipo": ("dpo", {"loss": "ipo", "beta": 0.3}),
    "dpo-cut": ("dpo", {"max_length": 17}),
    "dpo-unclipped": ("dpo", {"max_grad_norm": 100.0}),
    "dpo-twice": ("dpo", {"gradient_checkpointing": True}),
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_options_of_the_loss_are_those_of_a_plain_loop(
    variant: str, start: Callable[[str, str], str], export: str, tmp_path: Path
) -> None:
    stage, more = VARIANTS[variant]
    family = "OPT" if more.get("gradient_checkpointing") else "Llama"
    compare(stage, start(family, "right"), export, tmp_path / "run", **more)


def test_a_reference_of_its_own_is_the_one_that_dpo_is_held_to(
    start: Callable[[str, str], str], export: str, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    torch.manual_seed(1)
    policy = plain.load_policy(start("Llama", "right"))
    with torch.no_grad():
        for each in policy.parameters():
            each.add_(torch.randn_like(each), alpha=0.02)
    policy.save_pretrained(other)
    make_tokenizer().save_pretrained(other)
    compare("dpo", start("Llama", "right"), export, tmp_path / "run", reference=str(other))


def test_the_rate_rises_and_falls_as_in_a_plain_loop(
    start: Callable[[str, str], str], export: str, tmp_path: Path
) -> None:
    """Of 30 steps the first three are a warm-up; of 300 it would be 20."""
    model = start("Llama", "right")
    compare("dpo", model, export, tmp_path / "run", steps=30, batch_size=1, micro_batch=None)
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rates = [json.loads(row)["lr"] / 3e-3 for row in rows]
    assert rates[:4] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert rates[-1] == pytest.approx(1 / 27)  # and not 0: the last step counts


@pytest.mark.parametrize("stage", STAGES)
def test_adapters_move_the_linear_layers_and_a_scalar_head_alone(
    stage: str, start: Callable[[str, str], str], export: str, tmp_path: Path
) -> None:
    main, settings, _ = STAGES[stage]
    model, out = start("Llama", "right"), tmp_path / "run"
    main(settings(model=model, data=export, out=str(out), **(COMMON | {"lora_rank": 2})))
    load = partial(plain.load_scorer, seed=5) if stage == "reward" else plain.load_policy
    before = plain.weights_of(load(model))
    trained = plain.load_scorer if stage == "reward" else plain.load_policy
    after = plain.weights_of(trained(str(out / "model")))
    moved = {name for name, each in before.items() if not torch.equal(each, after[name])}
    assert moved == {name for name in before if "proj" in name or name == "score.weight"}


def test_figures_are_the_same_however_many_examples_share_a_pass(
    start: Callable[[str, str], str], export: str
) -> None:
    """Means over what is held out, the reference's log-probabilities, rewards."""
    folder, device = start("Llama", "right"), torch.device("cpu")
    tokenizer = tokens.load_tokenizer(folder)
    encoder = tokens.Encoder(tokenizer, 64)
    policy = models.load_policy(folder, tokenizer, device)
    scorer = models.load_reward_model(folder, tokenizer, device, seed=0)
    rows = sft.to_rows(sft.encode(encoder, read_demonstrations(export)["train"]), False, 64)
    data = read_rankings(export)["train"]
    examples = [reward.encode(encoder, each) for each in data]
    found = dpo.to_pairs(encoder, data)
    config = DPOConfig(model="", data="", out="", beta=0.5)
    texts = [(each.messages, each.candidates[0]) for each in data]

    def figures(size: int) -> list[Any]:
        known = dpo.with_reference(policy, found, 0, batch_size=size)
        return [
            sft.mean_loss(policy, rows, 0, batch_size=size),
            torch.tensor([each.reference for each in known]),
            # Beside a reference of 0, so that margins are not.
            dpo.measure(policy, found, 0, config, batch_size=size),
            torch.cat(reward.rewards_on(scorer, examples, 0, batch_size=size)),
            forward.score_texts(scorer, encoder, texts, batch_size=size),
        ]

    alone = figures(1)
    for size in (2, 5, 100):
        assert alike(figures(size), alone), size


@pytest.mark.parametrize("stage", STAGES)
def test_no_row_is_longer_than_the_models_window(stage: str, export: str, tmp_path: Path) -> None:
    """--max-length is 512 by default; what a model says beyond its positions it never learnt."""
    model = tmp_path / "model"
    sizes = CONFIGS["Llama"] | {"max_position_embeddings": 20}
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(model)
    make_tokenizer().save_pretrained(model)
    main, settings, _ = STAGES[stage]
    config = settings(
        model=str(model), data=export, out=str(tmp_path / "run"), steps=1, batch_size=2, lr=1e-3,
        device="cpu",
    )  # fmt: skip
    result = main(config)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["window"] == 20
    assert result["left_out"]["prompt cut at its start"] > 0


def test_no_preference_is_half_right(start: Callable[[str, str], str]) -> None:
    """In the logged accuracies: two equal rewards, a policy that is its reference."""
    ranks, mask = torch.tensor([[1.0, 2.0, 3.0]]), torch.ones(1, 3)
    assert reward.count_right(torch.tensor([[2.0, 2.0, 1.0]]), ranks, mask) == (2.5, 3)
    policy = models.load_policy(
        start("Llama", "right"), tokens.load_tokenizer(start("Llama", "right")), torch.device("cpu")
    )
    pair = dpo.Pair(([1, 4, 8], [9, 2]), ([1, 4, 8], [10, 11, 2]), 1.0)
    with torch.no_grad():
        (sums,), _ = dpo.pair_sums(policy, [pair], 0)
    chosen, rejected = sums.tolist()
    same = replace(pair, reference=(chosen, rejected))
    config = DPOConfig(model="", data="", out="")
    assert dpo.sum_losses(policy, [same], 0, config).figures["accuracy"] == (0.5, 1)
