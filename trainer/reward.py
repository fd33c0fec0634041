"""The reward model: a scalar head that makes the rankings likely.

A ranking of K is one batch element: its candidates go through one forward pass, the prompt once for all of
them, and their rewards into the Plackett-Luce likelihood (K = 2 is Bradley-Terry; ties by `--ties`, below;
see `trainer/formulas/losses.py`). InstructGPT (Ouyang et al. 2022, eq. 1) takes the mean over the K(K-1)/2
pairs instead; the likelihood of the whole ranking uses the same comparisons once. Afterwards two
numbers are stored in the model's configuration. `reward_mean` is the mean reward of preferred training
responses; whoever scores subtracts it (Stiennon et al. 2020): it changes no ranking, and puts zero where a
good response is. `reward_spread` is the standard deviation of rewards among a prompt's candidates; PPO and
RLOO divide by it, so that their price of KL means the same for any reward model. The head itself has no
bias: other programs that load the model see rewards that are higher by `reward_mean`, all of them alike.

A ranking in which all candidates are tied still pulls their rewards together; it takes part in training,
and is counted. Every rater's ranking of a prompt is an example of its own, with its own weight.

Ties enter by Davidson-Luce, whose parameters (the saved model's `tie_nu`, for ties of 2, 3 …) are learned
with the model, or by Breslow's rule, which needs none and draws rewards together, the more the more ties
there are; `trainer/engine/ties.py` says how `--ties auto` chooses.

Options: `--label-smoothing` for raters who err; `--margin-scale` makes the better of a pair lead by more
where the preference was stronger (Touvron et al. 2023, eq. 2); `--length-control` fits what length alone
predicts first, and holds it as an offset beside the reward, which then has no cause to learn it (the idea
of Dubois et al. 2024, who regress win rates); `--sizes` measures accuracy against training-set size.
Several runs with different `--seed` are an ensemble: give `evaluate` and `ppo` all of them.

    python -m trainer reward --data EXPORT --model MODEL --out RUN
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.data.examples import Ranking
from trainer.data.files import read_rankings
from trainer.data.values import JsonObject, Result, as_json
from trainer.engine.distributed import Processes
from trainer.engine.encoding import encode_all, figures_of_left_out, nothing_left
from trainer.engine.fit import Learner, Sum, SummedLoss, Validation, fit
from trainer.engine.models import (
    choose_device,
    count_parameters,
    fit_window,
    load_reward_model,
    make_repeatable,
)
from trainer.engine.prepare import plain_model
from trainer.engine.protocols import RewardModel
from trainer.engine.provenance import provenance_of
from trainer.engine.responses import response_rewards
from trainer.engine.shared_prefix import PromptResponses, build_batch
from trainer.engine.ties import TieRule, choose_rule
from trainer.engine.tokens import Encoder, load_tokenizer
from trainer.engine.usage import describe_scoring, plain_is_right
from trainer.formulas.evaluation import (
    RankingFigures,
    figures_of,
    odds_of,
    ranking_figures,
    strict_pairs,
)
from trainer.formulas.losses import smoothed_plackett_luce
from trainer.formulas.schedules import count_steps
from trainer.formulas.ties import Rankings, fit_linear
from trainer.run.artifacts import write_artifacts
from trainer.run.directory import Run
from trainer.run.plots import draw_calibration, draw_sizes
from trainer.run.progress import tell_left_out
from trainer.settings.flags import numbers_of
from trainer.settings.rates import choose_lr
from trainer.settings.reward import RewardConfig

# Validation on so many rankings along the way; the end is measured on all of them.
VALIDATION_RANKINGS = 128


@dataclass(frozen=True)
class Example:
    """A ranking as tokens."""

    ranking: Ranking
    groups: list[
        PromptResponses
    ]  # one of all candidates, or one for each where the prompt was cut differently

    @property
    def lengths(self) -> list[int]:
        """The candidates' tokens."""
        return [len(each) for _, responses in self.groups for each in responses]

    @property
    def size(self) -> int:
        """All of its tokens."""
        return sum(len(prompt) for prompt, _ in self.groups) + sum(self.lengths)


@dataclass(frozen=True)
class LengthOffset:
    """What length alone adds to a candidate's chances: slope * (tokens - its ranking's mean) / scale."""

    slope: float = 0.0
    scale: float = 1.0


