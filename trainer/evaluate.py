"""Figures: of a reward model on comparisons, or of one policy against another.

    python -m trainer evaluate --reward RUN/model --data FILE
    python -m trainer evaluate --policy P --against Q --reward RUN/model --data PROMPTS

Figures of a reward model come with slices (rater, policies, length, axis), calibration, and what people
reach among themselves where several judged the same pair; where the model has parameters for ties, the
chances of ties and of whole rankings are judged too. Several reward models, with commas between, are
measured as an ensemble: the mean of their rewards, and how far they disagree.

With `--best-of N` the policy draws N responses to each prompt and the reward model's favourite is taken;
`best_of_kl`, log N - (N - 1) / N, bounds how far that is from the policy, in nats.

A directory is evaluated on its test split (validation where test is empty); a file on all of its rows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.data.examples import SPLITS, Data, Example, Messages, Prompt, Ranking, Tally
from trainer.data.files import read_prompts, read_rankings
from trainer.data.values import JsonObject, JsonValue, Result, as_json
from trainer.engine.capabilities import probe_capabilities, probe_sampling
from trainer.engine.encoding import (
    AnyExample,
    Encoded,
    encode_each,
    figures_of_left_out,
    nothing_left,
)
from trainer.engine.forward import score_texts
from trainer.engine.models import (
    choose_device,
    ends_of,
    fit_window,
    load_frozen_reward_model,
    load_policy,
    make_repeatable,
    max_prompt_tokens_of,
)
from trainer.engine.protocols import Policy, RewardModel, Tokenizer
from trainer.engine.responses import response_token_logprobs
from trainer.engine.shared_prefix import PromptResponses, build_batch
from trainer.engine.ties import log_nu_of
from trainer.engine.tokens import CUTS, Encoder, load_tokenizer, same_tokens
from trainer.errors import TrainerError
from trainer.formulas.evaluation import (
    margins_of,
    ranking_figures,
    right,
    strict_pairs,
    wilson,
    win_shares,
)
from trainer.formulas.kl import best_of_n_kl, kl_estimates
from trainer.reward import encode, rewards_on
from trainer.rl.rewards import combine, paths_of
from trainer.rl.rollout import Rollout, decode, rows_of, sample
from trainer.run.files import hash_model_files, read_description, write_json
from trainer.run.judges import CLIMBED, HELD_OUT
from trainer.run.progress import tell_left_out
from trainer.settings.evaluate import EvaluateConfig


class Evaluator(NamedTuple):
    """A frozen reward model, and how it reads."""

    model: RewardModel
    encoder: Encoder

    def score(self, responses: Sequence[tuple[Messages, str]]) -> Tensor:
        """(N,) rewards of responses to conversations."""
        scores = score_texts(self.model, self.encoder, responses)
        check_rewards([scores])
        return scores


class Writer(NamedTuple):
    """A policy, and how it reads prompts."""

    tokenizer: Tokenizer
    policy: Policy
    encoder: Encoder
    max_prompt_tokens: int

    def prompt(self, each: Prompt) -> list[int]:
        """A prompt's tokens."""
        return self.encoder.prompt(each.messages, self.max_prompt_tokens)


class Side(NamedTuple):
    """What a policy's responses to the prompts come to."""

    writer: Writer
    rollouts: list[Rollout]
    rewards: Tensor  # (P,) of the best response to each prompt
    response_length: float


def main(config: EvaluateConfig) -> Result:
    """The figures, also written to --out."""
    figures = evaluate(config)
    check_figures(figures)
    if config.out:
        write_json(Path(config.out), figures)
    return figures


