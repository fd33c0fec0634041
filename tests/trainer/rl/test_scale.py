"""A reward model's scale, taken off before the price of KL, and who judges a policy that was trained."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer import compare, evaluate, ppo, reward, rloo
from trainer.data.files import read_rankings
from trainer.engine import models, tokens
from trainer.engine.distributed import Processes
from trainer.run.judges import CLIMBED, HELD_OUT
from trainer.settings.compare import CompareConfig
from trainer.settings.evaluate import EvaluateConfig
from trainer.settings.ppo import PPOConfig
from trainer.settings.reward import RewardConfig
from trainer.settings.rloo import RLOOConfig

CPU = torch.device("cpu")
ALONE = Processes(CPU)


@pytest.fixture(scope="module", autouse=True)
def _without_drawings(module_patch: pytest.MonkeyPatch) -> None:
    """Plots are most of a short run's time."""
    module_patch.setattr("trainer.run.plots._svg", lambda _: "<svg></svg>")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.trainer.conftest import write_rankings

    return write_rankings(tmp_path_factory.mktemp("scale") / "rankings.jsonl")


@pytest.fixture(scope="module")
def scorer(tiny_model: str, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model as the reward stage saves it."""
    out = tmp_path_factory.mktemp("scorer") / "run"
    reward.main(
        RewardConfig(
            data=str(data), model=tiny_model, out=str(out), lr=3e-3, steps=12, batch_size=8,
            max_length=64, device="cpu",
        )
    )  # fmt: skip
    return out / "model"


def altered(start: Path, folder: Path, *, times: float, **config: float | None) -> Path:
    """The reward model with its rewards so many times as large, and this in its configuration."""
    tokenizer = tokens.load_tokenizer(str(start))
    model: Any = models.load_reward_model(str(start), tokenizer, CPU, seed=0)
    with torch.no_grad():
        model.score.weight.mul_(times)
    model.config.update(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def config_of(model: str, data: Path, scorer: Path, out: Path, **more: Any) -> PPOConfig:
    wanted: dict[str, Any] = {
        "data": str(data), "model": model, "reward": str(scorer), "out": str(out), "lr": 1e-3,
        "steps": 2, "batch_size": 8, "response_length": 8, "max_length": 64, "device": "cpu",
        "kl_coef": 0.2,
    }  # fmt: skip
    return PPOConfig(**(wanted | more))


def rows_of(out: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: row[name] for name in row if name != "tokens_per_second"} for row in rows]


def test_the_spread_that_is_saved_is_the_one_among_a_prompts_candidates(
    scorer: Path, data: Path
) -> None:
    tokenizer = tokens.load_tokenizer(str(scorer))
    model = models.load_reward_model(str(scorer), tokenizer, CPU, seed=0)
    encoder = tokens.Encoder(tokenizer, 64)
    train = read_rankings(data)["train"]
    rewards = reward.rewards_on(model, [reward.encode(encoder, each) for each in train], 0)
    variance = torch.stack([own.var() for own in rewards]).mean()  # four candidates each
    assert model.config.reward_spread == pytest.approx(float(variance.sqrt()), rel=1e-4)
    result = json.loads((scorer.parent / "result.json").read_text())
    assert result["reward_spread"] == model.config.reward_spread


@pytest.mark.parametrize("knows", [True, False])
def test_the_price_of_kl_means_the_same_for_rewards_ten_times_as_large(
    knows: bool, tiny_model: str, data: Path, scorer: Path, tmp_path: Path
) -> None:
    saved = json.loads((scorer / "config.json").read_text())
    runs = {}
    for times in (1.0, 10.0):
        # What the reward stage would have saved with it; or what other programs save: nothing.
        mean = saved["reward_mean"] * times if knows else 0.0
        spread = saved["reward_spread"] * times if knows else None
        folder = altered(
            scorer, tmp_path / f"{times}", times=times, reward_mean=mean, reward_spread=spread
        )
        out = tmp_path / f"run-{times}"
        result = ppo.main(config_of(tiny_model, data, folder, out))
        runs[times] = rows_of(out)
        wanted = "saved with the model" if knows else "measured on samples of the starting policy"
        assert result["rewards"]["scale"] == [wanted]
        assert wanted in (out / "report.html").read_text()
        assert "rewards.spread" in (out / "model" / "README.md").read_text()
    for one, other in zip(runs[1.0], runs[10.0], strict=True):
        assert one == pytest.approx(other, rel=2e-3, abs=1e-4)


def test_what_was_measured_is_mean_0_and_unit_spread_of_the_starting_policy(
    tiny_model: str, data: Path, scorer: Path, tmp_path: Path
) -> None:
    folder = altered(scorer, tmp_path / "plain", times=7.0, reward_mean=0.0, reward_spread=None)
    trainer = ppo.PPOTrainer(config_of(tiny_model, data, folder, tmp_path / "run"), ALONE)
    before = trainer.value_model.score.weight.detach().clone()
    prompts = [each.messages for each in read_rankings(data)["train"]]
    trainer.normalise_rewards(prompts, None)
    some = [each for each in prompts[:64] for _ in range(2)]
    rollout = trainer.roll_out(some, torch.Generator().manual_seed(2))
    scores = trainer.score(some, rollout)[0].double()
    assert float(scores.mean()) == pytest.approx(0, abs=1e-3)
    assert float(scores.view(-1, 2).var(-1).mean()) == pytest.approx(1, abs=1e-3)
    mean, spread = trainer.rewards.first.scale
    # The value model starts as the reward model on the same scale.
    assert torch.allclose(trainer.value_model.score.weight, before / spread)
    assert trainer.value_model.config.reward_mean == pytest.approx(mean / spread)


def test_it_can_be_switched_off_and_is_taken_up_exactly_where_a_run_goes_on(
    tiny_model: str, data: Path, scorer: Path, tmp_path: Path
) -> None:
    plain = altered(scorer, tmp_path / "plain", times=3.0, reward_mean=0.5, reward_spread=None)
    off = ppo.main(
        config_of(tiny_model, data, plain, tmp_path / "off", steps=1, normalise_rewards=False)
    )
    assert off["rewards"] == {
        "mean": [0.5], "spread": [1.0], "scale": ["its mean alone (--no-normalise-rewards)"],
    }  # fmt: skip

    settings: dict[str, Any] = {"steps": 4, "checkpoint_every": 2}
    whole = ppo.main(config_of(tiny_model, data, plain, tmp_path / "whole", **settings))
    out = tmp_path / "halves"
    ppo.main(config_of(tiny_model, data, plain, out, **settings))
    (out / "checkpoints" / "step-00000004" / "state.pt").unlink()
    again = ppo.main(config_of(tiny_model, data, plain, out, resume=True, **settings))
    assert again == whole
    assert rows_of(out) == rows_of(tmp_path / "whole")


def test_rloo_and_each_member_of_an_ensemble_are_normalised_too(
    tiny_model: str, data: Path, scorer: Path, tmp_path: Path
) -> None:
    saved = json.loads((scorer / "config.json").read_text())
    large = altered(
        scorer, tmp_path / "large", times=10.0,
        reward_mean=10 * saved["reward_mean"], reward_spread=10 * saved["reward_spread"],
    )  # fmt: skip
    result = rloo.main(
        RLOOConfig(
            data=str(data), model=tiny_model, reward=f"{scorer},{large}", out=str(tmp_path / "rloo"),
            lr=1e-3, steps=1, batch_size=8, response_length=8, max_length=64, device="cpu",
            ensemble="worst",
        )
    )  # fmt: skip
    one, other = result["rewards"]["spread"]
    assert other == pytest.approx(10 * one)
    # Both say the same, so that the worst of them is each of them.
    alone = rloo.main(
        RLOOConfig(
            data=str(data), model=tiny_model, reward=str(scorer), out=str(tmp_path / "alone"),
            lr=1e-3, steps=1, batch_size=8, response_length=8, max_length=64, device="cpu",
        )
    )  # fmt: skip
    assert result["score"] == pytest.approx(alone["score"], abs=1e-4)


# --- who judges ---------------------------------------------------------------------------------------


def test_a_win_rate_says_whether_its_judge_was_climbed(
    tiny_model: str, data: Path, scorer: Path, tmp_path: Path
) -> None:
    apart = altered(scorer, tmp_path / "apart", times=-1.0)
    same = Path(shutil.copytree(scorer, tmp_path / "same"))
    found = {}
    for name, judge in (("none", None), ("apart", apart), ("same", same)):
        heldout = str(judge) if judge else None
        out = tmp_path / name / "run"
        run = ppo.main(config_of(tiny_model, data, scorer, out, heldout_reward=heldout, steps=1))
        found[name] = run["held_out"]
        assert found[name]["judge"] in (out / "model" / "README.md").read_text()
        assert found[name]["judge"] in (out / "report.html").read_text()
    assert [found[name]["judge"] for name in found] == [CLIMBED, HELD_OUT, CLIMBED]
    assert found["none"]["win_rate"] == found["none"]["climbed_win_rate"]
    # The judge says the contrary of the one that was climbed, on the same responses.
    assert found["apart"]["climbed_win_rate"] == found["none"]["win_rate"]
    assert found["apart"]["win_rate"] == pytest.approx(1 - found["apart"]["climbed_win_rate"])

    def judge_of(judge: Path, policy: str, **more: Any) -> str:
        config = EvaluateConfig(
            data=str(data), reward=str(judge), policy=policy, against=tiny_model, max_length=64,
            response_length=8, device="cpu", **more,
        )  # fmt: skip
        return evaluate.judge_of(config)

    trained = str(tmp_path / "none" / "run" / "model")
    assert judge_of(scorer, trained) == CLIMBED
    assert judge_of(same, trained) == CLIMBED  # by what it holds, not by its name
    assert judge_of(apart, trained) == HELD_OUT
    assert judge_of(apart, tiny_model).startswith("unknown")
    assert judge_of(apart, tiny_model, best_of=2) == CLIMBED  # it chooses, too
    assert judge_of(apart, trained, best_of=2, choose_by=str(scorer)) == HELD_OUT

    some: dict[str, Any] = {"data": str(data), "model": tiny_model, "out": str(tmp_path)}
    for judge, wanted in ((None, CLIMBED), (same, CLIMBED), (apart, HELD_OUT)):
        config = CompareConfig(**some, judge=None if judge is None else str(judge))
        assert compare.judge_of(config, str(scorer)) == wanted
