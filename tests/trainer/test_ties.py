"""Ties in a reward model's run: the rule that is chosen, what is learned of them, saved, and judged."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer import evaluate, reward
from trainer.data.examples import Ranking
from trainer.data.files import read_rankings
from trainer.engine import models, ties, tokens
from trainer.engine.distributed import Processes
from trainer.errors import UsageError
from trainer.formulas import losses
from trainer.settings.evaluate import EvaluateConfig
from trainer.settings.reward import RewardConfig

CPU = torch.device("cpu")
ALONE = Processes(CPU)


def config_of(model: str, data: Path, out: Path, **more: Any) -> RewardConfig:
    wanted: dict[str, Any] = {
        "data": str(data), "model": model, "out": str(out), "lr": 3e-3, "steps": 6,
        "batch_size": 8, "max_length": 64, "device": "cpu", "checkpoint_every": 3,
    }  # fmt: skip
    return RewardConfig(**(wanted | more))


def saved_config(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "model" / "config.json").read_text())
    return found


def test_fitted_ties_are_saved_named_judged_by_and_resumed_to_the_bit(
    tiny_model: str, rankings: Path, tmp_path: Path
) -> None:
    whole = reward.main(config_of(tiny_model, rankings, tmp_path / "whole", ties="davidson"))
    nu = whole["ties"]["nu"]
    assert whole["ties"]["rule"] == "davidson"
    assert len(nu) == 3  # some ranking ties all four: a parameter each for two, three and four
    assert saved_config(tmp_path / "whole")["tie_nu"] == nu
    assert "ties.nu" in (tmp_path / "whole" / "model" / "README.md").read_text()
    assert "davidson" in (tmp_path / "whole" / "report.html").read_text()
    assert whole["ties"]["why"] == "asked for"

    # As `evaluate` judges it: the same figures as the run's own, ties among them.
    figures = evaluate.main(
        EvaluateConfig(
            data=str(rankings),
            reward=str(tmp_path / "whole" / "model"),
            device="cpu",
            max_length=64,
        )
    )
    every = [each for split in read_rankings(rankings).splits.values() for each in split]
    pairs = [pair for each in every for pair in itertools.combinations(each.ranks, 2)]
    tied = [one == other for one, other in pairs]
    assert "ties" in figures
    assert figures["ties"]["tied"] == pytest.approx(sum(tied) / len(tied))
    assert figures["ties"]["pairs"] == len(pairs)
    assert figures["ties"]["rankings"] == len(every)
    assert 0 < figures["ties"]["tied_predicted"] < 1

    # Stopped in the middle and resumed.
    out = tmp_path / "halves"
    halves = config_of(tiny_model, rankings, out, ties="davidson")
    reward.main(halves)
    (out / "checkpoints" / "step-00000006" / "state.pt").unlink()
    again = reward.main(config_of(tiny_model, rankings, out, ties="davidson", resume=True))
    assert again == whole


def test_ties_are_learned_at_their_own_rate_without_decay(
    tiny_model: str, rankings: Path, tmp_path: Path
) -> None:
    def nu_of(name: str, **more: Any) -> list[float]:
        settings = {"ties": "davidson", "steps": 3, "lr": 1e-9} | more
        found: list[float] = reward.main(
            config_of(tiny_model, rankings, tmp_path / name, **settings)
        )["ties"]["nu"]
        return found

    slow, fast = (torch.tensor(nu_of(f"{lr}", tie_lr=lr)).log() for lr in (1e-9, 0.05))
    moved = (fast - slow).abs()
    assert bool((moved > 0.01).all())  # three steps of Adam, the last at a third of the rate
    assert bool((moved <= 0.05 * 2 + 1e-4).all())
    heavy = torch.tensor(nu_of("decayed", tie_lr=0.05, weight_decay=0.9)).log()
    assert torch.allclose(fast, heavy)


def test_the_loss_of_a_batch_is_davidson_luces_with_raters_weights_and_smoothing(
    tiny_model: str, tmp_path: Path
) -> None:
    tokenizer = tokens.load_tokenizer(tiny_model)
    model = models.load_reward_model(tiny_model, tokenizer, CPU, seed=0)
    told = [{"role": "user", "content": "tell me story"}]
    some = [
        Ranking(told, ["sun", "moon", "cat"], [1, 1, 2], weight=0.5),
        Ranking(told, ["tree", "sun"], [2, 1], weight=3.0),
    ]
    examples = [reward.encode(tokens.Encoder(tokenizer, 64), each) for each in some]
    log_nu = torch.tensor([0.4])
    config = config_of(tiny_model, tmp_path, tmp_path, label_smoothing=0.1)
    found, _ = reward.sum_losses(model, examples, 0, config, log_nu=log_nu)
    wanted = 0.0
    for ranking, rewards in zip(some, reward.rewards_on(model, examples, 0), strict=True):
        ranks = torch.tensor([ranking.ranks])
        for share, order in ((0.9, ranks), (0.1, ranks.max() + 1 - ranks)):
            own = losses.davidson_luce(
                rewards[None], order, torch.ones(order.shape), log_nu.double()
            )
            wanted += share * ranking.weight * float(own)
    assert float(found.detach()) == pytest.approx(wanted, abs=1e-5)


def test_auto_measures_both_rules_and_says_so(
    tiny_model: str, rankings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ties, "FEWEST", 2)
    result = reward.main(config_of(tiny_model, rankings, tmp_path / "auto", steps=1))
    measured = result["ties"]["measured"]
    assert result["ties"]["rule"] == "davidson"
    assert result["ties"]["why"] == "measured on validation rankings: davidson"
    assert measured["difference"] == pytest.approx(measured["breslow"] - measured["davidson"])
    assert measured["difference"] > 0
    described = json.loads((tmp_path / "auto" / "config.json").read_text())
    assert described["tie_rule"] == "davidson"


def test_auto_takes_breslows_rule_where_that_is_likelier(
    tiny_model: str, rankings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def examples_of(split: str) -> list[reward.Example]:
        tokenizer = tokens.load_tokenizer(tiny_model)
        encoder = tokens.Encoder(tokenizer, 64)
        return [reward.encode(encoder, each) for each in read_rankings(rankings)[split]]

    model = models.load_reward_model(tiny_model, tokens.load_tokenizer(tiny_model), CPU, seed=0)
    train, held_out = examples_of("train"), examples_of("validation")
    monkeypatch.setattr(ties, "FEWEST", 2)
    for difference, rule in ((-0.21, "breslow"), (-0.19, "davidson"), (0.2, "davidson")):
        figures = {"difference": difference, "standard_error": 0.1}
        monkeypatch.setattr(ties, "compare_rules", lambda *_, figures=figures, **__: figures)
        config = config_of(tiny_model, rankings, tmp_path)
        assert ties.choose_rule(config, model, train, held_out, 0, ALONE).name == rule, difference


def test_what_does_not_go_with_ties_is_refused_or_said(
    tiny_model: str, rankings: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="--ties must be auto, breslow, davidson"):
        config_of(tiny_model, rankings, tmp_path, ties="efron")
    with pytest.raises(UsageError, match="--margin-scale goes with --ties breslow"):
        config_of(tiny_model, rankings, tmp_path, ties="davidson", margin_scale=0.5)
    with pytest.raises(UsageError, match="--tie-lr must be above 0"):
        config_of(tiny_model, rankings, tmp_path, tie_lr=0.0)

    tokenizer = tokens.load_tokenizer(tiny_model)
    model = models.load_reward_model(tiny_model, tokenizer, CPU, seed=0)
    encoder = tokens.Encoder(tokenizer, 64)
    told = [{"role": "user", "content": "tell me story"}]

    def rule_of(ranks: list[int], **more: Any) -> ties.TieRule:
        texts = ["sun"] * len(ranks)
        some = [reward.encode(encoder, Ranking(told, texts, ranks))]
        return ties.choose_rule(
            config_of(tiny_model, rankings, tmp_path, **more), model, some, [], 0, ALONE
        )

    strict = rule_of([1, 2, 3], ties="davidson")
    assert strict.describe(None) == {
        "rule": "breslow",
        "why": "no training ranking has a tie: both rules are Plackett-Luce",
    }
    assert rule_of([1, 1, 2], margin_scale=0.5).why == "--margin-scale goes with it alone"
    assert rule_of([1, 1, 2], ties="breslow").largest is None
    assert rule_of([1, 1, 2]).why.startswith("not measured (too few validation rankings)")
    many = [1] * 10 + [2]
    assert rule_of(many).why == "a ranking ties 10 candidates, more than 9"
    with pytest.raises(UsageError, match="a ranking ties 10 candidates, and at most 9"):
        rule_of(many, ties="davidson")