def evaluate(config: EvaluateConfig) -> JsonObject:
    """The figures of the form that the flags ask for."""
    device = choose_device(config.device)
    make_repeatable(config.seed, device)
    evaluators = [load_evaluator(path, config, device) for path in paths_of(config.reward)]
    if config.policy is not None:
        return compare(config, evaluators, device)
    data = read_rankings(config.data)
    rankings, columns = readable(
        examples_of(data, config.data),
        [(each.encoder, partial(encode, each.encoder)) for each in evaluators],
        data.left_out,
    )
    if not rankings:
        raise nothing_left(config.data, "rankings to evaluate on", data.left_out)
    tell_left_out("evaluate", data.left_out)
    size = max(1, config.batch_size // 4)
    members = []
    for (model, encoder), examples in zip(evaluators, columns, strict=True):
        pad = encoder.tokenizer.pad_token_id
        rewards = rewards_on(model, examples, pad, batch_size=size)
        check_rewards(rewards)
        members.append(rewards)
    means = [torch.stack(each).mean(0) for each in zip(*members, strict=True)]
    log_nu = log_nu_of([each.model for each in evaluators])
    figures = as_json(ranking_figures(rankings, means, log_nu))
    if not figures["pairs"]:
        raise TrainerError(f"{config.data}: has no pair of which one is preferred")
    if len(members) > 1:
        figures["ensemble"] = disagreement(rankings, members)
    return figures | figures_of_left_out(data.left_out, evaluators[0].encoder, config.max_length)


def readable(
    examples: Sequence[AnyExample],
    readers: Sequence[tuple[Encoder, Callable[[AnyExample], Encoded]]],
    tally: Tally,
) -> tuple[list[AnyExample], list[list[Encoded]]]:
    """The examples that every reader's template takes, and them as each of the readers reads them."""
    columns: list[list[Encoded | None]] = []
    for number, (encoder, read) in enumerate(readers, start=1):
        own = Tally()
        columns.append(encode_each(encoder, examples, read, own))
        tally.include(own, f"model {number}: " if len(readers) > 1 else "")
    kept = [
        index
        for index in range(len(examples))
        if all(column[index] is not None for column in columns)
    ]
    return [examples[index] for index in kept], [
        [row for index in kept if (row := column[index]) is not None] for column in columns
    ]


def check_rewards(rewards: Sequence[Tensor]) -> None:
    """Raise TrainerError where a reward is no number: it would count as a tie, or as a wrong pair."""
    if not all(bool(each.isfinite().all()) for each in rewards):
        raise TrainerError("the reward model's rewards are no numbers")


def check_figures(value: JsonValue, name: str = "") -> None:
    """Raise TrainerError where a figure is no number: JSON has no word for it, and nobody a use."""
    if isinstance(value, float) and not math.isfinite(value):
        raise TrainerError(
            f"{name.lstrip('.')} is {value}: the rewards or the responses are no numbers"
        )
    if isinstance(value, Mapping):
        for key, each in value.items():
            check_figures(each, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            check_figures(each, f"{name}.{number}")


def load_evaluator(path: str, config: EvaluateConfig, device: torch.device) -> Evaluator:
    """A frozen reward model, and its encoder."""
    tokenizer = load_tokenizer(path)
    model = probe_capabilities(load_frozen_reward_model(path, tokenizer, device))
    return Evaluator(model, Encoder(tokenizer, fit_window(config.max_length, model), reading=True))


def disagreement(rankings: list[Ranking], members: list[list[Tensor]]) -> JsonObject:
    """How far an ensemble's members differ on pairs, and what their differing says of accuracy.

    `uncertainty`: the mean over pairs of the standard deviation of the members' margins; accuracy on the
    half of the pairs on which they differ least, and most, in units of the mean margin.
    """
    margins = torch.stack(
        [margins_of(strict_pairs(rankings, rewards)) for rewards in members]
    )  # (M, N)
    mean, deviation = margins.mean(0), margins.std(0)
    order = (deviation / mean.abs().clamp(min=1e-9)).argsort()
    half = (len(order) + 1) // 2
    correct = right(mean)[order]
    return {
        "members": len(members),
        "member_accuracy": [float(right(each).mean()) for each in margins],
        "uncertainty": float(deviation.mean()),
        "accuracy_where_sure": float(correct[:half].mean()),
        "accuracy_where_unsure": float(correct[half:].mean()) if half < len(order) else None,
    }


def examples_of(data: Data[Example], path: str) -> list[Example]:
    """The rows to evaluate on: all of a file, the test split of a directory."""
    if Path(path).is_dir():
        chosen = data["test"] or data["validation"]
    else:
        chosen = [row for split in SPLITS for row in data[split]]
    if not chosen:
        raise TrainerError(f"{path}: has nothing to evaluate on")
    return chosen


def compare(
    config: EvaluateConfig, evaluators: Sequence[Evaluator], device: torch.device
) -> JsonObject:
    """{win_rate, reward_mean, kl} of the policy against the other, over the prompts, and who judged.

    A tie is half a win. `kl` is the mean over the policy's samples of the KL from the other policy,
    summed over a response's tokens, in nats; None where their tokens differ. With `best_of` samples it is
    still the policy's own.
    """
    assert config.policy is not None
    assert config.against is not None
    data = read_prompts(config.data)
    prompts = examples_of(data, config.data)
    writers = [load_writer(path, config, device) for path in (config.policy, config.against)]
    chooser = None
    if config.best_of > 1 and config.choose_by is not None:
        chooser = load_evaluator(config.choose_by, config, device)
    readers = [*evaluators, *([chooser] if chooser else [])]
    encoders = [each.encoder for each in readers]
    prompts, columns = readable(
        prompts,
        [(each.encoder, each.prompt) for each in writers]
        + [(each, partial(prompt_tokens, each)) for each in encoders],
        data.left_out,
    )
    if not prompts:
        raise nothing_left(config.data, "prompts to evaluate on", data.left_out)
    tell_left_out("evaluate", data.left_out)
    messages = [each.messages for each in prompts]
    read_before = [each.encoder.cut.copy() for each in evaluators]
    own, other = (
        respond(config, writer, draws, evaluators, chooser, messages, rows)
        for writer, draws, rows in zip(writers, (config.best_of, 1), columns[:2], strict=True)
    )
    for each, before in zip(evaluators, read_before, strict=True):
        for reason in CUTS:
            more = each.encoder.cut.get(reason, 0) - before.get(reason, 0)
            data.left_out.add(f"as judged: {reason}", more)
    kl = None
    if same_tokens(own.writer.tokenizer, other.writer.tokenizer):
        total = sum(
            sequence_kl(
                own.writer.policy,
                other.writer.policy,
                each,
                config.temperature,
                known=len(own.writer.tokenizer),
            )
            for each in own.rollouts
        )
        kl = total / (len(prompts) * config.best_of)
    win_rate = float(win_shares(own.rewards, other.rewards).mean())
    figures: JsonObject = {
        "win_rate": win_rate,
        "reward_mean": float(own.rewards.mean()),
        "kl": kl,
        "win_rate_interval": wilson(win_rate, len(prompts)),
        "against_reward_mean": float(other.rewards.mean()),
        "response_length": own.response_length,
        "prompts": len(prompts),
        "judge": judge_of(config),
    }
    if config.best_of > 1:
        figures |= {"best_of": config.best_of, "best_of_kl": best_of_n_kl(config.best_of)}
    return figures | figures_of_left_out(data.left_out, writers[0].encoder, config.max_length)


def prompt_tokens(encoder: Encoder, prompt: Prompt) -> list[int]:
    """A prompt's tokens, as one reads it who scores what answers it."""
    return encoder.prompt(prompt.messages, encoder.max_length)


def load_writer(path: str, config: EvaluateConfig, device: torch.device) -> Writer:
    """A policy, and its encoder."""
    tokenizer = load_tokenizer(path)
    policy = probe_capabilities(load_policy(path, tokenizer, device))
    probe_sampling(policy, path)
    max_prompt_tokens = max_prompt_tokens_of(config.max_length, config.response_length, policy)
    encoder = Encoder(tokenizer, max_prompt_tokens + config.response_length)
    return Writer(tokenizer, policy, encoder, max_prompt_tokens)


def judge_of(config: EvaluateConfig) -> str:
    """Whether the reward model that judges is one that the policy was trained against, or chosen by.

    A run directory tells what its policy was trained against; of any other policy nobody knows.
    """
    assert config.policy is not None
    if config.best_of > 1 and config.choose_by in (None, config.reward):
        return CLIMBED
    try:
        run = read_description(Path(config.policy).resolve().parent / "config.json")
    except TrainerError:
        run = {}
    trained = run.get("reward_hash")
    if not isinstance(trained, list):
        return "unknown: the policy's run directory is not there, or names no reward model"
    climbed = any(hash_model_files(path) in trained for path in paths_of(config.reward))
    return CLIMBED if climbed else HELD_OUT


def respond(
    config: EvaluateConfig,
    writer: Writer,
    draws: int,
    evaluators: Sequence[Evaluator],
    chooser: Evaluator | None,
    prompts: Sequence[Messages],
    rows: Sequence[list[int]],
) -> Side:
    """A policy's responses to the prompts (whose tokens are `rows`): of so many draws, the one of most
    reward."""
    repeated = [messages for messages in prompts for _ in range(draws)]
    rollouts = roll_out(config, writer, [ids for ids in rows for _ in range(draws)])
    texts = [text for rollout in rollouts for text in decode(writer.tokenizer, rollout)]
    responses = list(zip(repeated, texts, strict=True))
    rewards = combine(torch.stack([each.score(responses) for each in evaluators]), "mean")
    preferred = chooser.score(responses) if chooser is not None and draws > 1 else rewards
    chosen = preferred.view(len(prompts), draws).argmax(-1, keepdim=True)
    lengths = torch.cat([each.response_mask.sum(-1) for each in rollouts])
    written = lengths.view(len(prompts), draws).cpu().gather(-1, chosen)
    return Side(
        writer=writer,
        rollouts=rollouts,
        rewards=rewards.view(len(prompts), draws).gather(-1, chosen)[:, 0],
        response_length=float(written.float().mean()),
    )


def roll_out(config: EvaluateConfig, writer: Writer, rows: Sequence[list[int]]) -> list[Rollout]:
    """Responses to all prompts, a batch at a time."""
    stream = torch.Generator().manual_seed(config.seed)
    return [
        sample(
            writer.policy,
            rows[start : start + config.batch_size],
            length=config.response_length,
            temperature=config.temperature,
            end=ends_of(writer.policy),
            pad=writer.tokenizer.pad_token_id,
            known=len(writer.tokenizer),
            stream=stream,
        )
        for start in range(0, len(rows), config.batch_size)
    ]


def sequence_kl(
    policy: Policy,
    other: Policy,
    rollout: Rollout,
    temperature: float,
    *,
    known: int | None = None,
) -> float:
    """The sum over a batch of the KL of whole responses, in nats."""
    # Greedy samples are compared at temperature 1: at 0 the distributions are no distributions.
    temperature = temperature or 1.0
    groups: list[PromptResponses] = [
        (prompt, [response]) for prompt, response, _ in rows_of(rollout)
    ]
    with torch.no_grad():
        own_logprobs, other_logprobs = (
            response_token_logprobs(model, build_batch(groups, model, 0), temperature, known)
            for model in (policy, other)
        )
    k1, _, _ = kl_estimates(own_logprobs, other_logprobs)
    return float(k1.sum())
