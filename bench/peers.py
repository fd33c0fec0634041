"""The reward model and DPO beside TRL's, on the same weights, data, batch and cores.

    python bench/peers.py [--runs 3] [--steps 30] [--venv DIR]

First the losses of the first step, which must be equal; then training speed (tokens that are no padding, a
second) and the peak of memory, in runs that alternate. TRL lives in an environment of its own that this
makes (kept in --venv, if given). Both sides train one-million-parameter Llama-style models on stories, in
float32, with AdamW, each by its own loop. Prints one JSON object; medians and ratios (ours to TRL's).
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
TRL = ("trl==1.16.0", "transformers>=5.23,<6", "accelerate==1.15.0", "torch>=2.9,<2.14")
PAIRS = 512
MAX_LENGTH = 512
BETA = 0.1


def make_environment(folder: Path, packages: Sequence[str] = TRL) -> Path:
    """A virtual environment with these packages in it; its Python."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        install = [str(python), "-m", "pip", "install", "--quiet", *packages]
        subprocess.run(install, check=True, stdout=sys.stderr)
    return python


def prepare(folder: Path, sft_steps: int = 20) -> None:
    """A story-teller, a reward model and a reference made of it, and comparisons of stories."""
    from demo import stories

    words = [
        sys.executable,
        "-m",
        "demo",
        "--out",
        str(folder / "tiny"),
        "--steps",
        str(sft_steps),
    ]
    subprocess.run(words, check=True, cwd=HERE.parent, stdout=sys.stderr, stderr=sys.stderr)
    derive_models(str(folder / "tiny" / "model"), folder)
    told = stories.generate(3, 2 * PAIRS)
    with (folder / "pairs.jsonl").open("w") as file:
        for one, other in zip(told[::2], told[1::2], strict=True):
            row = {
                "prompt": [{"role": "user", "content": one.prompt}],
                "chosen": [{"role": "assistant", "content": one.response}],
                "rejected": [{"role": "assistant", "content": other.response}],
            }
            file.write(json.dumps(row) + "\n")
    rows = (folder / "pairs.jsonl").read_text().splitlines(keepends=True)
    (folder / "first.jsonl").write_text("".join(rows[:16]))


def derive_models(model: str, folder: Path) -> None:
    """The policy, a reward model of its trunk, and a reference a little away from it."""
    import torch

    from trainer.engine.models import load_policy, load_reward_model
    from trainer.engine.tokens import load_tokenizer
    from trainer.run.artifacts import save_model

    tokenizer, cpu = load_tokenizer(model), torch.device("cpu")
    save_model(load_policy(model, tokenizer, cpu), tokenizer, folder / "policy")
    save_model(load_reward_model(model, tokenizer, cpu, seed=0), tokenizer, folder / "reward")
    reference = load_policy(model, tokenizer, cpu)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in reference.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.02)
    save_model(reference, tokenizer, folder / "reference")


