"""bench/gpu.py where there is no GPU: small, on a CPU. What it cannot show is a GPU."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from simulation.gpu import budget, parts, sizes
from simulation.gpu.budget import Part
from simulation.gpu.parts import STAGES
from simulation.gpu.sizes import SHAPES, forward_flops, peak_of, step_flops

CPU = "cpu"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("gpu")
    sizes.make_models("tiny", made, torch.device(CPU))
    return made


def run(part: str, folder: Path, seconds: float = 60) -> list[dict[str, Any]]:
    """All that a part tells."""
    said: list[dict[str, Any]] = []
    job = {"part": part, "size": "tiny", "folder": str(folder), "device": CPU, "seconds": seconds}
    parts.run_part(job | {"dtype": "float32"}, lambda found: said.append(dict(found)))
    json.dumps(said, allow_nan=False)
    return said


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_tells_its_speed_after_every_step(stage: str, folder: Path) -> None:
    said = run(stage, folder)
    assert [each["steps"] for each in said] == [0, 0, 1, 2]  # the first step is not counted
    last = said[-1]
    assert last["tokens_a_second"] > 0
    assert last["peak_gib"] > 0
    assert last["mfu"] == "unknown"
    first = last["first"]
    expected = {"dpo": ("loss", math.log(2)), "ppo": ("kl", 0.0)}
    name, value = expected.get(stage, ("loss", first["loss"]))
    assert first[name] == pytest.approx(value, abs=1e-6)


def test_a_stage_ends_when_it_is_late(folder: Path) -> None:
    assert run("sft", folder, seconds=0)[-1]["steps"] == 1


def test_where_memory_is_short_the_micro_batch_is_halved(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer import sft

    whole = sft.sum_losses

    def short(policy: Any, rows: Any, pad: int) -> Any:
        if len(rows) > 1:
            raise torch.OutOfMemoryError
        return whole(policy, rows, pad)

    monkeypatch.setattr(sft, "sum_losses", short)
    last = run("sft", folder)[-1]
    assert last["micro_batch"] == 1
    assert last["steps"] == 2


@pytest.mark.slow
def test_identities_hold_and_are_compared_with_the_cpu(folder: Path) -> None:
    found = run("identities", folder)[-1]
    for stage in STAGES:
        assert found[stage]["difference"] == 0  # here both are the CPU
        assert found[stage]["bfloat16"]["loss"] != found[stage]["cpu"]["loss"] or stage == "dpo"
        assert found[stage]["bfloat16"]["loss"] == pytest.approx(
            found[stage]["cpu"]["loss"], abs=0.01
        )
    assert found["ppo"]["tokens_drawn_alike"] == 1
    assert found["identities"] == pytest.approx(
        {"dpo_loss_less_ln2": 0, "dpo_margin": 0, "ppo_kl": 0}, abs=1e-6
    )
    assert parts.compare({"cpu": {"loss": 2.0}, "device": {"loss": 2.1}}, ("loss",))[
        "difference"
    ] == pytest.approx(0.05)


def test_flops_are_those_that_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = SHAPES["tiny"]._replace(heads=4, kv_heads=2, batch=3, response=24)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.inner,
            num_hidden_layers=shape.layers, num_attention_heads=4, num_key_value_heads=2,
            attn_implementation="eager",
        )
    )  # fmt: skip
    ids = torch.arange(3 * 24).view(3, 24) % shape.vocabulary
    with FlopCounterMode(display=False) as counter:
        loss = model(input_ids=ids).logits.sum()
    # Turning positions by their angles is an outer product of a few numbers.
    assert counter.get_total_flops() == pytest.approx(forward_flops(shape, 3, 24, 24), rel=0.01)
    with FlopCounterMode(display=False) as counter:
        loss.backward()
    assert 3 * forward_flops(shape, 3, 24, 24) == step_flops("sft", shape, 24)
    assert counter.get_total_flops() == pytest.approx(2 * forward_flops(shape, 3, 24, 24), rel=0.1)


@pytest.mark.parametrize(
    ("card", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA A10G", None),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("Tesla V100-SXM2-16GB", None),
    ],
)
def test_a_card_has_its_own_peak_or_none(card: str, peak: float | None) -> None:
    assert peak_of(card) == peak


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_part_that_hangs_or_fails_keeps_what_it_had_and_the_rest_goes_on() -> None:
    codes = {
        "hangs": "import time; print('{\"steps\": 1}', flush=True); time.sleep(60)",
        "fails": "print('{\"steps\": 2}'); raise SystemExit('no memory')",
        "speaks": "print('a library says'); print('{\"steps\": 3}')",
    }
    kept: dict[str, list[dict[str, Any]]] = {name: [] for name in codes}
    for name, code in codes.items():
        budget.watch(python(code), 2.0, lambda found, name=name: kept[name].append(dict(found)))  # type: ignore[misc]
    assert {name: told[0]["steps"] for name, told in kept.items()} == {
        "hangs": 1, "fails": 2, "speaks": 3,
    }  # fmt: skip
    last = {name: told[-1] for name, told in kept.items()}
    assert last["hangs"]["error"] == "ended after 2 seconds"
    assert last["fails"]["error"] == "ended with 1: no memory"
    assert "error" not in last["speaks"]


def test_no_part_begins_when_the_time_is_up_and_each_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(budget, "LEAST_SECONDS", 0.5)
    found: dict[str, dict[str, Any]] = {}
    three = [Part("first", "", 1), Part("second", "", 1), Part("third", "", 1)]
    started = time.monotonic()
    budget.run_parts(
        three,
        lambda part, seconds: python("import time; time.sleep(9)"),
        (budget.SPARE_SECONDS + 1.2) / 60,
        lambda part, said: found.update({part.name: said}),
    )
    assert time.monotonic() - started < 4
    assert [*found] == ["first", "second", "third"]
    assert all("error" in each for each in found.values())
    assert found["third"] == {"error": "no time was left"}


def test_the_plan_has_every_stage_of_every_size_within_nine_minutes() -> None:
    planned = budget.plan(["0.1B", "1B"], "0.1B")
    assert planned[1].name == "identities"
    assert {(each.name, each.size) for each in planned} >= {
        (stage, size) for stage in STAGES for size in ("0.1B", "1B")
    }


@pytest.mark.slow
def test_the_command_writes_what_it_prints(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    done = subprocess.run(
        [sys.executable, str(budget.CHECKOUT / "bench" / "gpu.py"), "--device", "cuda", "--minutes", "0.5",
         "--sizes", "", "--exact-size", "tiny", "--out", str(out)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found == json.loads(out.read_text())
    if not torch.cuda.is_available():  # every part's reason is told, and none ended the others
        assert done.returncode == 1
        assert {*found["parts"]} == {"models tiny", "identities tiny"}
        assert all("error" in each for each in found["parts"].values())
