"""Several processes train as one does: the same losses, the same weights, one run directory."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.engine.distributed import Processes

CHECKOUT = Path(__file__).resolve().parents[3]


def train(words: list[str], out: Path, *, processes: int = 1) -> list[dict[str, Any]]:
    """A run of the trainer, as one process or several on this machine over gloo; its metrics."""
    start = [sys.executable, "-m", "trainer"]
    if processes > 1:
        launcher = str(Path(sys.executable).with_name("accelerate"))
        # `--multi_gpu` means: start them as torchrun does; on a CPU they meet over gloo.
        start = [
            launcher,
            "launch",
            "--multi_gpu",
            "--num_machines",
            "1",
            "--main_process_port",
            "0",
        ]
        start += ["--num_processes", str(processes), "--module", "trainer"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [*start, *words, "--out", str(out), "--device", "cpu"],
        cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[:6000]
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result == json.loads((out / "result.json").read_text())
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def weights(out: Path) -> torch.Tensor:
    from safetensors.torch import load_file

    state = load_file(out / "model" / "model.safetensors")
    return torch.cat([state[name].flatten() for name in sorted(state)])


def check_same(one: Path, other: Path, rows: list[list[dict[str, Any]]]) -> None:
    first, second = rows
    assert len(first) == len(second) >= 3
    for a, b in zip(first, second, strict=True):
        for name in a.keys() & {"loss", "grad_norm", "accuracy", "kl", "score", "policy_loss"}:
            assert a[name] == pytest.approx(b[name], abs=1e-5), (a["step"], name)
    assert torch.allclose(weights(one), weights(other), atol=1e-5)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, tiny_model: str) -> dict[str, str]:
    """Data, and a reward model that a single process has made of it."""
    from tests.trainer.conftest import write_rankings

    folder = tmp_path_factory.mktemp("processes")
    data = str(write_rankings(folder / "rankings.jsonl"))
    demonstrations = folder / "demonstrations.jsonl"
    with demonstrations.open("w") as lines:
        for number in range(40):
            said = " ".join(
                ["the cat sat", "a dog ran on the hill", "yes", "no sun"][: number % 4 + 1]
            )
            messages = [
                {"role": "user", "content": f"tell me story {number}"},
                {"role": "assistant", "content": said},
            ]
            lines.write(json.dumps({"messages": messages}) + "\n")
    train(
        ["reward", "--data", data, "--model", tiny_model, "--lr", "3e-3", "--steps", "6",
         "--max-length", "64"],
        folder / "reward",
    )  # fmt: skip
    return {
        "model": tiny_model,
        "data": data,
        "demonstrations": str(demonstrations),
        "reward": str(folder / "reward" / "model"),
    }


def words_for(stage: str, files: dict[str, str], *more: str) -> list[str]:
    """A short run of a stage."""
    data = files["demonstrations"] if stage == "sft" else files["data"]
    words = [stage, "--data", data, "--model", files["model"], "--steps", "3", "--batch-size", "8"]
    words += ["--lr", "1e-3", "--max-length", "64"]
    if stage in ("ppo", "rloo"):
        words += ["--reward", files["reward"], "--response-length", "8"]
    if stage == "ppo":
        words += ["--ptx-coef", "0.5", "--ptx-data", files["demonstrations"]]
    return [*words, *more]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "ppo", "rloo"])
def test_two_processes_give_the_losses_of_one(
    files: dict[str, str], tmp_path: Path, stage: str
) -> None:
    words = words_for(stage, files)
    rows = [
        train(words, tmp_path / "one"),
        train(words, tmp_path / "two", processes=2),
    ]
    check_same(tmp_path / "one", tmp_path / "two", rows)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["reward", "ppo"])
def test_divided_weights_give_the_losses_of_whole_ones(
    files: dict[str, str], tmp_path: Path, stage: str
) -> None:
    words = words_for(stage, files)
    rows = [
        train(words, tmp_path / "whole"),
        train([*words, "--shard"], tmp_path / "divided", processes=2),
    ]
    check_same(tmp_path / "whole", tmp_path / "divided", rows)


@pytest.mark.slow
def test_a_divided_run_with_adapters_resumes_where_it_was(
    files: dict[str, str], tmp_path: Path
) -> None:
    words = words_for("dpo", files, "--lora-rank", "4", "--checkpoint-every", "2")
    rows = [train(words, tmp_path / "whole")]
    train([*words, "--shard"], tmp_path / "divided", processes=2)
    (tmp_path / "divided" / "checkpoints" / "step-00000003" / "state.pt").unlink()
    rows.append(train([*words, "--shard", "--resume"], tmp_path / "divided", processes=2))
    check_same(tmp_path / "whole", tmp_path / "divided", rows)


def test_one_process_is_all_of_them() -> None:
    alone = Processes(torch.device("cpu"))
    assert alone.first
    assert alone.share([1, 2, 3]) == [1, 2, 3]
    assert alone.all_gather([1, 2, 3]) == [1, 2, 3]
    assert alone.any(True)
    assert not alone.any(False)
    values = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    values.grad = torch.tensor([3.0, 4.0])
    assert alone.clip_grad_norm([values], 1.0) == pytest.approx(5.0)
    assert float(values.grad.norm()) == pytest.approx(1.0, abs=1e-5)
    assert alone.clip_grad_norm([values], 2.0) == pytest.approx(1.0, abs=1e-5)
    assert float(values.grad.norm()) == pytest.approx(1.0, abs=1e-5)  # short ones are left alone
