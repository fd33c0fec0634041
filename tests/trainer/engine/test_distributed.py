"""Several processes train as one does: the same losses, the same weights, one run directory; or they are
refused at the start, in one line."""

import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.conftest import make_tiny_model, write_rankings
from tests.trainer.processes import CHECKOUT, Group, make_run
from trainer import ppo
from trainer.engine.distributed import Processes
from trainer.settings.ppo import PPOConfig

Rows = list[dict[str, Any]]
# What says how fast a run was, or how it was laid out.
OF_THE_MACHINE = {"tokens_per_second"}


@pytest.fixture(scope="module")
def group_of() -> Iterator[Callable[[int], Group]]:
    """Groups of processes, started when they are first wanted."""
    groups: dict[int, Group] = {}

    def get(count: int) -> Group:
        if count not in groups:
            groups[count] = Group(count)
        return groups[count]

    yield get
    for group in groups.values():
        group.end()


def rows_of(out: Path) -> Rows:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def train(words: list[str], out: Path, group: Group | None = None) -> Rows:
    """A run of the trainer, as one process or several; its metrics."""
    asked = [*words, "--out", str(out), "--device", "cpu"]
    replies = [make_run(asked)] if group is None else group.run(asked)
    for reply in replies:
        assert reply.code == 0, reply.err[-6000:]
    result = json.loads(replies[0].out.strip().splitlines()[-1])
    assert result == json.loads((out / "result.json").read_text())
    assert not any(reply.out for reply in replies[1:])
    return rows_of(out)


def weights(out: Path) -> torch.Tensor:
    from safetensors.torch import load_file

    state = load_file(out / "model" / "model.safetensors")
    return torch.cat([state[name].flatten() for name in sorted(state)])


def check_same(one: Path, other: Path, *, steps: int = 3) -> None:
    first, second = rows_of(one), rows_of(other)
    assert len(first) == len(second) == steps
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - OF_THE_MACHINE:
            assert a[name] == pytest.approx(b[name], abs=2e-5, rel=1e-4), (a["step"], name)
    assert torch.allclose(weights(one), weights(other), atol=2e-5)
    assert held_out(one) == pytest.approx(held_out(other), abs=1e-4)


