"""Direct preference optimisation: a policy straight from comparisons.

Rafailov et al. 2023, eq. 7, on the strict pairs of every ranking, each with the ranking's weight. The
reference's log-probabilities are worked out once, before training. `--label-smoothing` is the chance of a
wrong label (conservative DPO); `--loss ipo` is Azar et al. 2023's squared loss instead.

    python -m trainer dpo --data EXPORT --model MODEL --out RUN --beta 0.1
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.config import default_lr
from trainer.data import Ranking, read_rankings
from trainer.errors import TrainerError
from trainer.losses import dpo, ipo
from trainer.models import (
    Encoder,
    choose_device,
    count_parameters,
    fit_window,
    load_policy,
    load_tokenizer,
    make_repeatable,
    response_logprobs,
    same_tokens,
    save_model,
)
from trainer.report import write_report
from trainer.runs import Batches, Run, hash_model_files, is_due, linear_to_zero, take_step
from trainer.stages import DPOConfig

# As many pairs are looked at along the way; the end is measured on all of them.
VALIDATION_PAIRS = 256

Side = tuple[list[int], list[int]]  # prompt and response tokens


@dataclass(frozen=True)
class Pair:
    """A comparison, and the reference's summed log-probabilities of its sides."""

    chosen: Side
    rejected: Side
    weight: float
    reference: tuple[float, float] = (0.0, 0.0)


