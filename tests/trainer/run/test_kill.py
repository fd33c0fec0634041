"""`kill -9` at any moment costs nothing but time: the run goes on, and ends with the same weights."""

import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.trainer.conftest import write_rankings
from trainer.__main__ import main

CHECKOUT = Path(__file__).resolve().parents[3]
STEPS = 40


def run(words: list[str]) -> None:
    """A stage in this process; only its end matters."""
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(words) == 0


def run_and_kill(words: list[str], out: Path, *, after: int) -> int:
    """A stage in a process of its own, killed once it has told of so many steps; how many it told of."""
    threads = str(torch.get_num_threads())
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer", *words], cwd=CHECKOUT, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"},
    )  # fmt: skip
    metrics = out / "metrics.jsonl"
    deadline = time.monotonic() + 120
    told = 0
    while told < after:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        told = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return metrics.read_bytes().count(b"\n")


@pytest.fixture(scope="module")
def scorer(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Data, and a reward model of it."""
    folder = tmp_path_factory.mktemp("scorer")
    data = str(write_rankings(folder / "rankings.jsonl"))
    run(["reward", "--data", data, "--model", tiny_model, "--out", str(folder / "run"),
         "--steps", "4", "--max-length", "64", "--device", "cpu"])  # fmt: skip
    return data, str(folder / "run" / "model")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "ppo", "rloo"])
def test_a_killed_run_goes_on_and_ends_with_the_same_weights_bit_for_bit(
    tiny_model: str, scorer: tuple[str, str], tmp_path: Path, stage: str
) -> None:
    from safetensors.torch import load_file

    data, reward_model = scorer
    if stage == "sft":
        file = tmp_path / "demonstrations.jsonl"
        with file.open("w") as lines:
            for number in range(50):
                turns = [
                    {"role": "user", "content": f"tell me {number}"},
                    {"role": "assistant", "content": "the cat sat on the hill"},
                ]
                lines.write(json.dumps({"messages": turns}) + "\n")
        data = str(file)
    online = stage in ("ppo", "rloo")
    steps = STEPS // 4 if online else STEPS
    words = [
        stage, "--data", data, "--model", tiny_model, "--steps", str(steps), "--device", "cpu",
        "--batch-size", "8", "--lr", "1e-3", "--max-length", "64", "--checkpoint-every", "3",
    ]  # fmt: skip
    if online:
        words += ["--reward", reward_model, "--response-length", "8"]
    else:
        words += ["--patience", "100", "--validate-every", "4"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run([*words, "--out", str(whole)])
    words += ["--out", str(parts)]
    told = run_and_kill(words, parts, after=random.Random(stage).randint(1, steps // 2))
    assert told < steps
    run([*words, "--resume"])
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in (whole, parts))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    numbers = [
        json.loads(line)["step"] for line in (parts / "metrics.jsonl").read_text().splitlines()
    ]
    assert numbers == list(range(1, steps + 1))
