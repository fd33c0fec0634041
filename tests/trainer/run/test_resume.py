"""A run that goes on sees every batch once, in its order, with the moments it had: the same run to the bit.

`test_kill.py` kills real processes of every stage; here a checkpoint in the middle of an epoch is gone on
from, quickly, with what SFT, the reward model and DPO carry along: moments, the best so far, adapters.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.collected import write_export
from trainer import dpo, reward, sft
from trainer.engine.optimizer import load_optimizer_state
from trainer.errors import TrainerError
from trainer.settings.dpo import DPOConfig
from trainer.settings.reward import RewardConfig
from trainer.settings.sft import SFTConfig

STAGES: dict[str, tuple[Any, Any]] = {
    "sft": (sft.main, SFTConfig),
    "reward": (reward.main, RewardConfig),
    "dpo": (dpo.main, DPOConfig),
}


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_export(tmp_path_factory.mktemp("collected") / "export")


@pytest.fixture(autouse=True)
def _without_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots are most of a short run's time."""
    monkeypatch.setattr("trainer.run.plots._svg", lambda _: "<svg></svg>")


class Runs:
    """Runs of one stage that differ in where they are and what more they are asked."""

    def __init__(self, stage: str, folder: Path, **settings: Any) -> None:
        self.main, self.kind = STAGES[stage]
        self.folder, self.settings = folder, settings

    def start(self, name: str, **more: Any) -> tuple[Any, list[str], dict[str, torch.Tensor]]:
        """Its result, its metrics, and all weights that it left: the best, and the last."""
        from safetensors.torch import load_file

        folder = self.folder / name
        result = self.main(self.kind(out=str(folder), **(self.settings | more)))
        weights = load_file(folder / "model" / "model.safetensors")
        newest = max((folder / "checkpoints").iterdir())
        state = torch.load(newest / "state.pt", weights_only=True)
        last = {f"last {name}": each for name, each in state["model"].items()}
        return result, (folder / "metrics.jsonl").read_text().splitlines(), weights | last

    def interrupt(self, name: str, copy: str) -> None:
        """As a run was when it had written all but its newest checkpoint."""
        shutil.copytree(self.folder / name, self.folder / copy)
        shutil.rmtree(max((self.folder / copy / "checkpoints").iterdir()))

    def check(self) -> Any:
        """A run that was interrupted and went on is the whole run; its result."""
        whole = self.start("whole")
        self.interrupt("whole", "parts")
        parts = self.start("parts", resume=True)
        assert parts[:2] == whole[:2]
        assert parts[2].keys() == whole[2].keys()
        assert all(torch.equal(each, whole[2][name]) for name, each in parts[2].items())
        steps = [json.loads(row)["step"] for row in parts[1]]
        assert steps == list(range(1, len(steps) + 1))
        return parts[0]


@pytest.fixture
def settings(tiny_model: str, export: str) -> dict[str, Any]:
    """Four steps and two more; a batch of 4 is no divisor of any stage's examples."""
    return {
        "data": export, "model": tiny_model, "steps": 6, "lr": 0.01, "batch_size": 4, "seed": 3,
        "checkpoint_every": 4, "max_length": 64, "device": "cpu",
    }  # fmt: skip


@pytest.mark.parametrize("more", [{}, {"lora_rank": 2}], ids=["all", "adapters"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_goes_on_is_the_run_that_was_never_interrupted(
    stage: str, more: dict[str, Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    result = Runs(stage, tmp_path, **settings, **more).check()
    assert result["steps"] == 6


def test_the_best_weights_of_before_the_interruption_are_kept(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    """At a rate that ruins the policy."""
    result = Runs("dpo", tmp_path, **(settings | {"lr": 2.0, "patience": 50})).check()
    assert result["best_step"] <= 4


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_goes_on_ends_early_where_it_would_have(
    stage: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    """Where nothing is learnt, the first look is the best, and the fifth after it the last."""
    asked: dict[str, Any] = {"lr": 1e-30, "steps": 9, "patience": 5, "checkpoint_every": 4}
    if stage == "reward":  # the parameters of ties have a rate of their own
        asked["ties"] = "breslow"
    result = Runs(stage, tmp_path, **(settings | asked)).check()
    assert (result["best_step"], result["steps"]) == (1, 6)


def test_an_optimiser_of_other_groups_is_refused_in_one_line() -> None:
    """As a checkpoint has it that was written before weights went by their names."""
    weights = [torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.zeros(2))]
    before = torch.optim.AdamW(weights)
    now = torch.optim.AdamW([{"params": [(f"{each.dim()}", each)]} for each in weights])
    with pytest.raises(TrainerError, match="of another version of the trainer"):
        load_optimizer_state(now, before.state_dict())
