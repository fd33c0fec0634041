"""Direct preference optimisation: a policy straight from comparisons.

Rafailov et al. 2023, eq. 7, on the strict pairs of every ranking. The reference's log-probabilities are
worked out once, before training. `--label-smoothing` is conservative DPO's chance of a wrong label.

    python -m trainer dpo --data EXPORT --model MODEL --out RUN --beta 0.1
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config import TrainingConfig, default_lr, flag, parse
from trainer.data import Ranking, read_rankings
from trainer.errors import TrainerError, UsageError
from trainer.losses import dpo, token_logprobs
from trainer.models import (
    Encoder,
    choose_device,
    count_parameters,
    hidden_states,
    load_policy,
    load_tokenizer,
    make_repeatable,
    pad_right,
    save_model,
)
from trainer.report import write_report
from trainer.runs import Run, batches, hash_model_files, linear_to_zero

Side = tuple[list[int], list[int]]  # prompt and response tokens


@dataclass(frozen=True, kw_only=True)
class DPOConfig(TrainingConfig):
    """A policy straight from comparisons."""

    beta: float = flag(0.1, "how strongly the policy is held to the reference")
    label_smoothing: float = flag(0.0, "the chance that a comparison is wrong")
    reference: str | None = flag(None, "the reference policy [default: the starting model]")

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        super().__post_init__()
        if self.beta <= 0:
            raise UsageError("--beta must be above 0")
        if not 0 <= self.label_smoothing < 0.5:
            raise UsageError("--label-smoothing must be at least 0 and below 0.5")


@dataclass(frozen=True)
class Pair:
    """A comparison, and the reference's summed log-probabilities of its sides."""

    chosen: Side
    rejected: Side
    weight: float
    reference: tuple[float, float] = (0.0, 0.0)


def command(argv: list[str]) -> int:
    """Run from the command line."""
    example = "python -m trainer dpo --data export --model model --out runs/dpo"
    main(parse(DPOConfig, argv, stage="dpo", example=example))
    return 0


def main(config: DPOConfig) -> dict[str, Any]:
    """Train; the result is also in result.json."""
    make_repeatable(config.seed)
    device = choose_device(config.device)
    data = read_rankings(config.data)
    tokenizer = load_tokenizer(config.model)
    policy = load_policy(config.model, tokenizer, device)
    encoder = Encoder(tokenizer, config.max_length)
    pad = tokenizer.pad_token_id
    reference = load_policy(config.reference or config.model, tokenizer, device)
    train = with_reference(reference, to_pairs(encoder, data["train"]), pad)
    held_out = with_reference(reference, to_pairs(encoder, data["validation"]), pad)
    del reference
    if not train:
        raise TrainerError(f"{config.data}: has no comparisons to train on")
    lr = config.lr or default_lr(1e-6, 6.9e9, count_parameters(policy))
    total = config.steps or max(1, round(config.epochs * len(train) / config.batch_size))
    optimizer = torch.optim.AdamW(policy.parameters(), lr=lr, eps=1e-5, weight_decay=0.0)
    facts = {"data_hash": data.hash, "model_hash": hash_model_files(config.model), "lr": lr}
    with Run("dpo", config, facts) as run:
        state = run.open(total)
        if state:
            policy.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
        for step in run.steps():
            chosen = batches(len(train), config.batch_size, seed=config.seed, step=step)
            rate = lr * linear_to_zero(step, total, warmup=min(20, total // 10))
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss, accuracy, margin = batch_loss(policy, [train[i] for i in chosen], pad, config)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            run.log(
                step,
                loss=loss.item(),
                accuracy=accuracy,
                margin=margin,
                lr=rate,
                grad_norm=norm.item(),
            )
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
            metrics=run.read_metrics(),
            curves=[("loss", ["loss"]), ("accuracy", ["accuracy"]), ("margin", ["margin"])],
            result={name: value for name, value in result.items() if not isinstance(value, dict)},
        )
        run.finish(result)
    return result


def to_pairs(encoder: Encoder, rankings: Sequence[Ranking]) -> list[Pair]:
    """The strict pairs of rankings; those of one ranking share its weight."""
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


def sequence_logprobs(policy: Any, sides: Sequence[Side], pad: int) -> Tensor:
    """(B,) summed log-probabilities of the responses."""
    device = next(policy.parameters()).device
    ids, mask = pad_right([prompt + response for prompt, response in sides], pad, device)
    wanted, _ = pad_right([[0] * len(p) + [1] * len(r) for p, r in sides], 0, device)
    logits = policy.get_output_embeddings()(hidden_states(policy, ids, mask)[:, :-1])
    return (token_logprobs(logits, ids[:, 1:], 1.0) * wanted[:, 1:]).sum(-1)


def with_reference(
    reference: Any, pairs: Sequence[Pair], pad: int, *, batch_size: int = 32
) -> list[Pair]:
    """The pairs with the reference's log-probabilities."""
    found = []
    with torch.no_grad():
        for start in range(0, len(pairs), batch_size):
            some = pairs[start : start + batch_size]
            both = sequence_logprobs(
                reference, [p.chosen for p in some] + [p.rejected for p in some], pad
            ).tolist()
            for place, pair in enumerate(some):
                values = (both[place], both[place + len(some)])
                found.append(Pair(pair.chosen, pair.rejected, pair.weight, values))
    return found


def batch_loss(
    policy: Any, pairs: Sequence[Pair], pad: int, config: DPOConfig
) -> tuple[Tensor, float, float]:
    """(weighted mean loss, share of pairs put right, mean margin) of a batch, in one forward pass."""
    sides = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    chosen, rejected = sequence_logprobs(policy, sides, pad).chunk(2)
    reference = torch.tensor([pair.reference for pair in pairs], device=chosen.device)
    losses = dpo(
        chosen,
        rejected,
        reference[:, 0],
        reference[:, 1],
        beta=config.beta,
        smoothing=config.label_smoothing,
    )
    weights = torch.tensor([pair.weight for pair in pairs], device=chosen.device)
    margin = config.beta * ((chosen - reference[:, 0]) - (rejected - reference[:, 1])).detach()
    loss = (losses * weights).sum() / weights.sum().clamp(min=1e-8)
    return loss, float((margin > 0).float().mean()), float(margin.mean())


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
