"""PPO beside TRL's, on the same weights, prompts, batch and cores.

    python bench/peers_ppo.py [--runs 3] [--updates 5] [--sft-steps 500 --length 110] [--venv DIR]
    python bench/peers_ppo.py --pairs pairs.jsonl.gz

First the losses of four optimiser steps on the same responses, which must be equal where both mean the
same; then episodes a second and the peak of memory, in runs that alternate, each in a process of its own.
TRL 1.12.0, the last release that had PPO, lives in an environment of its own that this makes (kept in
--venv, if given). Both sides train one-million-parameter Llama-style models in float32: a story-teller on
story prompts, which are short and nearly of one length, or with `--pairs` a model that was fine-tuned on a
file of comparisons, on the conversations of that file. Prints one JSON object; medians, and ratios of ours
to TRL's.

The first step's policy loss is 0 on both sides by what it is: the mean of whitened advantages. Later steps'
are not.

What the cases of the first part hold:

  full        every response has its end token in the very last place. Here both mean the same.
  whitened    the same, with whitened rewards: TRL divides by the unbiased variance, ours by the biased.
  whitened_alike  the same, TRL made to take the biased variance.
  early       responses end somewhere: TRL puts the score behind the end token and learns a value there too,
              ours puts it on the end token, which is the last thing that the policy did.
  cut         no response ended: ours reads the reward behind an end token that it puts there, as the reward
              model was trained to read; TRL reads it at the last sampled token.
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
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.peers import HERE, derive_models, make_environment, measure
from bench.peers import prepare as prepare_stories

PACKAGES = ("torch==2.13.0", "trl==1.12.0", "transformers>=5.23,<6", "accelerate==1.15.0")
PROMPTS = 512
MAX_LENGTH = 512
LENGTH = 53  # TRL's default length of a response
EPOCHS = 4
MICRO_BATCHES = (8, 16)  # besides the whole batch
CASES: dict[str, dict[str, Any]] = {
    "full": {"kind": "full", "whiten_rewards": False, "biased_variance": False},
    "whitened": {"kind": "full", "whiten_rewards": True, "biased_variance": False},
    "whitened_alike": {"kind": "full", "whiten_rewards": True, "biased_variance": True},
    "early": {"kind": "early", "whiten_rewards": False, "biased_variance": False},
    "cut": {"kind": "cut", "whiten_rewards": False, "biased_variance": False},
}


def story_prompts(folder: Path, wanted: argparse.Namespace) -> list[Any]:
    """Models that tell stories, and prompts for them."""
    from demo import stories

    prepare_stories(folder, wanted.sft_steps)
    told = dict.fromkeys(each.prompt for each in stories.generate(4, 2 * PROMPTS))
    return [[{"role": "user", "content": prompt}] for prompt in list(told)[:PROMPTS]]


def conversations(folder: Path, wanted: argparse.Namespace) -> list[Any]:
    """Models that were fine-tuned on a file of comparisons, and its conversations."""
    from bench.hh_pairs import fine_tune, make_model
    from trainer.data.files import read_rankings

    data = read_rankings(wanted.pairs)
    make_model(data, folder / "model", seed=0, width=192)
    fine_tune(wanted.pairs, folder, seed=0, epochs=6)
    derive_models(str(folder / "sft" / "model"), folder)
    found = {json.dumps(each.messages): each.messages for each in data["train"]}
    return list(found.values())[:PROMPTS]


def prepare(folder: Path, wanted: argparse.Namespace) -> None:
    """Models, prompts, and for the first of them responses that end last, early, and never."""
    import torch

    from trainer.engine.models import load_policy
    from trainer.engine.tokens import Encoder, load_tokenizer
    from trainer.rl.rollout import sample

    batch_size, length = wanted.batch_size, wanted.length
    prompts = (conversations if wanted.pairs else story_prompts)(folder, wanted)
    tokenizer = load_tokenizer(str(folder / "policy"))
    encoder = Encoder(tokenizer, MAX_LENGTH)
    rows = [
        {"messages": messages, "ids": encoder.prompt(messages, MAX_LENGTH - length)}
        for messages in prompts
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = rows[:batch_size]
    (folder / "first.jsonl").write_text("".join(json.dumps(row) + "\n" for row in first))
    stream = torch.Generator().manual_seed(0)
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    policy = load_policy(str(folder / "policy"), tokenizer, torch.device("cpu"))
    drawn = sample(
        policy, [row["ids"] for row in first], length=length, temperature=1.0, end=-1, pad=pad,
        stream=stream,
    ).response  # fmt: skip
    # An end token that was drawn on the way becomes another token, so that the cases are what they say.
    other = tokenizer(".", add_special_tokens=False)["input_ids"][0]
    drawn[(drawn == end) | (drawn == pad)] = other
    full, early = drawn.clone(), drawn.clone()
    full[:, -1] = end
    for row, last in enumerate(torch.randint(5, length, (batch_size,), generator=stream).tolist()):
        early[row, last] = end
        early[row, last + 1 :] = pad
    for name, responses in (("full", full), ("early", early), ("cut", drawn)):
        (folder / f"{name}.json").write_text(json.dumps(responses.tolist()))


def run_own(job: dict[str, Any]) -> dict[str, Any]:
    """What bench/peer_trl_ppo.py measures, of our own stage: updates of the trainer's own loop."""
    import torch

    from trainer.engine.batches import Batches
    from trainer.engine.distributed import Processes
    from trainer.engine.models import make_repeatable
    from trainer.engine.tokens import load_tokenizer, pad_left
    from trainer.ppo import PPOTrainer
    from trainer.rl.rollout import Rollout
    from trainer.settings.ppo import PPOConfig

    torch.set_num_threads(job["threads"])
    make_repeatable(0, torch.device("cpu"))  # as a run of the trainer does
    tokenizer = load_tokenizer(job["policy"])
    rows = [json.loads(line) for line in Path(job["prompts"]).read_text().splitlines()]
    given = json.loads(Path(job["responses"]).read_text()) if job["responses"] else None
    prompts_of = [json.dumps(row["messages"]) for row in rows]
    responses = dict(zip(prompts_of, given, strict=True)) if given else {}
    steps: list[list[float]] = []
    spent: dict[str, float] = {}

    class Watched(PPOTrainer):
        """Our trainer, with a look at the clock between its parts; responses are given or drawn."""

        def roll_out(self, prompts: Any, stream: torch.Generator) -> Rollout:
            started = time.perf_counter()
            rollout = super().roll_out(prompts, stream) if given is None else self.look_up(prompts)
            spent["sampling"] = time.perf_counter() - started
            return rollout

        def update_policy(self, experience: Any) -> dict[str, float]:
            started = time.perf_counter()
            figures = super().update_policy(experience)
            spent["update"] = time.perf_counter() - started
            return figures

        def minibatch_step(self, experience: Any, rows: torch.Tensor) -> dict[str, float]:
            figures = super().minibatch_step(experience, rows)
            steps.append([figures["policy_loss"], figures["value_loss"]])
            return figures

        def look_up(self, prompts: Any) -> Rollout:
            pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
            encoded = [
                self.encoder.prompt(messages, self.max_prompt_tokens) for messages in prompts
            ]
            ids, mask = pad_left(encoded, pad, torch.device("cpu"))
            response = torch.tensor([responses[json.dumps(messages)] for messages in prompts])
            written = (response != pad).long()
            return Rollout(
                ids=torch.cat([ids, response], dim=1),
                mask=torch.cat([mask, written], dim=1),
                response=response,
                response_mask=written,
                ended=(response == end).any(-1),
            )

    trainer = Watched(
        PPOConfig(
            data="", model=job["policy"], reference=job["reference"], reward=job["reward"], out="",
            batch_size=job["batch_size"], minibatches=1,
            ppo_epochs=job["epochs"], response_length=job["length"], max_length=MAX_LENGTH,
            temperature=job["temperature"], missing_eos_penalty=job["missing_eos_penalty"],
            whiten_rewards=job["whiten_rewards"], kl_coef=job["kl_coef"], clip=job["clip"],
            value_clip=job["value_clip"], gamma=job["gamma"], lam=job["lam"], lr=job["lr"],
            normalise_rewards=False, max_grad_norm=1e9,  # TRL's PPO shortens no gradients
            device="cpu",
        ),
        Processes(torch.device("cpu")),
    )  # fmt: skip
    order = Batches(len(rows), job["batch_size"], seed=0)
    splits, lengths = [], []
    for number in range(1, job["updates"] + 1):
        started, cpu = time.perf_counter(), time.process_time()
        prompts = [rows[index]["messages"] for index in order(number)]
        figures = trainer.update(prompts, number, job["updates"])
        spent |= {"all": time.perf_counter() - started, "cpu": time.process_time() - cpu}
        spent["scoring"] = spent["all"] - spent["sampling"] - spent["update"]
        splits.append(dict(spent))
        lengths.append(figures["response_length"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "steps": steps[: job["epochs"]], "splits": splits, "peak_mib": peak,
        "response_length": statistics.mean(lengths),
    }  # fmt: skip


def make_job(folder: Path, wanted: argparse.Namespace) -> dict[str, Any]:
    """What both sides are asked, but for the case."""
    return {
        "threads": wanted.threads, "policy": str(folder / "policy"),
        "reference": str(folder / "reference"), "reward": str(folder / "reward"),
        "prompts": str(folder / "first.jsonl"), "responses": None, "batch_size": wanted.batch_size,
        "updates": 1, "epochs": EPOCHS, "length": wanted.length, "temperature": 1.0,
        "missing_eos_penalty": 1.0, "whiten_rewards": False, "biased_variance": False,
        "kl_coef": 0.05, "clip": 0.2, "value_clip": 0.2, "gamma": 1.0, "lam": 0.95, "lr": 1e-4,
        "out": str(folder / "out"),
    }  # fmt: skip


Sides = dict[str, tuple[Path, list[str]]]


def compare_losses(sides: Sides, folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    """Each case's (policy loss, value loss) of the first update's optimiser steps, and their distances."""
    found = {}
    for name, case in CASES.items():
        asked = job | case | {"responses": str(folder / f"{case['kind']}.json")}
        own, trl = (measure(*side, asked)["steps"] for side in sides.values())
        apart = [
            [abs(a - b) for a, b in zip(*pair, strict=True)] for pair in zip(own, trl, strict=True)
        ]
        found[name] = {
            "own": own, "trl": trl,
            "first_step_apart": {"policy": apart[0][0], "value": apart[0][1]},
            "most_apart": {"policy": max(p for p, _ in apart), "value": max(v for _, v in apart)},
        }  # fmt: skip
    return found


def middle(run: dict[str, Any]) -> dict[str, float]:
    """A run's median seconds of an update and of its parts; the first update warms up.

    `cpu` are the seconds of all threads together: other work on the machine changes them less.
    """
    later = run["splits"][1:]
    names = ("all", "sampling", "scoring", "update", "cpu")
    return {name: statistics.median(each[name] for each in later) for name in names}


def best_micro_batch(side: tuple[Path, list[str]], job: dict[str, Any]) -> dict[str, float]:
    """TRL's median seconds of an update by episodes in a forward pass, the best first."""
    sizes = {job["batch_size"], *(each for each in MICRO_BATCHES if each < job["batch_size"])}
    found = {
        str(size): middle(measure(*side, job | {"micro_batch": size}))["all"]
        for size in sorted(sizes)
    }
    return dict(sorted(found.items(), key=lambda pair: pair[1]))


def compare_speed(sides: Sides, job: dict[str, Any], runs: int) -> dict[str, Any]:
    """Episodes a second, seconds of an update's parts, and memory, of alternating runs.

    Ours cuts a batch for itself; TRL gets the number of episodes in a pass that is best for it here.
    """
    tried = best_micro_batch(sides["trl"], job)
    job = job | {"micro_batch": int(next(iter(tried)))}
    made: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for _ in range(runs):
        for name, side in sides.items():
            made[name].append(measure(*side, job))
    seconds = {name: [middle(run) for run in several] for name, several in made.items()}
    rates = {
        name: [job["batch_size"] / each["all"] for each in several]
        for name, several in seconds.items()
    }
    speed = {name: statistics.median(several) for name, several in rates.items()}
    parts = {
        name: {part: statistics.median(each[part] for each in several) for part in several[0]}
        for name, several in seconds.items()
    }
    peaks = {
        name: statistics.median(run["peak_mib"] for run in several)
        for name, several in made.items()
    }
    return {
        "trl_seconds_by_micro_batch": tried,
        "episodes_per_second": speed,
        "runs": rates,
        "ratio": speed["own"] / speed["trl"],
        "seconds_of_an_update": parts,
        "cpu_ratio": parts["trl"]["cpu"] / parts["own"]["cpu"],
        "response_length": statistics.mean(run["response_length"] for run in made["own"]),
        "peak_mib": peaks,
        "peak_ratio": peaks["own"] / peaks["trl"],
    }


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--updates", type=int, default=5, help="of a run; the first warms up")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--sft-steps",
        type=int,
        default=20,
        help="of the policy before: after 500 it ends by itself",
    )
    parser.add_argument(
        "--length", type=int, default=LENGTH, help="the longest response, in tokens"
    )
    parser.add_argument("--pairs", help="comparisons whose conversations are the prompts")
    parser.add_argument("--venv", type=Path, help="where TRL's environment is, or is made")
    parser.add_argument("--part", choices=("losses", "speed"), help="only this part")
    parser.add_argument("--own", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.own:
        print(json.dumps(run_own(json.load(sys.stdin))))
        return
    if wanted.prepare:
        prepare(wanted.prepare, wanted)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peer = make_environment(wanted.venv or folder / "trl", PACKAGES)
        # In a process of its own: a child's peak of memory begins at what its parent held.
        script = str(HERE / "peers_ppo.py")
        subprocess.run(
            [sys.executable, script, *sys.argv[1:], "--prepare", name],
            check=True,
            stdout=sys.stderr,
        )
        sides = {
            "own": (Path(sys.executable), [script, "--own"]),
            "trl": (peer, [str(HERE / "peer_trl_ppo.py")]),
        }
        job = make_job(folder, wanted)
        found: dict[str, Any] = {"load_before": os.getloadavg()[0]}
        if wanted.part != "speed":
            found["losses"] = compare_losses(sides, folder, job)
        if wanted.part != "losses":
            prompts = {"prompts": str(folder / "prompts.jsonl"), "updates": wanted.updates}
            found["speed"] = compare_speed(sides, job | prompts, wanted.runs)
        print(json.dumps(found | {"python": platform.python_version()}))


if __name__ == "__main__":
    main()
