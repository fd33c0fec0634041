"""What TRL's trainers and ours make of the same data: held-out accuracy and reward over several seeds.

    python bench/peers_accuracy.py [--seeds 3] [--folder DIR] [--venv DIR] [--ppo-venv DIR]

For each seed a story-teller writes two stories to each prompt, and a simulated rater who likes lively ones
errs in 15 % of the pairs. On the same pairs, weights, batch size, learning rate and number of steps:

  reward  the reward model; accuracy on pairs that nobody trained on, judged without noise;
  dpo     the policy; accuracy of its implicit reward, log p - log q, on the same pairs;
  ppo     the policy, climbing the reward model that ours made; mean reward and true win rate of its
          responses to prompts that nobody trained on, and its KL from the start.

Each side trains by its own loop, in its own order, in a process of its own (TRL 1.16.0; PPO by TRL 1.12.0);
one judge, ours, reads what both saved. Prints one JSON object: each seed's figures, means, and the mean
differences (ours less TRL's) with 95 % intervals (Student's t). What is in --folder is not made again.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from bench.learning import (
    interval,
    judge_truly,
    make_story_teller,
    messages_of,
    rank,
    write_responses,
)
from bench.peers import make_environment, measure
from bench.peers_ppo import PACKAGES
from demo import stories
from simulation.preference import liveliness
from trainer import dpo, ppo, reward
from trainer.data.examples import split_of
from trainer.engine.capabilities import probe_capabilities
from trainer.engine.forward import score_texts
from trainer.engine.models import load_frozen_reward_model, load_policy, load_reward_model
from trainer.engine.responses import response_sums, response_token_logprobs
from trainer.engine.shared_prefix import PromptResponses, build_batch
from trainer.engine.tokens import Encoder, load_tokenizer
from trainer.run.artifacts import save_model
from trainer.settings.dpo import DPOConfig
from trainer.settings.ppo import PPOConfig
from trainer.settings.reward import RewardConfig

HERE = Path(__file__).resolve().parent
CPU = torch.device("cpu")
LENGTHS = {"max_length": 256, "response_length": 96}
BATCH = 16
EPISODES = 64
RATES = {"reward": 1e-3, "dpo": 3e-4, "ppo": 1.5e-4}
BETA = 0.1
KL_COEF = 0.1
Side = Callable[[dict[str, Any]], None]


def write_pairs(folder: Path) -> int:
    """The train split's rankings once more, as TRL reads pairs; how many."""
    pairs = 0
    with (folder / "pairs.jsonl").open("w") as file:
        for line in (folder / "rankings.train.jsonl").open():
            row = json.loads(line)
            texts = {each["id"]: each["text"] for each in row["candidates"]}
            ranks = row["rankings"][0]["ranks"]
            best, worst = sorted(texts, key=lambda key: ranks[key])
            if ranks[best] == ranks[worst]:
                continue
            pair = {
                "prompt": row["messages"],
                "chosen": [{"role": "assistant", "content": texts[best]}],
                "rejected": [{"role": "assistant", "content": texts[worst]}],
            }
            file.write(json.dumps(pair) + "\n")
            pairs += 1
    return pairs


def held_out_pairs(rows: list[dict[str, Any]]) -> list[tuple[Any, str, str]]:
    """(messages, better, worse) of the stories that differ in liveliness."""
    found = []
    for row in rows:
        better, worse = sorted((each["text"] for each in row["candidates"]), key=liveliness)[::-1]
        if liveliness(better) > liveliness(worse):
            found.append((row["prompt"], better, worse))
    return found


def reward_accuracy(path: Path, pairs: list[tuple[Any, str, str]]) -> float:
    """How often the better story gets the higher reward."""
    tokenizer = load_tokenizer(str(path))
    model = load_frozen_reward_model(str(path), tokenizer, CPU)
    encoder = Encoder(tokenizer, LENGTHS["max_length"])
    flat = [(messages, text) for messages, *both in pairs for text in both]
    better, worse = score_texts(model, encoder, flat).view(-1, 2).unbind(1)
    return float((better > worse).float().mean())


