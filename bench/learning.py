"""It learns: the whole method on a simulated preference with 15 % noise, over several seeds.

    python bench/learning.py [--seeds 5] [--folder DIR]

The demo's story-teller writes eight stories to each prompt; a simulated rater likes lively ones (the share
of sentences that end in an exclamation mark) and takes the worse of any two for the better with probability
0.15; its rankings go to `python -m trainer compare`: a reward model, then PPO, RLOO and DPO at several
prices of KL, and best-of-n. Policies are judged by the rater's true taste, without noise, on prompts that
nobody trained on: win rate against the start (a tie is half a win), and mean liveliness. Best-of-n's reward
is held against theory: the expected maximum of n draws from the start's rewards on the same prompts.

Prints one JSON object with each seed's figures, means, and 95 % intervals (Student's t). What is there in
--folder is not made again.
"""

import argparse
import contextlib
import io
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from demo import stories
from simulation.preference import liveliness, rank_with_noise
from trainer import compare, generate
from trainer.data.examples import split_of
from trainer.engine.forward import score_texts
from trainer.engine.models import load_frozen_reward_model
from trainer.engine.tokens import Encoder, load_tokenizer
from trainer.settings.compare import CompareConfig
from trainer.settings.generate import GenerateConfig

CHECKOUT = Path(__file__).resolve().parent.parent
NOISE = 0.15
CANDIDATES = 8
MAX_LENGTH, RESPONSE_LENGTH = 256, 110
DRAWS = 64  # of the start, for each prompt of the best-of-n check
NS = (1, 2, 4, 8, 16)
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
# Prices are in rewards as the model gives them, as in the notes.
SETTINGS = """
[reward]
epochs = 2.0
lr = 1e-3
batch_size = 4
[ppo]
steps = 28
lr = 1.5e-4
lam = 1.0
kl_coef = 0.1
normalise_rewards = false
[rloo]
steps = 40
lr = 5e-4
kl_coef = 0.1
normalise_rewards = false
[dpo]
steps = 120
batch_size = 16
lr = 3e-4
beta = 0.1
"""


def messages_of(prompt: str) -> list[dict[str, str]]:
    """A conversation that waits for its story."""
    return [{"role": "user", "content": prompt}]


def make_story_teller(folder: Path) -> Path:
    """The demo's own model, once for all seeds."""
    model = folder / "story-teller" / "model"
    if not model.exists():
        words = [sys.executable, "-m", "demo", "--out", str(model.parent)]
        subprocess.run(
            [*words, "--steps", "500"], check=True, cwd=CHECKOUT, stdout=subprocess.DEVNULL
        )
    return model


def write_responses(
    model: Path, prompts: list[str], out: Path, *, candidates: int, seed: int
) -> list[dict[str, Any]]:
    """Stories of a model to each prompt, in the import format."""
    if not out.exists():
        file = out.with_suffix(".prompts.jsonl")
        file.write_text(
            "".join(json.dumps({"prompt": each, "id": each}) + "\n" for each in prompts)
        )
        generate.main(
            GenerateConfig(
                model=str(model), data=str(file), out=str(out), candidates=candidates, seed=seed,
                device="cpu", batch_size=128, max_length=MAX_LENGTH,
                response_length=RESPONSE_LENGTH,
            )
        )  # fmt: skip
    return [json.loads(line) for line in out.open()]


def rank(rows: list[dict[str, Any]], folder: Path, seed: int) -> float:
    """Write an export of a noisy rater's rankings; the best accuracy that is possible on its test split."""
    source = random.Random(seed)
    files = {split: io.StringIO() for split in ("train", "validation", "test")}
    judged = right = 0
    for row in rows:
        texts = [each["text"] for each in row["candidates"]]
        ranks, pairs, correct = rank_with_noise(
            [liveliness(text) for text in texts], noise=NOISE, source=source
        )
        split = split_of(row["prompt"])
        if split == "test":
            judged, right = judged + pairs, right + correct
        line = {
            "prompt_id": row["id"],
            "messages": row["prompt"],
            "candidates": [{"id": str(n), "text": text} for n, text in enumerate(texts)],
            "rankings": [
                {"rater": "simulated", "ranks": {str(n): each for n, each in enumerate(ranks)}}
            ],
        }
        files[split].write(json.dumps(line) + "\n")
    folder.mkdir(exist_ok=True)
    for split, text in files.items():
        (folder / f"rankings.{split}.jsonl").write_text(text.getvalue())
    return right / judged if judged else float("nan")


def judge_truly(
    model: Path, start: list[dict[str, Any]], prompts: list[str], out: Path, seed: int
) -> dict[str, float]:
    """Win rate against the start by the true taste, and mean liveliness."""
    rows = write_responses(model, prompts, out, candidates=1, seed=seed)
    new, old = (
        [liveliness(each["candidates"][0]["text"]) for each in some] for some in (rows, start)
    )
    wins = [0.5 if a == b else float(a > b) for a, b in zip(new, old, strict=True)]
    return {"true_win_rate": statistics.mean(wins), "liveliness": statistics.mean(new)}