def main(config: RewardConfig) -> Result:
    """Fit a reward model; the result is also in result.json."""
    by_size = [train_on_share(config, share) for share in numbers_of(config.sizes, "--sizes")]
    processes = Processes(choose_device(config.device))
    processes.check_batch(config.batch_size)
    make_repeatable(config.seed, processes.device)
    data = read_rankings(config.data)
    tokenizer = load_tokenizer(config.model)

    def load() -> RewardModel:
        device = processes.loading_device(config.shard)
        return load_reward_model(config.model, tokenizer, device, seed=config.seed)

    model = load()
    model.config.reward_mean, model.config.reward_spread, model.config.tie_nu = 0.0, None, None
    encoder = Encoder(tokenizer, fit_window(config.max_length, model), reading=True)
    pad = tokenizer.pad_token_id
    data.splits["train"] = take_share(data["train"], config.train_share)
    train, held_out, test = (
        encode_all(encoder, data[split], partial(encode, encoder), data.left_out)
        for split in ("train", "validation", "test")
    )
    if not any(has_order(example) for example in train):
        raise nothing_left(config.data, "rankings to train on", data.left_out)
    tell_left_out("reward", data.left_out, speaks=processes.first)
    rule = choose_rule(config, model, train, held_out, pad, processes)
    log_nu = nn.Parameter(rule.log_nu.to(processes.device)) if rule.largest else None
    offset = fit_length_offset(train, rule) if config.length_control else LengthOffset()
    lr, lr_source = choose_lr(
        config.lr, "reward", count_parameters(model), lora=bool(config.lora_rank)
    )
    steps = count_steps(config.steps, config.epochs, len(train), config.batch_size)
    provenance = provenance_of(
        config,
        data,
        lr=lr,
        lr_source=lr_source,
        window=encoder.max_length,
        length_slope=offset.slope,
        tie_rule=rule.name,
    )
    learner: Learner[RewardModel, Example] = Learner(
        model,
        config,
        processes,
        lr=lr,
        sum_losses=lambda model, some: sum_losses(model, some, pad, config, offset, log_nu),
        weight_of=lambda example: example.ranking.weight,
        beside={} if log_nu is None else {"log_nu": log_nu},
        beside_lr=config.tie_lr,
    )

    def validate(model: RewardModel) -> Validation:
        some = held_out[:VALIDATION_RANKINGS]
        figures = figures_of(margins_on(model, some, pad, given(log_nu)))
        log_loss, accuracy = figures["log_loss"], figures["accuracy"]
        return Validation(
            log_loss or math.inf,
            {
                "validation_log_loss": log_loss or math.nan,
                "validation_accuracy": accuracy or math.nan,
            },
        )

    with Run("reward", config, provenance, processes) as run:
        best = fit(
            run,
            learner,
            train,
            steps=steps,
            length_of=lambda example: example.size,
            validate=validate if held_out else None,
        )
        fitted = given(log_nu)
        model.config.tie_nu = None if fitted is None else fitted.exp().tolist()
        some = train[: config.max_mean_examples]
        scale = measure_scale([each.ranking for each in some], rewards_on(model, some, pad))
        model.config.reward_mean, model.config.reward_spread = scale
        result: JsonObject = {
            "stage": "reward",
            "steps": run.last_step,
            **best,
            "train_rankings": len(train),
            # Whether plain programs that score what the chat template writes read the same tokens.
            "plain_scoring": plain_is_right(tokenizer),
            "reward_mean": scale.mean,
            "reward_spread": scale.spread,
            "ties": rule.describe(model.config.tie_nu),
        }
        held_out_splits = {"validation": held_out, "test": test}
        figures = {
            name: measure(model, some, pad, log_nu=fitted)
            for name, some in held_out_splits.items()
            if some
        }
        result |= {name: as_json(each) for name, each in figures.items()}
        if config.length_control:
            result["length_slope"] = offset.slope
        if by_size:
            by_size.append(size_row(result))
            result["by_size"] = by_size
        result |= figures_of_left_out(data.left_out, encoder, config.max_length)
        write_artifacts(
            run,
            model=plain_model(model, load, config),
            tokenizer=tokenizer,
            result=result,
            usage=describe_scoring(tokenizer),
            drawings=draw(figures, by_size),
        )
    return result


# --- examples ---------------------------------------------------------------------------------------


