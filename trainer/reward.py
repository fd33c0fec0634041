"""The reward model: a scalar head that makes the rankings likely.

A ranking of K is one batch element: its candidates go through one forward pass and their rewards into the
Plackett-Luce likelihood (K = 2 is Bradley-Terry; ties by Breslow's rule; see `losses.plackett_luce`).
InstructGPT (Ouyang et al. 2022, eq. 1) takes the mean over the K(K-1)/2 pairs instead; the likelihood of
the whole ranking uses the same comparisons once. Afterwards the mean reward of the preferred training
responses is stored as `reward_mean` in the model's configuration and subtracted by whoever scores
(Stiennon et al. 2020): it changes no ranking, and puts zero where a good response is. The head itself has
no bias: other programs that load the model see rewards that are higher by `reward_mean`, all of them alike.

A ranking in which all candidates are tied still pulls their rewards together; it takes part in training,
and is counted. Every rater's ranking of a prompt is an example of its own, with its own weight.

    python -m trainer reward --data EXPORT --model MODEL --out RUN
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config import default_lr
from trainer.data import Ranking, read_rankings
from trainer.errors import TrainerError
from trainer.losses import calibration_error, plackett_luce
from trainer.models import (
    Encoder,
    choose_device,
    count_parameters,
    fit_window,
    load_reward_model,
    load_tokenizer,
    make_repeatable,
    pad_right,
    save_model,
    sequence_rewards,
)
from trainer.report import write_report
from trainer.runs import Batches, Run, hash_model_files, is_due, linear_to_zero, take_step
from trainer.stages import RewardConfig

# As many rankings are looked at along the way; the end is measured on all of them.
VALIDATION_RANKINGS = 128

Encoded = tuple[list[list[int]], list[int], float]  # K rows of tokens, K ranks, weight


def main(config: RewardConfig) -> dict[str, Any]:
    """Fit a reward model; the result is also in result.json."""
    device = choose_device(config.device)
    make_repeatable(config.seed, device)
    data = read_rankings(config.data)
    tokenizer = load_tokenizer(config.model)
    model = load_reward_model(config.model, tokenizer, device, seed=config.seed)
    model.config.reward_mean = 0.0
    encoder = Encoder(tokenizer, fit_window(config.max_length, model))
    train = [encode(encoder, ranking) for ranking in data["train"]]
    held_out = [encode(encoder, ranking) for ranking in data["validation"]]
    if not any(has_order(ranking) for ranking in train):
        raise TrainerError(f"{config.data}: has no rankings to train on")
    lr = config.lr or default_lr(9e-6, 6e9, count_parameters(model))
    total = config.steps or max(1, round(config.epochs * len(train) / config.batch_size))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=lr, eps=1e-5, weight_decay=config.weight_decay
    )
    facts = {
        "data_hash": data.hash,
        "model_hash": hash_model_files(config.model),
        "lr": lr,
        "window": encoder.max_length,
    }
    pad = tokenizer.pad_token_id
    lengths = [max(map(len, rows)) for rows, _, _ in train]
    order = Batches(len(train), config.batch_size, seed=config.seed, lengths=lengths)
    with Run("reward", config, facts) as run:
        state = run.open(total)
        if state:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
        for step in run.steps():
            chosen = order(step)
            rate = lr * linear_to_zero(step, total, warmup=min(20, total // 10))
            loss, accuracy = batch_loss(model, [train[index] for index in chosen], pad)
            norm = take_step(model, optimizer, loss, lr=rate, longest=config.max_grad_norm)
            figures = {"loss": loss.item(), "accuracy": accuracy, "lr": rate, "grad_norm": norm}
            if held_out and is_due(step, config.validate_every, total):
                seen = measure(model, held_out[:VALIDATION_RANKINGS], pad)
                figures["validation_log_loss"] = seen["log_loss"] or math.nan
                figures["validation_accuracy"] = seen["accuracy"] or math.nan
            run.log(step, **figures)
            if run.wants_checkpoint(step):
                saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                run.save_checkpoint(step, saved)
        preferred = [rows[ranks.index(min(ranks))] for rows, ranks, _ in train]
        model.config.reward_mean = mean_reward(model, preferred[: config.max_mean_examples], pad)
        result: dict[str, Any] = {
            "stage": "reward",
            "steps": total,
            "train_rankings": len(train),
            "reward_mean": model.config.reward_mean,
        }
        test = [encode(encoder, ranking) for ranking in data["test"]]
        for split, examples in (("validation", held_out), ("test", test)):
            if examples:
                result[split] = measure(model, examples, pad)
        result["left_out"] = {**data.left_out, **encoder.cut}
        save_model(model, tokenizer, Path(config.out) / "model")
        write_report(
            Path(config.out) / "report.html",
            title="Reward model",
            run=run,
            curves=[
                ("loss", ["loss"]),
                ("accuracy on strict pairs", ["accuracy", "validation_accuracy"]),
                ("validation: log loss of a pair", ["validation_log_loss"]),
                ("gradient norm", ["grad_norm"]),
            ],
            result=result,
        )
        run.finish(result)
    return result


def encode(encoder: Encoder, ranking: Ranking) -> Encoded:
    """A ranking as rows of tokens."""
    pairs = [encoder.pair(ranking.messages, text) for text in ranking.candidates]
    return [prompt + response for prompt, response in pairs], ranking.ranks, ranking.weight


def has_order(ranking: Encoded) -> bool:
    """Whether the ranking puts anything before anything else."""
    _, ranks, _ = ranking
    return len(set(ranks)) > 1


def rewards_of(model: Any, batch: Sequence[Encoded], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """(rewards, ranks, mask), each (B, K), of a batch of rankings in one forward pass."""
    device = next(model.parameters()).device
    rows = [row for candidates, _, _ in batch for row in candidates]
    ids, attention = pad_right(rows, pad, device)
    flat = sequence_rewards(model, ids, attention)
    most = max(len(ranks) for _, ranks, _ in batch)
    rewards = flat.new_zeros((len(batch), most))
    ranks_of = torch.full((len(batch), most), most + 1, device=device)
    mask = flat.new_zeros((len(batch), most))
    start = 0
    pieces = []
    for place, (_, ranks, _) in enumerate(batch):
        count = len(ranks)
        pieces.append(nn.functional.pad(flat[start : start + count], (0, most - count)))
        ranks_of[place, :count] = torch.tensor(ranks, device=device)
        mask[place, :count] = 1
        start += count
    rewards = torch.stack(pieces)
    return rewards, ranks_of, mask


def batch_loss(model: Any, batch: Sequence[Encoded], pad: int) -> tuple[Tensor, float]:
    """(weighted mean loss, share of strict pairs put right) of a batch."""
    rewards, ranks, mask = rewards_of(model, batch, pad)
    weights = torch.tensor([weight for _, _, weight in batch], device=rewards.device)
    losses = plackett_luce(rewards, ranks, mask)
    loss = (losses * weights).sum() / weights.sum().clamp(min=1e-8)
    right, judged = count_right(rewards.detach(), ranks, mask)
    return loss, right / max(judged, 1)


def count_right(rewards: Tensor, ranks: Tensor, mask: Tensor) -> tuple[float, int]:
    """(pairs put right, strict pairs); two equal rewards are half right."""
    both = mask[:, :, None] * mask[:, None, :]
    strict = (ranks[:, :, None] < ranks[:, None, :]) * both  # the row is better than the column
    difference = rewards[:, :, None] - rewards[:, None, :]
    right = ((difference > 0) + 0.5 * (difference == 0)) * strict
    return float(right.sum()), int(strict.sum())


def mean_reward(model: Any, rows: Sequence[list[int]], pad: int, *, batch_size: int = 64) -> float:
    """The mean of the raw head over some responses."""
    device = next(model.parameters()).device
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            ids, mask = pad_right(rows[start : start + batch_size], pad, device)
            total += float(sequence_rewards(model, ids, mask).double().sum())
    return total / len(rows)


def measure(
    model: Any, rankings: Sequence[Encoded], pad: int, *, batch_size: int = 16
) -> dict[str, Any]:
    """{pairs, accuracy, accuracy_interval, log_loss, calibration_error} over strict pairs.

    The interval is the 95 % Wilson score interval of the accuracy, as if pairs were independent.
    """
    differences = []
    order = sorted(range(len(rankings)), key=lambda index: max(map(len, rankings[index][0])))
    with torch.no_grad():
        for start in range(0, len(order), batch_size):
            some = [rankings[index] for index in order[start : start + batch_size]]
            rewards, ranks, mask = rewards_of(model, some, pad)
            both = (mask[:, :, None] * mask[:, None, :]).bool()
            strict = (ranks[:, :, None] < ranks[:, None, :]) & both
            differences.append((rewards[:, :, None] - rewards[:, None, :])[strict].cpu().double())
    gaps = torch.cat(differences) if differences else torch.zeros(0)
    return figures_of(gaps)


def figures_of(gaps: Tensor) -> dict[str, Any]:
    """The figures of reward differences (chosen minus rejected)."""
    pairs = len(gaps)
    if pairs == 0:
        return {"pairs": 0, "accuracy": None, "log_loss": None, "calibration_error": None}
    accuracy = float(((gaps > 0).double() + 0.5 * (gaps == 0).double()).mean())
    return {
        "pairs": pairs,
        "accuracy": accuracy,
        "log_loss": float(-nn.functional.logsigmoid(gaps).mean()),
        "calibration_error": float(calibration_error(gaps.sigmoid())),
        "accuracy_interval": wilson(accuracy, pairs),
    }


def wilson(share: float, count: int, z: float = 1.959964) -> list[float]:
    """The 95 % score interval of a share (Wilson 1927)."""
    middle = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return [(middle - spread) / scale, (middle + spread) / scale]