def main(config: DPOConfig) -> dict[str, Any]:
    """Train; the result is also in result.json."""
    device = choose_device(config.device)
    make_repeatable(config.seed, device)
    data = read_rankings(config.data)
    tokenizer = load_tokenizer(config.model)
    policy = load_policy(config.model, tokenizer, device)
    if config.reference and not same_tokens(tokenizer, load_tokenizer(config.reference)):
        raise TrainerError(f"{config.reference}: its tokens are not those of {config.model}")
    reference = load_policy(config.reference or config.model, tokenizer, device)
    encoder = Encoder(tokenizer, fit_window(config.max_length, policy, reference))
    pad = tokenizer.pad_token_id
    train = with_reference(reference, to_pairs(encoder, data["train"]), pad)
    held_out = with_reference(reference, to_pairs(encoder, data["validation"]), pad)
    del reference
    if not train:
        raise TrainerError(f"{config.data}: has no comparisons to train on")
    lr = config.lr or default_lr(1e-6, 6.9e9, count_parameters(policy))
    total = config.steps or max(1, round(config.epochs * len(train) / config.batch_size))
    optimizer = torch.optim.AdamW(policy.parameters(), lr=lr, eps=1e-5, weight_decay=0.0)
    facts = {
        "data_hash": data.hash,
        "model_hash": hash_model_files(config.model),
        "reference_hash": hash_model_files(config.reference or config.model),
        "lr": lr,
        "window": encoder.max_length,
    }
    lengths = [
        max(len(each.chosen[1]), len(each.rejected[1])) + len(each.chosen[0]) for each in train
    ]
    order = Batches(len(train), config.batch_size, seed=config.seed, lengths=lengths)
    with Run("dpo", config, facts) as run:
        state = run.open(total)
        if state:
            policy.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
        for step in run.steps():
            chosen = order(step)
            rate = lr * linear_to_zero(step, total, warmup=min(20, total // 10))
            loss, accuracy, margin = batch_loss(policy, [train[i] for i in chosen], pad, config)
            norm = take_step(policy, optimizer, loss, lr=rate, longest=config.max_grad_norm)
            figures = {
                "loss": loss.item(),
                "accuracy": accuracy,
                "margin": margin,
                "lr": rate,
                "grad_norm": norm,
            }
            if held_out and is_due(step, config.validate_every, total):
                seen = measure(policy, held_out[:VALIDATION_PAIRS], pad, config)
                figures["validation_loss"] = seen["loss"]
                figures["validation_accuracy"] = seen["accuracy"]
            run.log(step, **figures)
            if run.wants_checkpoint(step):
                saved = {"model": policy.state_dict(), "optimizer": optimizer.state_dict()}
                run.save_checkpoint(step, saved)
        result: dict[str, Any] = {"stage": "dpo", "steps": total, "train_pairs": len(train)}
        if held_out:
            result["validation"] = measure(policy, held_out, pad, config)
        result["left_out"] = {**data.left_out, **encoder.cut}
        save_model(policy, tokenizer, Path(config.out) / "model")
        write_report(
            Path(config.out) / "report.html",
            title="DPO",
            run=run,
            curves=[
                ("loss", ["loss", "validation_loss"]),
                ("accuracy", ["accuracy", "validation_accuracy"]),
                ("margin", ["margin"]),
            ],
            result=result,
        )
        run.finish(result)
    return result


def to_pairs(encoder: Encoder, rankings: Sequence[Ranking]) -> list[Pair]:
    """The strict pairs of rankings, each with the weight of its ranking."""
    pairs = []
    for ranking in rankings:
        sides = [encoder.pair(ranking.messages, text) for text in ranking.candidates]
        strict = [
            (one, other) if ranking.ranks[one] < ranking.ranks[other] else (other, one)
            for one, other in combinations(range(len(sides)), 2)
            if ranking.ranks[one] != ranking.ranks[other]
        ]
        pairs += [Pair(sides[one], sides[other], ranking.weight) for one, other in strict]
    return pairs


def sequence_logprobs(policy: Any, sides: Sequence[Side], pad: int) -> tuple[Tensor, Tensor]:
    """(B,) summed log-probabilities of the responses, and (B,) how many tokens each has."""
    logprobs, mask = response_logprobs(policy, sides, pad)
    return logprobs.sum(-1), mask.sum(-1)


def with_reference(
    reference: Any, pairs: Sequence[Pair], pad: int, *, batch_size: int = 32
) -> list[Pair]:
    """The pairs with the reference's log-probabilities."""
    found = []
    with torch.no_grad():
        for start in range(0, len(pairs), batch_size):
            some = pairs[start : start + batch_size]
            sides = [pair.chosen for pair in some] + [pair.rejected for pair in some]
            both = sequence_logprobs(reference, sides, pad)[0].tolist()
            for place, pair in enumerate(some):
                values = (both[place], both[place + len(some)])
                found.append(Pair(pair.chosen, pair.rejected, pair.weight, values))
    return found


def batch_loss(
    policy: Any, pairs: Sequence[Pair], pad: int, config: DPOConfig
) -> tuple[Tensor, float, float]:
    """(weighted mean loss, share of pairs put right, mean margin) of a batch, in one forward pass."""
    sides = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    sums, lengths = sequence_logprobs(policy, sides, pad)
    reference = sums.new_tensor([pair.reference for pair in pairs])
    ratios = sums - reference.T.flatten()  # (2 B,) log of policy over reference, chosen first
    chosen, rejected = ratios.chunk(2)
    if config.loss == "ipo":
        losses = ipo(*(ratios / lengths).chunk(2), beta=config.beta)
    else:
        losses = dpo(chosen, rejected, beta=config.beta, smoothing=config.label_smoothing)
    weights = sums.new_tensor([pair.weight for pair in pairs])
    margin = config.beta * (chosen - rejected).detach()
    loss = (losses * weights).sum() / weights.sum().clamp(min=1e-8)
    right = (margin > 0).float() + 0.5 * (margin == 0).float()
    return loss, float(right.mean()), float(margin.mean())


def measure(
    policy: Any, pairs: Sequence[Pair], pad: int, config: DPOConfig, *, batch_size: int = 32
) -> dict[str, float]:
    """The loss and the implicit reward's accuracy on pairs that are not trained on."""
    loss = right = 0.0
    with torch.no_grad():
        for start in range(0, len(pairs), batch_size):
            some = pairs[start : start + batch_size]
            lost, accuracy, _ = batch_loss(policy, some, pad, config)
            loss += lost.item() * len(some)
            right += accuracy * len(some)
    return {"pairs": len(pairs), "loss": loss / len(pairs), "accuracy": right / len(pairs)}