def encode(encoder: Encoder, ranking: Ranking) -> Example:
    """A ranking as tokens."""
    pairs = [encoder.pair(ranking.messages, text) for text in ranking.candidates]
    if all(prompt == pairs[0][0] for prompt, _ in pairs):
        return Example(ranking, [(pairs[0][0], [response for _, response in pairs])])
    return Example(ranking, [(prompt, [response]) for prompt, response in pairs])


def has_order(example: Example) -> bool:
    """Whether the ranking puts anything before anything else."""
    return len(set(example.ranking.ranks)) > 1


def take_share(rankings: Sequence[Ranking], share: float) -> list[Ranking]:
    """The rankings of that share of the prompts; what a smaller share holds, a larger one holds too."""

    def key(ranking: Ranking) -> bytes:
        text = json.dumps(ranking.messages, sort_keys=True)
        return hashlib.sha256(b"size" + text.encode()).digest()

    keys = sorted({key(each) for each in rankings})
    kept = set(keys[: max(1, round(share * len(keys)))])
    return [each for each in rankings if key(each) in kept]


def train_on_share(config: RewardConfig, share: float) -> JsonObject:
    """The figures of the same run on a share of the prompts, made in a folder beside."""
    out = Path(config.out) / "sizes" / f"{share:g}"
    smaller = dataclasses.replace(
        config, out=str(out), train_share=share, sizes="", steps=None, resume=True
    )
    done = out / "result.json"
    result = json.loads(done.read_text()) if config.resume and done.exists() else main(smaller)
    return size_row(result)


def size_row(result: JsonObject) -> JsonObject:
    """Training-set size, and accuracy on what is held out."""
    figures = result.get("test") or result.get("validation") or {}
    assert isinstance(figures, dict)
    return {
        "train_rankings": result["train_rankings"],
        "accuracy": figures.get("accuracy"),
        "accuracy_interval": figures.get("accuracy_interval"),
    }


def given(log_nu: nn.Parameter | None) -> Tensor | None:
    """The ties' parameters as they are now, where there are any."""
    return None if log_nu is None else log_nu.detach().double().cpu()


def fit_length_offset(examples: Sequence[Example], rule: TieRule) -> LengthOffset:
    """How far length alone predicts the rankings."""
    lengths, ranks, mask = pad_examples(examples, [each.lengths for each in examples])
    scale = float((lengths.square().sum() / mask.sum()).sqrt()) or 1.0
    weights = torch.tensor([each.ranking.weight for each in examples])
    rankings = Rankings(lengths[..., None] / scale, ranks, mask, weights)
    return LengthOffset(float(fit_linear(rankings, largest=rule.largest).slopes), scale)


def pad_examples(
    examples: Sequence[Example], values: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor, Tensor]:
    """((B, K) values less their ranking's mean, (B, K) ranks, (B, K) mask)."""
    most = max(map(len, values))
    centred, ranks, mask = (torch.zeros(len(examples), most) for _ in range(3))
    ranks += most + 1
    for row, (example, own) in enumerate(zip(examples, values, strict=True)):
        count = len(own)
        some = torch.tensor(own, dtype=torch.float32)
        centred[row, :count] = some - some.mean()
        ranks[row, :count] = torch.tensor(example.ranking.ranks, dtype=torch.float32)
        mask[row, :count] = 1
    return centred, ranks, mask


# --- the loss ---------------------------------------------------------------------------------------


def sum_losses(
    model: RewardModel,
    examples: Sequence[Example],
    pad: int,
    config: RewardConfig,
    offset: LengthOffset | None = None,
    log_nu: Tensor | None = None,
) -> SummedLoss:
    """The weighted losses of some rankings, added up, with the accuracy on strict pairs.

    log_nu: (D - 1,) the ties' parameters of Davidson-Luce; without them, ties are by Breslow's rule.
    """
    flat = response_rewards(
        model, build_batch([group for each in examples for group in each.groups], model, pad)
    )
    counts = [len(each.ranking.ranks) for each in examples]
    rewards = torch.nn.utils.rnn.pad_sequence([*torch.split(flat, counts)], batch_first=True)
    lengths, ranks, mask = (
        each.to(flat.device)
        for each in pad_examples(examples, [example.lengths for example in examples])
    )
    unchanged = rewards.detach()
    if offset is not None and offset.slope:
        rewards = rewards + offset.slope * lengths / offset.scale * mask
    if config.margin_scale:
        rewards = rewards - config.margin_scale * margin_offsets(examples, ranks)
    losses = smoothed_plackett_luce(
        rewards, ranks, mask, smoothing=config.label_smoothing, log_nu=log_nu
    )
    weights = flat.new_tensor([each.ranking.weight for each in examples])
    accuracy = count_right(unchanged, ranks, mask)
    return SummedLoss((losses * weights).sum(), {"accuracy": accuracy})


