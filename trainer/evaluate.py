"""Figures: of a reward model on comparisons, or of one policy against another.

    python -m trainer evaluate --reward RUN/model --data FILE
    python -m trainer evaluate --policy P --against Q --reward RUN/model --data PROMPTS

A directory is evaluated on its test split (validation where test is empty); a file on all of its rows.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer.config import flag, parse
from trainer.data import SPLITS, Data, Messages, read_prompts, read_rankings
from trainer.errors import TrainerError, UsageError
from trainer.losses import kl_estimates, token_logprobs
from trainer.models import (
    Encoder,
    choose_device,
    load_policy,
    load_reward_model,
    load_tokenizer,
    make_repeatable,
    response_logits,
    same_tokens,
    score_texts,
)
from trainer.reward import encode, measure
from trainer.rollout import Rollout, decode, sample


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Figures of a reward model, or of one policy against another."""

    data: str = flag(..., "comparisons or rankings; with --policy, prompts")
    reward: str = flag(..., "the reward model")
    policy: str | None = flag(None, "a policy to compare")
    against: str | None = flag(None, "the policy to compare it with")
    out: str | None = flag(None, "a file to write the figures to, besides printing them")
    max_length: int = flag(512, "tokens of prompt and response together")
    response_length: int = flag(128, "the longest response, in tokens")
    temperature: float = flag(1.0, "of sampling")
    batch_size: int = flag(64, "prompts, or rankings, at a time")
    seed: int = flag(0, "seed of sampling; both policies are sampled with the same")
    device: str = flag("auto", "auto, cpu or cuda")

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if (self.policy is None) != (self.against is None):
            raise UsageError("--policy and --against go together")
        if self.response_length >= self.max_length:
            raise UsageError("--response-length leaves no room for a prompt in --max-length")


def command(argv: list[str]) -> int:
    """Run from the command line."""
    example = "python -m trainer evaluate --reward runs/reward/model --data comparisons.test.jsonl"
    config = parse(EvaluateConfig, argv, stage="evaluate", example=example)
    figures = main(config)
    text = json.dumps(figures)
    if config.out:
        Path(config.out).write_text(text + "\n")
    print(text)  # noqa: T201 - the interface
    return 0


def main(config: EvaluateConfig) -> dict[str, Any]:
    """The figures."""
    make_repeatable(config.seed)
    device = choose_device(config.device)
    tokenizer = load_tokenizer(config.reward)
    model = load_reward_model(config.reward, tokenizer, device, seed=config.seed)
    encoder = Encoder(tokenizer, config.max_length)
    if config.policy is None:
        rankings = rows_of(read_rankings(config.data), config.data)
        figures = measure(
            model,
            [encode(encoder, each) for each in rankings],
            tokenizer.pad_token_id,
            batch_size=max(1, config.batch_size // 4),
        )
        return figures | ({"cut": encoder.cut} if encoder.cut else {})
    prompts = [each.messages for each in rows_of(read_prompts(config.data), config.data)]
    return compare(config, model, encoder, prompts, device)


def rows_of(data: Data, path: str) -> list[Any]:
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
    model: Any,
    encoder: Encoder,
    prompts: list[Messages],
    device: torch.device,
) -> dict[str, Any]:
    """{win_rate, reward_mean, kl} of the policy against the other, over the prompts.

    A tie is half a win. `kl` is the mean over the policy's samples of the KL from the other policy,
    summed over a response's tokens, in nats; None where their tokens differ.
    """
    assert config.policy is not None
    assert config.against is not None
    sides = []
    for path in (config.policy, config.against):
        tokenizer = load_tokenizer(path)
        policy = load_policy(path, tokenizer, device)
        rollouts = roll_out(config, policy, tokenizer, prompts)
        texts = [text for rollout in rollouts for text in decode(tokenizer, rollout)]
        rewards = score_texts(model, encoder, list(zip(prompts, texts, strict=True)))
        sides.append((tokenizer, policy, rollouts, rewards))
    (tokenizer, policy, rollouts, own), (other_tokenizer, other, _, others) = sides
    wins = (own > others).float() + 0.5 * (own == others).float()
    kl = None
    if same_tokens(tokenizer, other_tokenizer):
        total = sum(sequence_kl(policy, other, each, config.temperature) for each in rollouts)
        kl = total / len(prompts)
    return {
        "win_rate": float(wins.mean()),
        "reward_mean": float(own.mean()),
        "kl": kl,
        "against_reward_mean": float(others.mean()),
        "prompts": len(prompts),
    }


def roll_out(
    config: EvaluateConfig, policy: Any, tokenizer: Any, prompts: list[Messages]
) -> list[Rollout]:
    """Responses to all prompts, a batch at a time."""
    stream = torch.Generator().manual_seed(config.seed)
    encoder = Encoder(tokenizer, config.max_length)
    room = config.max_length - config.response_length
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
    with torch.no_grad():
        one, two = (
            token_logprobs(
                response_logits(model, rollout.ids, rollout.mask, rollout.length),
                rollout.response,
                temperature,
            )
            for model in (policy, other)
        )
    k1, _, _ = kl_estimates(one, two)
    return float((k1 * rollout.response_mask).sum())