def implicit_accuracy(path: Path, start: Path, pairs: list[tuple[Any, str, str]]) -> float:
    """How often the better story gained more log-probability than the worse."""
    tokenizer = load_tokenizer(str(start))
    encoder = Encoder(tokenizer, LENGTHS["max_length"])
    gains = []
    with torch.no_grad():
        new, old = (
            probe_capabilities(load_policy(str(each), tokenizer, CPU)) for each in (path, start)
        )
        for messages, *both in pairs:
            encoded = [encoder.pair(messages, text) for text in both]
            groups: list[PromptResponses] = [(prompt, [response]) for prompt, response in encoded]
            batch = build_batch(groups, new, tokenizer.pad_token_id)
            gains.append(response_sums(new, batch)[0] - response_sums(old, batch)[0])
    better, worse = torch.stack(gains).unbind(1)
    return float((better > worse).float().mean())


def judge_policy(
    path: Path, start: Path, scorer: Path, prompts: list[str], here: Path, seed: int
) -> dict[str, float]:
    """Mean reward, true win rate and KL of a policy's responses to prompts that it never saw."""
    first = write_responses(start, prompts, here / "start.jsonl", candidates=1, seed=seed)
    out = here / f"{path.parent.name}.jsonl"
    found = judge_truly(path, first, prompts, out, seed)
    rows = [json.loads(line) for line in out.open()]
    tokenizer = load_tokenizer(str(start))
    encoder = Encoder(tokenizer, LENGTHS["max_length"])
    pairs = [(row["prompt"], row["candidates"][0]["text"]) for row in rows]
    model = load_frozen_reward_model(str(scorer), tokenizer, CPU)
    rewards = score_texts(model, encoder, pairs)
    groups: list[PromptResponses] = [
        (prompt, [response]) for prompt, response in (encoder.pair(*pair) for pair in pairs)
    ]
    with torch.no_grad():
        policies = [
            probe_capabilities(load_policy(str(each), tokenizer, CPU)) for each in (path, start)
        ]
        batch = build_batch(groups, policies[0], tokenizer.pad_token_id)
        new, old = (response_token_logprobs(policy, batch) for policy in policies)
    return {**found, "reward": float(rewards.mean()), "kl": float((new - old).sum()) / len(pairs)}


def train_own(job: dict[str, Any]) -> None:
    """One run of the stage itself, in this process."""
    plain = {
        "out": str(Path(job["save"]).parent), "device": "cpu", "seed": job["seed"],
        "steps": job["steps"], "lr": job["lr"], "batch_size": job["batch_size"],
        "max_length": job["max_length"], "data": job["own_data"],
    }  # fmt: skip
    if job["what"] == "reward":
        reward.main(RewardConfig(**plain, model=job["model"], weight_decay=0.0))
    elif job["what"] == "dpo":
        dpo.main(DPOConfig(**plain, model=job["model"], beta=job["beta"]))
    else:
        ppo.main(
            PPOConfig(
                **plain, model=job["policy"], reward=job["reward"], minibatches=1,
                response_length=job["length"], kl_coef=job["kl_coef"], lam=job["lam"],
                normalise_rewards=False, whiten_rewards=False, max_grad_norm=1e9,
            )
        )  # fmt: skip