def margin_offsets(examples: Sequence[Example], ranks: Tensor) -> Tensor:
    """(B, K) by how much the better one of a pair must lead; 0 wherever no strength was given."""
    strengths = ranks.new_tensor(
        [
            (each.ranking.strength or 0.0) if len(each.ranking.ranks) == 2 else 0.0
            for each in examples
        ]
    )
    if ranks.shape[1] < 2:
        return torch.zeros_like(ranks)
    best = ranks.min(-1, keepdim=True).values
    strict = (ranks[:, 0] != ranks[:, 1]).to(ranks.dtype)
    return (ranks == best) * (strengths * strict)[:, None]


def count_right(rewards: Tensor, ranks: Tensor, mask: Tensor) -> Sum:
    """The pairs put right, of the strict pairs; two equal rewards are half right."""
    both = mask[:, :, None] * mask[:, None, :]
    strict = (ranks[:, :, None] < ranks[:, None, :]) * both  # the row is better than the column
    difference = rewards[:, :, None] - rewards[:, None, :]
    right = ((difference > 0) + 0.5 * (difference == 0)) * strict
    return Sum(float(right.sum()), float(strict.sum()))


# --- figures ----------------------------------------------------------------------------------------


def rewards_on(
    model: RewardModel, examples: Sequence[Example], pad: int, *, batch_size: int = 16
) -> list[Tensor]:
    """The (K,) rewards of each ranking's candidates."""
    rewards: list[Tensor] = [torch.empty(0)] * len(examples)
    order = sorted(range(len(examples)), key=lambda index: examples[index].size)
    with torch.no_grad():
        for start in range(0, len(order), batch_size):
            some = order[start : start + batch_size]
            groups = [group for index in some for group in examples[index].groups]
            flat = response_rewards(model, build_batch(groups, model, pad)).double().cpu()
            counts = [len(examples[index].ranking.ranks) for index in some]
            for index, values in zip(some, torch.split(flat, counts), strict=True):
                rewards[index] = values
    return rewards


def margins_on(
    model: RewardModel, examples: Sequence[Example], pad: int, log_nu: Tensor | None = None
) -> Tensor:
    """(N,) rewards of preferred candidates less those of the others, over strict pairs; with the ties'
    parameters, the log-odds that these make of them."""
    rankings = [each.ranking for each in examples]
    return odds_of(strict_pairs(rankings, rewards_on(model, examples, pad), log_nu))


class Scale(NamedTuple):
    """Where a reward model's zero is, and what a step of its rewards is worth."""

    mean: float  # of the preferred responses
    spread: float  # standard deviation among a prompt's candidates


def measure_scale(rankings: Sequence[Ranking], rewards: Sequence[Tensor]) -> Scale:
    """The scale of rewards, (K,) of each ranking.

    The mean is that of the first of the best candidates. The spread is within rankings: what a prompt adds
    to all of its candidates alike is not determined by rankings, and moves no policy.
    """
    best = [
        float(own[each.ranks.index(min(each.ranks))])
        for each, own in zip(rankings, rewards, strict=True)
    ]
    squares = sum(float((own - own.mean()).square().sum()) for own in rewards)
    freedom = sum(len(own) - 1 for own in rewards)
    return Scale(sum(best) / len(best), (squares / max(freedom, 1)) ** 0.5)


def measure(
    model: RewardModel,
    examples: Sequence[Example],
    pad: int,
    *,
    batch_size: int = 16,
    log_nu: Tensor | None = None,
) -> RankingFigures:
    """The figures of a model on rankings."""
    rewards = rewards_on(model, examples, pad, batch_size=batch_size)
    return ranking_figures([each.ranking for each in examples], rewards, log_nu)


def draw(figures: Mapping[str, RankingFigures], by_size: Sequence[JsonObject]) -> list[str]:
    """The plots of a result: calibration on each split, and accuracy by size."""
    drawings = [draw_calibration(split, each["calibration"]) for split, each in figures.items()]
    return drawings + ([draw_sizes(by_size)] if by_size else [])