def check_best_of_n(
    reward: Path, start: Path, prompts: list[str], folder: Path, seed: int
) -> list[dict[str, float]]:
    """For each n: the measured mean reward of best-of-n, and the expected maximum by order statistics.

    Half of the draws make the theory (of m draws sorted up, the i-th is the greatest of n with chance
    (C(i, n) - C(i - 1, n)) / C(m, n)); the other half are cut into groups of n and the best of each taken.
    """
    rows = write_responses(
        start, prompts, folder / "draws.jsonl", candidates=DRAWS // 8, seed=seed + 77
    )
    for extra in range(1, 8):
        more = write_responses(
            start, prompts, folder / f"draws-{extra}.jsonl", candidates=DRAWS // 8,
            seed=seed + 77 + extra,
        )  # fmt: skip
        for row, other in zip(rows, more, strict=True):
            row["candidates"] += other["candidates"]
    tokenizer = load_tokenizer(str(reward))
    model = load_frozen_reward_model(str(reward), tokenizer, torch.device("cpu"))
    encoder = Encoder(tokenizer, MAX_LENGTH)
    pairs = [(row["prompt"], each["text"]) for row in rows for each in row["candidates"]]
    rewards = score_texts(model, encoder, pairs).view(len(prompts), DRAWS).double()
    known, fresh = rewards[:, : DRAWS // 2], rewards[:, DRAWS // 2 :]
    known = known.sort(dim=1).values
    size = DRAWS // 2
    found = []
    for n in NS:
        chances = torch.tensor(
            [math.comb(i, n) - math.comb(i - 1, n) for i in range(1, size + 1)],
            dtype=torch.float64,
        ) / math.comb(size, n)
        expected = (known * chances).sum(1)
        measured = fresh.reshape(len(prompts), size // n, n).max(-1).values.mean(1)
        difference = measured - expected
        found.append(
            {
                "n": n,
                "kl_bound": math.log(n) - (n - 1) / n,
                "measured": float(measured.mean()),
                "expected": float(expected.mean()),
                "difference": float(difference.mean()),
                "standard_error": float(difference.std() / len(prompts) ** 0.5),
            }
        )
    return found


def run_seed(folder: Path, start: Path, wanted: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One seed: data, methods, judgement."""
    here = folder / f"seed-{seed}"
    here.mkdir(exist_ok=True)
    done = here / "figures.json"
    if done.exists():
        found: dict[str, Any] = json.loads(done.read_text())
        return found
    told = stories.generate(1000 + seed, 6 * wanted.prompts, held_out=True)
    prompts = list(dict.fromkeys(each.prompt for each in told))[: wanted.prompts + wanted.held_out]
    asked, held_out = prompts[: wanted.prompts], prompts[wanted.prompts :]
    rows = write_responses(
        start, asked, here / "candidates.jsonl", candidates=CANDIDATES, seed=seed
    )
    best_possible = rank(rows, here / "export", seed)
    unseen = here / "held-out.jsonl"
    unseen.write_text("".join(json.dumps({"prompt": each}) + "\n" for each in held_out))
    settings = here / "stages.toml"
    settings.write_text(SETTINGS)
    result = compare.main(
        CompareConfig(
            data=str(here / "export"), model=str(start), out=str(here / "runs"), device="cpu",
            prompts=str(unseen), methods="dpo,ppo,rloo,best-of-n", kl_scales=wanted.kl_scales,
            settings=str(settings), seed=seed, max_length=MAX_LENGTH,
                response_length=RESPONSE_LENGTH,
        )
    )  # fmt: skip
    first = write_responses(start, held_out, here / "start.jsonl", candidates=1, seed=seed + 9)
    for row in result["methods"]:
        if row["kl_price"] is None:
            continue
        base = {"ppo": 0.1, "rloo": 0.1, "dpo": 0.1}[row["method"]]
        factor = row["kl_price"] / base
        name = row["method"] if math.isclose(factor, 1) else f"{row['method']}-{factor:g}"
        row["factor"] = round(factor, 6)
        model = here / "runs" / name / "model"
        out = here / f"{name}.jsonl"
        row.update(judge_truly(model, first, held_out, out, seed + 9))
    reward = here / "runs" / "reward"
    figures = {
        "seed": seed,
        "reward_accuracy": json.loads((reward / "result.json").read_text())["test"]["accuracy"],
        "best_possible_accuracy": best_possible,
        "methods": result["methods"],
        "best_of_n": check_best_of_n(reward / "model", start, held_out[:48], here, seed),
    }
    done.write_text(json.dumps(figures))
    return figures


def interval(values: list[float]) -> dict[str, Any]:
    """The mean, and its 95 % interval."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return {"mean": mean, "interval": None}
    spread = T_95.get(len(values), 2.0) * statistics.stdev(values) / len(values) ** 0.5
    return {"mean": mean, "interval": [mean - spread, mean + spread]}


def summarise(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds, method by method and price by price."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for each in seeds:
        for row in each["methods"]:
            factor = row.get("factor")
            name = row["method"] if factor is None else f"{row['method']} x{factor:g}"
            rows.setdefault(name, []).append(row)
    keys = ("true_win_rate", "win_rate", "liveliness", "reward_mean", "kl")
    return {
        name: {
            key: interval([row[key] for row in some])
            for key in keys
            if some[0].get(key) is not None
        }
        for name, some in rows.items()
    }


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--prompts", type=int, default=320)
    parser.add_argument("--held-out", type=int, default=128)
    parser.add_argument("--kl-scales", default="1,3")
    parser.add_argument("--folder", type=Path, help="where all of it is kept")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = wanted.folder or Path(name)
        folder.mkdir(exist_ok=True, parents=True)
        start = make_story_teller(folder)
        seeds = []
        for seed in range(wanted.first_seed, wanted.first_seed + wanted.seeds):
            with contextlib.redirect_stdout(io.StringIO()):
                seeds.append(run_seed(folder, start, wanted, seed))
    print(json.dumps({"seeds": seeds, "summary": summarise(seeds)}))


if __name__ == "__main__":
    main()