def run_seed(
    folder: Path, start: Path, sides: Mapping[str, Side], wanted: argparse.Namespace, seed: int
) -> dict[str, Any]:
    """One seed: data, both sides' three trainings, one judgement."""
    here = folder / f"peers-{seed}"
    here.mkdir(exist_ok=True)
    done = here / "figures.json"
    if done.exists():
        found: dict[str, Any] = json.loads(done.read_text())
        return found
    told = stories.generate(2000 + seed, 8 * wanted.prompts, held_out=True)
    prompts = list(dict.fromkeys(each.prompt for each in told))
    # Only prompts that the stage trains on; the rest of its splits would be lost to TRL.
    asked = [each for each in prompts if split_of(messages_of(each)) == "train"][: wanted.prompts]
    unseen = [each for each in prompts if each not in set(asked)][: wanted.held_out]
    rows = write_responses(start, asked, here / "two.jsonl", candidates=2, seed=seed)
    data = here / "export"
    rank(rows, data, seed)
    count = write_pairs(data)
    judged = held_out_pairs(
        write_responses(start, unseen, here / "unseen.jsonl", candidates=2, seed=seed + 5)
    )
    tokenizer = load_tokenizer(str(start))
    first_reward = here / "first-reward"
    save_model(load_reward_model(str(start), tokenizer, CPU, seed=seed), tokenizer, first_reward)
    encoder = Encoder(tokenizer, LENGTHS["max_length"])
    room = LENGTHS["max_length"] - LENGTHS["response_length"]
    (here / "prompts.jsonl").write_text(
        "".join(
            json.dumps({"prompt": each, "ids": encoder.prompt(messages_of(each), room)}) + "\n"
            for each in asked
        )
    )
    (here / "own-prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": each}) + "\n" for each in asked)
    )
    plain = {
        "threads": wanted.threads, "seed": seed, "max_length": LENGTHS["max_length"],
        "own_data": str(data), "data": str(data / "pairs.jsonl"), "batch_size": BATCH,
        "steps": round(wanted.epochs * count / BATCH), "out": str(here / "scratch"), "beta": BETA,
    }  # fmt: skip
    figures: dict[str, Any] = {"seed": seed, "pairs": count, "held_out_pairs": len(judged)}
    jobs: dict[str, dict[str, Any]] = {
        "reward": plain | {"model": str(first_reward)},
        "dpo": plain | {"model": str(start), "reference": str(start)},
        "ppo": plain
        | {
            "own_data": str(here / "own-prompts.jsonl"), "prompts": str(here / "prompts.jsonl"),
            "policy": str(start), "reference": str(start),
            "reward": str(here / "own-reward" / "model"), "batch_size": EPISODES,
            "steps": wanted.updates, "updates": wanted.updates, "epochs": 4, "responses": None,
            "length": LENGTHS["response_length"], "temperature": 1.0, "missing_eos_penalty": 1.0,
            "whiten_rewards": False, "biased_variance": False, "kl_coef": KL_COEF, "clip": 0.2,
            "value_clip": 0.2, "gamma": 1.0, "lam": 0.95,
        },
    }  # fmt: skip
    for what, job in jobs.items():
        figures[what] = {}
        for name, train in sides.items():
            saved = here / f"{name}-{what}" / "model"
            train(job | {"what": what, "lr": RATES[what], "save": str(saved)})
            if what == "reward":
                found = {"accuracy": reward_accuracy(saved, judged)}
            elif what == "dpo":
                found = {"accuracy": implicit_accuracy(saved, start, judged)}
            else:
                scorer = Path(job["reward"])
                found = judge_policy(saved, start, scorer, unseen, here, seed + 9)
            figures[what][name] = found
            print(f"seed {seed}, {what}, {name}: {found}", file=sys.stderr)
    done.write_text(json.dumps(figures))
    return figures


def summarise(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Means of both sides, and of what ours has more."""
    found: dict[str, Any] = {}
    for what in ("reward", "dpo", "ppo"):
        found[what] = {}
        for key in seeds[0][what]["own"]:
            pairs = [(each[what]["own"][key], each[what]["trl"][key]) for each in seeds]
            own, trl = (statistics.mean(some) for some in zip(*pairs, strict=True))
            found[what][key] = {
                "own": own, "trl": trl, "own_less_trl": interval([a - b for a, b in pairs])
            }  # fmt: skip
    return found


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=768)
    parser.add_argument("--held-out", type=int, default=400)
    parser.add_argument("--epochs", type=float, default=2.0, help="of the reward model and DPO")
    parser.add_argument("--updates", type=int, default=16, help="of PPO")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where all of it is kept")
    parser.add_argument("--venv", type=Path, help="where TRL 1.16's environment is, or is made")
    parser.add_argument("--ppo-venv", type=Path, help="where TRL 1.12's environment is, or is made")
    parser.add_argument("--own", action="store_true", help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.own:
        job = json.load(sys.stdin)
        torch.set_num_threads(job["threads"])
        train_own(job)
        print(json.dumps({}))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = wanted.folder or Path(name)
        folder.mkdir(exist_ok=True, parents=True)
        torch.set_num_threads(wanted.threads)
        peer = make_environment(wanted.venv or folder / "trl")
        ppo_peer = make_environment(wanted.ppo_venv or folder / "trl-ppo", PACKAGES)

        def own(job: dict[str, Any]) -> None:
            measure(Path(sys.executable), [str(HERE / "peers_accuracy.py"), "--own"], job)

        def trl(job: dict[str, Any]) -> None:
            if job["what"] == "ppo":
                measure(ppo_peer, [str(HERE / "peer_trl_ppo.py")], job)
            else:
                measure(peer, [str(HERE / "peer_trl.py")], job)

        start = make_story_teller(folder)
        sides = {"own": own, "trl": trl}
        seeds = [run_seed(folder, start, sides, wanted, seed) for seed in range(wanted.seeds)]
        print(json.dumps({"seeds": seeds, "summary": summarise(seeds)}))


if __name__ == "__main__":
    main()
