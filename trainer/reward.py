"""The reward model: a scalar head that makes the rankings likely.

A ranking of K is one batch element: its candidates go through one forward pass, the prompt once for all of
them, and their rewards into the Plackett-Luce likelihood (K = 2 is Bradley-Terry; ties by Breslow's rule;
see `losses.plackett_luce`). InstructGPT (Ouyang et al. 2022, eq. 1) takes the mean over the K(K-1)/2 pairs
instead; the likelihood of the whole ranking uses the same comparisons once. Afterwards the mean reward of
the preferred training responses is stored as `reward_mean` in the model's configuration and subtracted by
whoever scores (Stiennon et al. 2020): it changes no ranking, and puts zero where a good response is. The
head itself has no bias: other programs that load the model see rewards that are higher by `reward_mean`,
all of them alike.

A ranking in which all candidates are tied still pulls their rewards together; it takes part in training,
and is counted. Every rater's ranking of a prompt is an example of its own, with its own weight.

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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.data.examples import Ranking
from trainer.data.files import read_rankings
from trainer.engine.batches import Batches
from trainer.engine.distributed import Processes
from trainer.engine.learner import Learner, Sums
from trainer.engine.models import (
    choose_device,
    count_parameters,
    fit_window,
    load_reward_model,
    make_repeatable,
)
from trainer.engine.onednn import linear_library
from trainer.engine.responses import response_rewards
from trainer.engine.shared_prefix import Tree, plant
from trainer.engine.tokens import Encoder, load_tokenizer
from trainer.errors import TrainerError
from trainer.formulas.evaluation import (
    calibration_of,
    figures_of,
    gaps_of,
    human_ceiling,
    length_correlation,
    slices_of,
    strict_pairs,
)
from trainer.formulas.losses import fit_slope, smoothed_plackett_luce
from trainer.formulas.schedules import default_lr, linear_to_zero
from trainer.run.artifacts import finish
from trainer.run.directory import Run
from trainer.run.files import hash_model_files
from trainer.run.report import draw_points
from trainer.settings.flags import numbers_of
from trainer.settings.reward import RewardConfig

# As many rankings are looked at along the way; the end is measured on all of them.
VALIDATION_RANKINGS = 128


@dataclass(frozen=True)
class Example:
    """A ranking as tokens."""

    ranking: Ranking
    trees: list[Tree]  # one of all candidates, or one for each where the prompt was cut differently

    @property
    def lengths(self) -> list[int]:
        """The candidates' tokens."""
        return [len(each) for _, responses in self.trees for each in responses]

    @property
    def size(self) -> int:
        """All of its tokens."""
        return sum(len(prompt) for prompt, _ in self.trees) + sum(self.lengths)


@dataclass(frozen=True)
class LengthOffset:
    """What length alone adds to a candidate's chances: slope * (tokens - its ranking's mean) / spread."""

    slope: float = 0.0
    spread: float = 1.0


