"""Figures: of a reward model on comparisons, or of one policy against another.

    python -m trainer evaluate --reward RUN/model --data FILE
    python -m trainer evaluate --policy P --against Q --reward RUN/model --data PROMPTS

Figures of a reward model come with slices (rater, policies, length, axis), calibration, and what people
reach among themselves where several judged the same pair. Several reward models, with commas between, are
judged as an ensemble: the mean of their rewards, and how far they disagree.

With `--best-of N` the policy draws N responses to each prompt and the reward model's favourite is taken;
`best_of_kl`, log N - (N - 1) / N, bounds how far that is from the policy, in nats.

A directory is evaluated on its test split (validation where test is empty); a file on all of its rows.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.data.examples import SPLITS, Data, Messages, Ranking
from trainer.data.files import read_prompts, read_rankings
from trainer.engine.capabilities import explore
from trainer.engine.forward import score_texts
from trainer.engine.models import (
    choose_device,
    fit_window,
    load_policy,
    load_scorer,
    make_repeatable,
    response_room,
)
from trainer.engine.responses import response_token_logprobs
from trainer.engine.shared_prefix import Tree, plant
from trainer.engine.tokens import Encoder, load_tokenizer, same_tokens
from trainer.errors import TrainerError
from trainer.formulas.evaluation import gaps_of, right, strict_pairs, wilson
from trainer.formulas.kl import best_of_n_kl, kl_estimates
from trainer.reward import describe, encode, rewards_on
from trainer.rl.rewards import combine, paths_of
from trainer.rl.rollout import Rollout, decode, rows_of, sample
from trainer.run.files import write_json
from trainer.settings.evaluate import EvaluateConfig

Judge = tuple[Any, Encoder]  # a reward model, and how it reads


def main(config: EvaluateConfig) -> dict[str, Any]:
    """The figures, also written to --out."""
    figures = work_out(config)
    if config.out:
        write_json(Path(config.out), figures)
    return figures


def work_out(config: EvaluateConfig) -> dict[str, Any]:
    """The figures of the form that the flags ask for."""
    device = choose_device(config.device)
    make_repeatable(config.seed, device)
    judges = [load_judge(path, config, device) for path in paths_of(config.reward)]
    if config.policy is not None:
        prompts = [each.messages for each in examples_of(read_prompts(config.data), config.data)]
        return compare(config, judges, prompts, device)
    rankings = examples_of(read_rankings(config.data), config.data)
    size = max(1, config.batch_size // 4)
    members = []
    for model, encoder in judges:
        examples = [encode(encoder, each) for each in rankings]
        pad = encoder.tokenizer.pad_token_id
        members.append(rewards_on(model, examples, pad, batch_size=size))
    figures = describe(rankings, [torch.stack(each).mean(0) for each in zip(*members, strict=True)])
    if not figures["pairs"]:
        raise TrainerError(f"{config.data}: has no pair of which one is preferred")
    if len(members) > 1:
        figures["ensemble"] = disagreement(rankings, members)
    cut = judges[0][1].cut
    return figures | ({"cut": cut} if cut else {})


def load_judge(path: str, config: EvaluateConfig, device: torch.device) -> Judge:
    """A frozen reward model, and its encoder."""
    tokenizer = load_tokenizer(path)
    model = explore(load_scorer(path, tokenizer, device))
    return model, Encoder(tokenizer, fit_window(config.max_length, model))


def disagreement(rankings: list[Ranking], members: list[list[Tensor]]) -> dict[str, Any]:
    """How far an ensemble's members differ on pairs, and what their differing tells.

    `uncertainty`: the mean over pairs of the standard deviation of the members' gaps; accuracy on the half
    of the pairs on which they differ least, and most, in units of the mean gap.
    """
    gaps = torch.stack([gaps_of(strict_pairs(rankings, rewards)) for rewards in members])  # (M, N)
    mean, spread = gaps.mean(0), gaps.std(0)
    order = (spread / mean.abs().clamp(min=1e-9)).argsort()
    half = (len(order) + 1) // 2
    correct = right(mean)[order]
    return {
        "members": len(members),
        "member_accuracy": [float(right(each).mean()) for each in gaps],
        "uncertainty": float(spread.mean()),
        "accuracy_where_sure": float(correct[:half].mean()),
        "accuracy_where_unsure": float(correct[half:].mean()) if half < len(order) else None,
    }


def examples_of(data: Data, path: str) -> list[Any]:
    """The rows to evaluate on: all of a file, the test split of a directory."""
    if Path(path).is_dir():
        chosen = data["test"] or data["validation"]
    else:
        chosen = [row for split in SPLITS for row in data[split]]
    if not chosen:
        raise TrainerError(f"{path}: has nothing to evaluate on")
    return chosen


def compare(
    config: EvaluateConfig,
    judges: list[Judge],
    prompts: list[Messages],
    device: torch.device,
) -> dict[str, Any]:
    """{win_rate, reward_mean, kl} of the policy against the other, over the prompts.

    A tie is half a win. `kl` is the mean over the policy's samples of the KL from the other policy,
    summed over a response's tokens, in nats; None where their tokens differ. With `best_of` samples it is
    still the policy's own.
    """
    assert config.policy is not None
    assert config.against is not None
    sides = []
    for path, draws in ((config.policy, config.best_of), (config.against, 1)):
        tokenizer = load_tokenizer(path)
        policy = explore(load_policy(path, tokenizer, device))
        repeated = [messages for messages in prompts for _ in range(draws)]
        rollouts = roll_out(config, policy, tokenizer, repeated)
        texts = [text for rollout in rollouts for text in decode(tokenizer, rollout)]
        said = list(zip(repeated, texts, strict=True))
        rewards = combine(torch.stack([score_texts(*judge, said) for judge in judges]), "mean")
        chooser = rewards
        if draws > 1 and config.choose_by is not None:
            chooser = score_texts(*load_judge(config.choose_by, config, device), said)
        chosen = chooser.view(len(prompts), draws).argmax(-1, keepdim=True)
        best = rewards.view(len(prompts), draws).gather(-1, chosen)[:, 0]
        lengths = torch.cat([each.response_mask.sum(-1) for each in rollouts])
        written = lengths.view(len(prompts), draws).cpu().gather(-1, chosen)
        sides.append((tokenizer, policy, rollouts, best, float(written.float().mean())))
    (tokenizer, policy, rollouts, own, length), (other_tokenizer, other, _, others, _) = sides
    wins = (own > others).float() + 0.5 * (own == others).float()
    kl = None
    if same_tokens(tokenizer, other_tokenizer):
        total = sum(sequence_kl(policy, other, each, config.temperature) for each in rollouts)
        kl = total / (len(prompts) * config.best_of)
    win_rate = float(wins.mean())
    return {
        "win_rate": win_rate,
        "reward_mean": float(own.mean()),
        "kl": kl,
        "win_rate_interval": wilson(win_rate, len(prompts)),
        "against_reward_mean": float(others.mean()),
        "response_length": length,
        "prompts": len(prompts),
        **(
            {"best_of": config.best_of, "best_of_kl": best_of_n_kl(config.best_of)}
            if config.best_of > 1
            else {}
        ),
    }


def roll_out(
    config: EvaluateConfig, policy: Any, tokenizer: Any, prompts: list[Messages]
) -> list[Rollout]:
    """Responses to all prompts, a batch at a time."""
    stream = torch.Generator().manual_seed(config.seed)
    room = response_room(config.max_length, config.response_length, policy)
    encoder = Encoder(tokenizer, room + config.response_length)
    return [
        sample(
            policy,
            [encoder.prompt(each, room) for each in prompts[start : start + config.batch_size]],
            length=config.response_length,
            temperature=config.temperature,
            end=tokenizer.eos_token_id,
            pad=tokenizer.pad_token_id,
            stream=stream,
        )
        for start in range(0, len(prompts), config.batch_size)
    ]


def sequence_kl(policy: Any, other: Any, rollout: Rollout, temperature: float) -> float:
    """The sum over a batch of the KL of whole responses, in nats."""
    # Greedy samples are compared at temperature 1: at 0 the distributions are no distributions.
    temperature = temperature or 1.0
    trees: list[Tree] = [(prompt, [response]) for prompt, response, _ in rows_of(rollout)]
    with torch.no_grad():
        one, two = (
            response_token_logprobs(model, plant(trees, model, 0), temperature)
            for model in (policy, other)
        )
    k1, _, _ = kl_estimates(one, two)
    return float(k1.sum())