def held_out(out: Path) -> dict[str, float]:
    """The figures on prompts or rows that the run never trained on."""
    result = json.loads((out / "result.json").read_text())
    figures = result.get("held_out") or result.get("validation") or {}
    return {name: each for name, each in figures.items() if isinstance(each, float)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Data, a model, and a reward model that a single process has made of them."""
    folder = tmp_path_factory.mktemp("processes")
    model = make_tiny_model(folder / "model", width=16)
    data = str(write_rankings(folder / "rankings.jsonl", prompts=40))
    demonstrations = folder / "demonstrations.jsonl"
    with demonstrations.open("w") as lines:
        for number in range(30):
            said = " ".join(
                ["the cat sat", "a dog ran on the hill", "yes", "no sun"][: number % 4 + 1]
            )
            messages = [
                {"role": "user", "content": f"tell me story {number}"},
                {"role": "assistant", "content": said},
            ]
            lines.write(json.dumps({"messages": messages}) + "\n")
    train(
        ["reward", "--data", data, "--model", model, "--lr", "3e-3", "--steps", "6",
         "--max-length", "64"],
        folder / "reward",
    )  # fmt: skip
    return {
        "model": model,
        "data": data,
        "demonstrations": str(demonstrations),
        "reward": str(folder / "reward" / "model"),
    }


def words_for(
    stage: str, files: dict[str, str], *more: str, steps: int = 3, batch: int = 8
) -> list[str]:
    """A short run of a stage."""
    data = files["demonstrations"] if stage == "sft" else files["data"]
    words = [stage, "--data", data, "--model", files["model"], "--steps", str(steps)]
    words += ["--batch-size", str(batch), "--lr", "1e-3", "--max-length", "64"]
    if stage in ("ppo", "rloo"):
        words += ["--reward", files["reward"], "--response-length", "8"]
    if stage == "ppo":
        words += ["--ptx-coef", "0.5", "--ptx-data", files["demonstrations"]]
    return [*words, *more]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "ppo", "rloo"])
def test_two_processes_give_the_losses_of_one(
    files: dict[str, str], tmp_path: Path, group_of: Callable[[int], Group], stage: str
) -> None:
    words = words_for(stage, files)
    train(words, tmp_path / "one")
    train(words, tmp_path / "two", group_of(2))
    check_same(tmp_path / "one", tmp_path / "two")
    # The weights of the layers divided: the same again.
    train([*words, "--shard"], tmp_path / "divided", group_of(2))
    check_same(tmp_path / "one", tmp_path / "divided")


@pytest.mark.slow
def test_a_divided_run_with_adapters_resumes_where_it_was(
    files: dict[str, str], tmp_path: Path, group_of: Callable[[int], Group]
) -> None:
    words = words_for("dpo", files, "--lora-rank", "4", "--checkpoint-every", "2")
    train(words, tmp_path / "whole")
    divided = tmp_path / "divided"
    train([*words, "--shard"], divided, group_of(2))
    (divided / "checkpoints" / "step-00000003" / "state.pt").unlink()
    train([*words, "--shard", "--resume"], divided, group_of(2))
    check_same(tmp_path / "whole", divided)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_a_run_goes_on_with_another_number_of_processes(
    files: dict[str, str], tmp_path: Path, group_of: Callable[[int], Group], stage: str
) -> None:
    words = words_for(stage, files, "--checkpoint-every", "2", "--shard", batch=6)
    train(words, tmp_path / "whole")
    train(words, tmp_path / "three", group_of(3))
    for then in (None, group_of(2)):
        shutil.copytree(tmp_path / "three", tmp_path / "moved")
        (tmp_path / "moved" / "checkpoints" / "step-00000003" / "state.pt").unlink()
        train([*words, "--resume"], tmp_path / "moved", then)
        check_same(tmp_path / "whole", tmp_path / "moved")
        shutil.rmtree(tmp_path / "moved")


# --- every combination works, or is refused at the start

Case = tuple[int, str, int, tuple[str, ...]]  # processes, stage, batch, flags
SEEN: list[Case] = [
    # An index was out of range, processes waited for each other for ever, wrong rows were learnt from.
    (2, "ppo", 4, ("--minibatches", "4")),
    (2, "ppo", 6, ("--minibatches", "2", "--micro-batch", "1", "--shard")),
    (2, "ppo", 2, ("--minibatches", "2")),
    (3, "ppo", 3, ("--minibatches", "3", "--shard")),
    (3, "rloo", 6, ("--responses", "2", "--micro-batch", "1", "--shard")),
    (3, "ppo", 4, ("--minibatches", "2")),
]


def draw_case(source: random.Random) -> Case:
    """A combination that nobody thought of."""
    processes = source.choice((2, 3))
    batch = processes * source.randint(1, 4) + (source.random() < 0.15)
    stage = source.choice(("ppo", "ppo", "ppo", "rloo", "sft", "reward", "dpo"))
    flags = ["--micro-batch", str(source.randint(1, 4))] if source.random() < 0.7 else []
    flags += ["--shard"] if source.random() < 0.5 else []
    flags += ["--lora-rank", "2"] if source.random() < 0.2 else []
    flags += ["--gradient-checkpointing"] if source.random() < 0.1 else []
    if stage == "ppo":
        whole = [each for each in range(1, batch + 1) if batch % each == 0]
        flags += ["--minibatches", str(source.choice(whole)), "--ppo-epochs", "2"]
    if stage == "rloo":
        flags += ["--responses", str(source.choice((2, 3)))]
    return processes, stage, batch, tuple(flags)


@pytest.mark.slow
def test_every_combination_works_as_one_process_or_is_refused_at_the_start(
    files: dict[str, str], tmp_path: Path, group_of: Callable[[int], Group]
) -> None:
    source = random.Random(11)
    worked = refused = 0
    for number, case in enumerate([*SEEN, *(draw_case(source) for _ in range(16))]):
        processes, stage, batch, flags = case
        words = words_for(stage, files, *flags, steps=1, batch=batch)
        one, several = tmp_path / f"{number}-one", tmp_path / f"{number}-several"
        replies = group_of(processes).run([*words, "--out", str(several), "--device", "cpu"])
        if replies[0].code == 2:
            refused += 1
            assert {reply.code for reply in replies} == {2}, case
            said = "".join(reply.err for reply in replies).splitlines()
            assert len(said) == 1, case
            assert "--batch-size" in said[0]
            assert not several.exists()
            continue
        worked += 1
        assert [reply.code for reply in replies] == [0] * processes, (case, replies)
        # Neither micro-batches nor shards change a figure.
        alone = [each for each in words if each not in ("--shard", "--micro-batch")]
        if "--micro-batch" in words:
            del alone[words.index("--micro-batch")]
        train(alone, one)
        check_same(one, several, steps=1)
    assert worked > 12
    assert refused > 2


def test_a_micro_batch_changes_no_figure(files: dict[str, str], tmp_path: Path) -> None:
    words = words_for("ppo", files, "--ppo-epochs", "2", steps=1)
    train(words, tmp_path / "whole")
    train([*words, "--micro-batch", "1"], tmp_path / "small")
    check_same(tmp_path / "whole", tmp_path / "small", steps=1)


def test_the_ratios_variance_is_over_all_tokens(files: dict[str, str], tmp_path: Path) -> None:
    """Two rows of ratios 1 + e and 1 - e vary, though neither does in itself; a common factor does not."""
    config = PPOConfig(
        data="", model=files["model"], reward=files["reward"], out="", batch_size=2, minibatches=1,
        ppo_epochs=1, response_length=4, max_length=64, micro_batch=1, lr=1e-9, device="cpu",
    )  # fmt: skip
    trainer = ppo.PPOTrainer(config, Processes(torch.device("cpu")))
    prompts = [[{"role": "user", "content": f"tell me story {word}"}] for word in ("cat", "dog")]
    experience = trainer.collect(prompts)
    lengths = experience.rollout.response_mask.sum(-1, keepdim=True)
    for shifts in ([0.1, -0.1], [0.2, 0.2]):
        ratios = (
            torch.tensor(shifts)[:, None]
            .exp()
            .expand(-1, 4)[torch.arange(4).expand(2, -1) < lengths]
        )
        moved = dataclasses.replace(
            experience, logprobs=experience.logprobs - torch.tensor(shifts)[:, None]
        )
        figures = trainer.minibatch_step(moved, torch.arange(2))
        assert figures["ratio"] == pytest.approx(float(ratios.mean()), abs=1e-5)
        assert figures["ratio_var"] == pytest.approx(float(ratios.var(correction=0)), abs=1e-5)


# --- memory, and failures


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["ppo", "dpo"])
def test_no_two_models_are_whole_at_once(
    files: dict[str, str], tmp_path: Path, group_of: Callable[[int], Group], stage: str
) -> None:
    words = words_for(stage, files, "--shard", "--out", str(tmp_path / "run"), "--device", "cpu")
    for reply in group_of(2).run(["whole", *words]):
        assert reply.code == 0, reply.err[-3000:]
        seen = json.loads(reply.out)
        assert len(seen) == {"ppo": 4, "dpo": 2}[stage]
        assert max(seen) == 1, seen


@pytest.mark.slow
def test_processes_that_were_given_different_settings_are_refused(
    files: dict[str, str], tmp_path: Path, group_of: Callable[[int], Group]
) -> None:
    words = words_for("sft", files, "--out", str(tmp_path / "run"), "--device", "cpu")
    replies = group_of(2).run_each([[*words, "--seed", "1"], [*words, "--seed", "2"]])
    assert [reply.code for reply in replies] == [2, 2]
    lines = "".join(reply.err for reply in replies).splitlines()
    said = [each for each in lines if each.startswith("trainer")]
    assert len(said) == 1
    assert "given different seed" in said[0]
    assert not (tmp_path / "run").exists()


def launch(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    launcher, *rest = words
    return subprocess.run(
        [str(Path(sys.executable).with_name(launcher)), *rest],
        cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.mark.slow
def test_accelerate_starts_several_processes_of_one_run(
    files: dict[str, str], tmp_path: Path
) -> None:
    words = words_for("sft", files)
    # `--multi_gpu` means: start them as torchrun does; on a CPU they meet over gloo.
    done = launch(
        "accelerate", "launch", "--multi_gpu", "--num_machines", "1", "--main_process_port", "0",
        "--num_processes", "2", "--module", "trainer", *words, "--out", str(tmp_path / "two"),
        "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    train(words, tmp_path / "one")
    check_same(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_what_ends_one_process_ends_all_and_is_said_once(
    files: dict[str, str], tmp_path: Path
) -> None:
    for rank in ("0", "1"):
        shutil.copy(files["demonstrations"], tmp_path / f"{rank}.jsonl")
    (tmp_path / "1.jsonl").write_text("{broken\n")
    words = words_for("sft", files | {"demonstrations": str(tmp_path / "$RANK.jsonl")})
    command = " ".join([sys.executable, "-m", "trainer", *words, "--out", str(tmp_path / "run")])
    done = launch(
        "torchrun", "--standalone", "--nproc-per-node", "2", "--no-python",
        "bash", "-c", f"exec {command} --device cpu",
    )  # fmt: skip
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("trainer sft:")]
    assert len(said) == 1, said
    assert "1.jsonl" in said[0]
    assert "trainer/sft.py" not in done.stderr  # nobody's traceback
    assert not (tmp_path / "run").exists()


def test_one_process_is_all_of_them() -> None:
    alone = Processes(torch.device("cpu"))
    assert alone.first
    assert alone.share([1, 2, 3]) == [1, 2, 3]
    assert alone.parts([1, 2, 3], 2, divided=True) == [([1, 2], 1.0), ([3], 1.0)]
    assert alone.all_gather([1, 2, 3]) == [1, 2, 3]
    assert alone.mean(0.1) == 0.1
    assert alone.any(True)
    assert not alone.any(False)
    values = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    values.grad = torch.tensor([3.0, 4.0])
    assert alone.clip_grad_norm([values], 1.0) == pytest.approx(5.0)
    assert float(values.grad.norm()) == pytest.approx(1.0, abs=1e-5)
    assert alone.clip_grad_norm([values], 2.0) == pytest.approx(1.0, abs=1e-5)
    assert float(values.grad.norm()) == pytest.approx(1.0, abs=1e-5)  # short ones are left alone
