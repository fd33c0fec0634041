"""Which learning rate a run is given, and whose it is."""

import json
from pathlib import Path
from typing import Any

import pytest

from trainer import dpo, reward, sft
from trainer.settings import list_stages
from trainer.settings.dpo import DPOConfig
from trainer.settings.ppo import PPOConfig
from trainer.settings.rates import EPSILONS, RATES, SAME_AS, choose_lr, find_rate
from trainer.settings.reward import RewardConfig
from trainer.settings.rloo import RLOOConfig
from trainer.settings.sft import SFTConfig


def test_every_stage_that_trains_has_rates_with_sources_for_weights_and_for_adapters() -> None:
    stages = [name for name, stage in list_stages().items() if stage.makes]
    for stage in stages:
        for lora in (False, True):
            rows = [each for each in RATES if each.stage == SAME_AS.get(stage, stage)]
            sizes = [each.parameters for each in rows if each.lora == lora]
            assert sizes == sorted(set(sizes)), stage
            assert sizes[0] <= 1e6, stage
            assert sizes[-1] >= 6.5e10, stage
    assert all(each.source and 1e-7 < each.lr < 1e-1 for each in RATES)
    assert {each.stage for each in RATES} | SAME_AS.keys() == set(stages)


def test_the_nearest_row_on_a_logarithmic_scale_is_taken_and_named() -> None:
    row = find_rate("reward", 6_000_000_000, lora=False)
    assert (row.lr, row.source) == (9e-6, "Ouyang et al. 2022 (InstructGPT), appendix C")
    assert find_rate("reward", 1_240_000_000, lora=False).lr == 3e-6
    assert find_rate("sft", 8_000_000_000, lora=False).lr == 2e-5
    assert find_rate("sft", 8_000_000_000, lora=True).lr == 2e-4
    assert find_rate("dpo", 7_240_000_000, lora=True).lr == 5e-6
    assert find_rate("ppo", 100, lora=False).parameters == 1e6
    assert find_rate("rloo", 7_000_000_000, lora=False) == find_rate("ppo", 7 * 10**9, lora=False)
    # Half way between 10 and 100 million is 31.6 million, not 55.
    assert find_rate("ppo", 31_000_000, lora=False).parameters == 1e7
    assert find_rate("ppo", 32_000_000, lora=False).parameters == 1e8
    assert choose_lr(0.5, "dpo", 10**9, lora=False) == (0.5, "--lr")


def test_adapters_never_get_the_rate_of_all_weights() -> None:
    for stage in ("sft", "reward", "dpo", "ppo"):
        for size in (10**6, 10**8, 7 * 10**9, 7 * 10**10):
            whole, adapters = (find_rate(stage, size, lora=lora).lr for lora in (False, True))
            assert adapters > 2 * whole, (stage, size)


def test_epsilons_are_those_of_the_table() -> None:
    of_stage = {
        stage: value for names, (value, _) in EPSILONS.items() for stage in names.split(", ")
    }
    some: dict[str, Any] = {"data": "d", "model": "m", "out": "o"}
    configs = {
        "sft": SFTConfig(**some),
        "reward": RewardConfig(**some),
        "dpo": DPOConfig(**some),
        "ppo": PPOConfig(**some, reward="r"),
        "rloo": RLOOConfig(**some, reward="r"),
    }
    assert {stage: config.adam_eps for stage, config in configs.items()} == of_stage
    assert of_stage["ppo"] == 1e-5
    assert of_stage["reward"] == 1e-8


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
def test_a_run_writes_down_its_rate_and_whose_it_is_and_uses_its_epsilon(
    stage: str, tiny_model: str, rankings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    seen = []
    whole = torch.optim.AdamW

    def watch(*args: Any, **settings: Any) -> torch.optim.AdamW:
        seen.append(settings["eps"])
        return whole(*args, **settings)

    monkeypatch.setattr(torch.optim, "AdamW", watch)
    main: Any = {"sft": sft, "reward": reward, "dpo": dpo}[stage].main
    data = rankings
    if stage == "sft":
        data = tmp_path / "demonstrations.jsonl"
        rows = [
            {"messages": [{"role": "user", "content": f"tell me {number}"},
                          {"role": "assistant", "content": "the sun"}]}
            for number in range(12)
        ]  # fmt: skip
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config: Any = list_stages()[stage].config
    main(
        config(
            data=str(data), model=tiny_model, out=str(tmp_path / "run"), steps=1, lora_rank=2,
            device="cpu", max_length=64, adam_eps=3e-7,
        )
    )  # fmt: skip
    described = json.loads((tmp_path / "run" / "config.json").read_text())
    assert described["lr"] == find_rate(stage, 1, lora=True).lr
    assert described["lr_source"].startswith("ours: ten times")
    assert "ours: ten times" in (tmp_path / "run" / "report.html").read_text()
    assert seen == [3e-7]