def run_own(job: dict[str, Any]) -> dict[str, Any]:  # noqa: PLR0915 - one straight run
    """What bench/peer_trl.py measures, of our own stages: the same loop as theirs in the trainer."""
    import torch

    from trainer import dpo, reward
    from trainer.data.files import read_rankings
    from trainer.engine.batches import Batches
    from trainer.engine.distributed import Processes
    from trainer.engine.fit import Learner
    from trainer.engine.models import load_policy, load_reward_model
    from trainer.engine.prepare import prepare_model
    from trainer.engine.tokens import Encoder, load_tokenizer
    from trainer.formulas.schedules import linear_to_zero
    from trainer.settings.dpo import DPOConfig
    from trainer.settings.reward import RewardConfig

    torch.set_num_threads(job["threads"])
    cpu = torch.device("cpu")
    processes = Processes(cpu)
    data = read_rankings(job["data"])
    rankings = [each for split in data.splits.values() for each in split]
    tokenizer = load_tokenizer(job["model"])
    encoder = Encoder(tokenizer, job["max_length"])
    pad = tokenizer.pad_token_id
    plain = {"data": "", "model": "", "out": "", "batch_size": job["batch_size"]}
    ahead = 0.0
    if job["what"] == "reward":
        model: Any = load_reward_model(job["model"], tokenizer, cpu, seed=0)
        config: Any = RewardConfig(**plain, weight_decay=0.0)
        rows: list[Any] = [reward.encode(encoder, each) for each in rankings]
        prompt, responses = rows[0].groups[0]
        ids = {"chosen_ids": [*prompt, *responses[0]], "rejected_ids": [*prompt, *responses[1]]}
        lengths = [each.size for each in rows]
        # TRL reads the prompt once for each side: those are the tokens that speed is told in.
        tokens_of = [len(row.groups[0][0]) + row.size for row in rows]

        def loss_of(model: Any, some: Any) -> Any:
            return reward.sum_losses(model, some, pad, config)

        learner: Any = Learner(
            model, config, processes, lr=job["lr"], sum_losses=loss_of,
            weight_of=lambda example: example.ranking.weight,
        )  # fmt: skip
    else:
        model = load_policy(job["model"], tokenizer, cpu)
        config = DPOConfig(**plain, beta=job["beta"])
        pairs = dpo.to_pairs(encoder, rankings)
        reference = load_policy(job["reference"], tokenizer, cpu)
        prepare_model(reference, config, processes, trainable=False)
        started = time.perf_counter()
        rows = dpo.with_reference(reference, pairs, pad)
        ahead = time.perf_counter() - started
        ids = {"prompt_ids": rows[0].chosen[0], "chosen_ids": rows[0].chosen[1]}
        lengths = [*map(dpo.count_tokens, rows)]
        tokens_of = [len(pair.chosen[0]) + dpo.count_tokens(pair) for pair in rows]

        def loss_of(model: Any, some: Any) -> Any:
            return dpo.sum_losses(model, some, pad, config)

        learner = Learner(
            model, config, processes, lr=job["lr"], sum_losses=loss_of,
            weight_of=lambda pair: pair.weight,
        )  # fmt: skip

    losses, tokens = [], 0
    order = Batches(len(rows), job["batch_size"], seed=0, lengths=lengths)
    started = time.perf_counter()
    for step in range(1, job["steps"] + 1):
        chosen = order(step)
        rate = job["lr"] * linear_to_zero(step, job["steps"])
        losses.append(learner.training_step([rows[index] for index in chosen], lr=rate)["loss"])
        tokens += sum(tokens_of[index] for index in chosen)
    seconds = time.perf_counter() - started
    # The reference's part of the work, for the pairs that were trained on.
    seconds += ahead * job["steps"] * job["batch_size"] / len(rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "losses": losses, "seconds": seconds, "peak_mib": peak, "first_ids": ids,
        "tokens_a_step": tokens / job["steps"],
    }  # fmt: skip


def measure(python: Path, script: list[str], job: dict[str, Any]) -> dict[str, Any]:
    """One run in a process of its own; the JSON object in its last line."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(job["threads"]),
        # As `python -m trainer` sets them; they help both sides.
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "10000",
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(
        [str(python), *script], input=json.dumps(job), capture_output=True, text=True,
        check=False, env=environment, cwd=HERE.parent,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr[-4000:])
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def compare(peer: Path, folder: Path, wanted: argparse.Namespace, what: str) -> dict[str, Any]:
    """First losses, and the speed of alternating runs."""
    job = {
        "what": what, "model": str(folder / ("reward" if what == "reward" else "policy")),
        "reference": str(folder / "reference"), "data": str(folder / "first.jsonl"),
        "batch_size": 16, "steps": 1, "max_length": MAX_LENGTH, "lr": 1e-4, "beta": BETA,
        "threads": wanted.threads, "out": str(folder / "out"),
    }  # fmt: skip
    sides = {
        "own": (Path(sys.executable), [str(HERE / "peers.py"), "--own"]),
        "trl": (peer, [str(HERE / "peer_trl.py")]),
    }
    first = {name: measure(*side, job) for name, side in sides.items()}
    job |= {"data": str(folder / "pairs.jsonl"), "steps": wanted.steps}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for _ in range(wanted.runs):
        for name, side in sides.items():
            runs[name].append(measure(*side, job))
    # TRL's batches are drawn otherwise: the same data on the whole, the same tokens a step on average.
    tokens = statistics.mean(run["tokens_a_step"] for run in runs["own"]) * wanted.steps
    speed = {
        name: statistics.median(tokens / run["seconds"] for run in several)
        for name, several in runs.items()
    }
    peaks = {
        name: statistics.median(run["peak_mib"] for run in several)
        for name, several in runs.items()
    }
    one, other = (first[name]["losses"][0] for name in sides)
    return {
        "first_loss": {"own": one, "trl": other, "difference": abs(one - other)},
        "same_tokens": first["own"]["first_ids"]["chosen_ids"]
        in first["trl"]["first_ids"].values(),
        "tokens_per_second": speed,
        "ratio": speed["own"] / speed["trl"],
        "peak_mib": peaks,
        "peak_ratio": peaks["own"] / peaks["trl"],
    }


def main() -> None:
    """Run it."""
    if sys.argv[1:] == ["--own"]:
        print(json.dumps(run_own(json.load(sys.stdin))))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--venv", type=Path, help="where TRL's environment is, or is made")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peer = make_environment(wanted.venv or folder / "trl")
        prepare(folder)
        load = os.getloadavg()[0]
        found = {what: compare(peer, folder, wanted, what) for what in ("reward", "dpo")}
        print(json.dumps(found | {"load_before": load, "python": platform.python_version()}))


if __name__ == "__main__":
    main()