def main(config: RewardConfig) -> dict[str, Any]:
    """Fit a reward model; the result is also in result.json."""
    by_size = [train_on_share(config, share) for share in numbers_of(config.sizes, "--sizes")]
    processes = Processes(choose_device(config.device))
    make_repeatable(config.seed, processes.device)
    data = read_rankings(config.data)
    tokenizer = load_tokenizer(config.model)

    def load() -> Any:
        return load_reward_model(config.model, tokenizer, processes.device, seed=config.seed)

    model = load()
    model.config.reward_mean = 0.0
    encoder = Encoder(tokenizer, fit_window(config.max_length, model))
    train = [encode(encoder, each) for each in take_share(data["train"], config.train_share)]
    held_out = [encode(encoder, ranking) for ranking in data["validation"]]
    if not any(has_order(example) for example in train):
        raise TrainerError(f"{config.data}: has no rankings to train on")
    offset = fit_length_offset(train) if config.length_control else LengthOffset()
    lr = config.lr or default_lr(9e-6, 6e9, count_parameters(model))
    total = config.steps or max(1, round(config.epochs * len(train) / config.batch_size))
    facts = {
        "data_hash": data.hash,
        "model_hash": hash_model_files(config.model),
        "lr": lr,
        "linear": linear_library(),
        "window": encoder.max_length,
        "length_slope": offset.slope,
    }
    pad = tokenizer.pad_token_id
    learner: Learner[Example] = Learner(
        model,
        config,
        processes,
        lr=lr,
        loss_of=lambda model, some: summed_loss(model, some, pad, config, offset),
        weight_of=lambda example: example.ranking.weight,
    )
    order = Batches(
        len(train), config.batch_size, seed=config.seed, lengths=[each.size for each in train]
    )
    with Run("reward", config, facts, processes) as run:
        learner.load_state(run.open(total))
        for step in run.steps():
            if learner.has_enough:
                break
            rate = lr * linear_to_zero(step, total, warmup=min(20, total // 10))
            figures = learner.step([train[index] for index in order(step)], lr=rate)
            if held_out and learner.looks(step, total):
                seen = figures_of(gaps_on(model, held_out[:VALIDATION_RANKINGS], pad))
                figures["validation_log_loss"] = seen["log_loss"] or math.nan
                figures["validation_accuracy"] = seen["accuracy"] or math.nan
                learner.note(step, seen["log_loss"] or math.inf)
            run.log(step, **figures)
            if run.wants_checkpoint(step, learner.has_enough):
                run.save_checkpoint(step, learner.state())
        best = learner.take_best()
        model.config.reward_mean = mean_reward(
            model, [preferred(each) for each in train[: config.max_mean_examples]], pad
        )
        result: dict[str, Any] = {
            "stage": "reward",
            "steps": run.last_step,
            **best,
            "train_rankings": len(train),
            "reward_mean": model.config.reward_mean,
        }
        test = [encode(encoder, ranking) for ranking in data["test"]]
        for split, examples in (("validation", held_out), ("test", test)):
            if examples:
                result[split] = measure(model, examples, pad)
        if config.length_control:
            result["length_slope"] = offset.slope
        if by_size:
            result["by_size"] = [*by_size, size_row(result)]
        result["left_out"] = {**data.left_out, **encoder.cut}
        finish(
            run,
            model=learner.whole_model(load),
            tokenizer=tokenizer,
            result=result,
            drawings=draw(result),
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


def preferred(example: Example) -> Tree:
    """The prompt and the first of the best candidates."""
    ranks = example.ranking.ranks
    best = ranks.index(min(ranks))
    rows = [(prompt, [each]) for prompt, responses in example.trees for each in responses]
    return rows[best]


def take_share(rankings: Sequence[Ranking], share: float) -> list[Ranking]:
    """The rankings of that share of the prompts; what a smaller share holds, a larger one holds too."""

    def place(ranking: Ranking) -> bytes:
        text = json.dumps(ranking.messages, sort_keys=True)
        return hashlib.sha256(b"size" + text.encode()).digest()

    places = sorted({place(each) for each in rankings})
    kept = set(places[: max(1, round(share * len(places)))])
    return [each for each in rankings if place(each) in kept]


def train_on_share(config: RewardConfig, share: float) -> dict[str, Any]:
    """The figures of the same run on a share of the prompts, made in a folder beside."""
    out = Path(config.out) / "sizes" / f"{share:g}"
    smaller = dataclasses.replace(
        config, out=str(out), train_share=share, sizes="", steps=None, resume=True
    )
    done = out / "result.json"
    result = json.loads(done.read_text()) if config.resume and done.exists() else main(smaller)
    return size_row(result)


def size_row(result: dict[str, Any]) -> dict[str, Any]:
    """Training-set size, and accuracy on what is held out."""
    figures = result.get("test") or result.get("validation") or {}
    return {
        "train_rankings": result["train_rankings"],
        "accuracy": figures.get("accuracy"),
        "accuracy_interval": figures.get("accuracy_interval"),
    }


def fit_length_offset(examples: Sequence[Example]) -> LengthOffset:
    """How far length alone predicts the rankings."""
    lengths, ranks, mask = pad_examples(examples, [each.lengths for each in examples])
    spread = float((lengths.square().sum() / mask.sum()).sqrt()) or 1.0
    weights = torch.tensor([each.ranking.weight for each in examples])
    return LengthOffset(fit_slope(lengths / spread, ranks, mask, weights), spread)


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


def summed_loss(
    model: Any,
    examples: Sequence[Example],
    pad: int,
    config: RewardConfig,
    offset: LengthOffset | None = None,
) -> tuple[Tensor, Sums]:
    """The weighted losses of some rankings, added up, with the accuracy on strict pairs."""
    flat = response_rewards(
        model, plant([tree for each in examples for tree in each.trees], model, pad)
    )
    counts = [len(each.ranking.ranks) for each in examples]
    rewards = torch.nn.utils.rnn.pad_sequence([*torch.split(flat, counts)], batch_first=True)
    lengths, ranks, mask = (
        each.to(flat.device)
        for each in pad_examples(examples, [example.lengths for example in examples])
    )
    judged = rewards.detach()
    if offset is not None and offset.slope:
        rewards = rewards + offset.slope * lengths / offset.spread * mask
    if config.margin_scale:
        rewards = rewards - config.margin_scale * leads(examples, ranks)
    losses = smoothed_plackett_luce(rewards, ranks, mask, smoothing=config.label_smoothing)
    weights = flat.new_tensor([each.ranking.weight for each in examples])
    right, strict = count_right(judged, ranks, mask)
    return (losses * weights).sum(), {"accuracy": (right, strict)}


def leads(examples: Sequence[Example], ranks: Tensor) -> Tensor:
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


def count_right(rewards: Tensor, ranks: Tensor, mask: Tensor) -> tuple[float, int]:
    """(pairs put right, strict pairs); two equal rewards are half right."""
    both = mask[:, :, None] * mask[:, None, :]
    strict = (ranks[:, :, None] < ranks[:, None, :]) * both  # the row is better than the column
    difference = rewards[:, :, None] - rewards[:, None, :]
    right = ((difference > 0) + 0.5 * (difference == 0)) * strict
    return float(right.sum()), int(strict.sum())


# --- figures ----------------------------------------------------------------------------------------


def rewards_on(
    model: Any, examples: Sequence[Example], pad: int, *, batch_size: int = 16
) -> list[Tensor]:
    """The (K,) rewards of each ranking's candidates."""
    found: list[Tensor] = [torch.empty(0)] * len(examples)
    order = sorted(range(len(examples)), key=lambda index: examples[index].size)
    with torch.no_grad():
        for start in range(0, len(order), batch_size):
            some = order[start : start + batch_size]
            trees = [tree for index in some for tree in examples[index].trees]
            flat = response_rewards(model, plant(trees, model, pad)).double().cpu()
            counts = [len(examples[index].ranking.ranks) for index in some]
            for index, values in zip(some, torch.split(flat, counts), strict=True):
                found[index] = values
    return found


def gaps_on(model: Any, examples: Sequence[Example], pad: int) -> Tensor:
    """(N,) rewards of preferred candidates less those of the others, over strict pairs."""
    rankings = [each.ranking for each in examples]
    return gaps_of(strict_pairs(rankings, rewards_on(model, examples, pad)))


def mean_reward(model: Any, trees: Sequence[Tree], pad: int, *, batch_size: int = 64) -> float:
    """The mean of the raw head over some responses, one a tree."""
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(trees), batch_size):
            forest = plant(trees[start : start + batch_size], model, pad)
            total += float(response_rewards(model, forest).double().sum())
    return total / len(trees)


def measure(
    model: Any, examples: Sequence[Example], pad: int, *, batch_size: int = 16
) -> dict[str, Any]:
    """The figures of a model on rankings; see `describe`."""
    rewards = rewards_on(model, examples, pad, batch_size=batch_size)
    return describe([each.ranking for each in examples], rewards)


def describe(rankings: Sequence[Ranking], rewards: Sequence[Tensor]) -> dict[str, Any]:
    """{pairs, accuracy, log_loss, calibration_error, …} over strict pairs, with slices and bins.

    The interval is the 95 % Wilson score interval of the accuracy, as if pairs were independent.
    """
    pairs = strict_pairs(rankings, rewards)
    gaps = gaps_of(pairs)
    figures = figures_of(gaps)
    if not pairs:
        return figures | {"calibration": []}
    return {
        **figures,
        "length_correlation": length_correlation(pairs),
        "human": human_ceiling(pairs),
        "calibration": calibration_of(gaps),
        "slices": slices_of(pairs, rankings, rewards),
    }


def draw(result: dict[str, Any]) -> list[str]:
    """The plots of a result: calibration on each split, and accuracy by size."""
    splits = [split for split in ("validation", "test") if split in result]
    drawings = [draw_calibration(split, result[split]["calibration"]) for split in splits]
    return drawings + ([draw_sizes(result["by_size"])] if "by_size" in result else [])


def draw_calibration(split: str, bins: Sequence[dict[str, float]]) -> str:
    """Accuracy against confidence: on the diagonal, a reward model means what it says."""
    points = [(each["confidence"], each["accuracy"]) for each in bins]
    return draw_points(
        f"calibration ({split})",
        {"pairs": points},
        "confidence",
        "accuracy",
        joined=True,
        diagonal=True,
    )


def draw_sizes(rows: Sequence[dict[str, Any]]) -> str:
    """Accuracy against the number of training rankings."""
    points = [
        (float(row["train_rankings"]), row["accuracy"])
        for row in rows
        if row["accuracy"] is not None
    ]
    return draw_points(
        "accuracy against size", {"held out": points}, "training rankings", "accuracy", joined=True
    )
