"""Direct preference optimisation: a policy straight from comparisons.

Rafailov et al. 2023, eq. 7, on the strict pairs of every ranking, each with the ranking's weight. Ties are
left out, which biases nothing: given that a pair is not tied, Davidson's chance of its order is
Bradley-Terry's, whatever the chance of a tie. The reference's log-probabilities are worked out once, before
training. `--label-smoothing` is the chance of a wrong label (conservative DPO); `--loss ipo` is Azar et al.
2023's squared loss instead.

    python -m trainer dpo --data EXPORT --model MODEL --out RUN --beta 0.1
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations

import torch
from torch import Tensor

from trainer.data.examples import Ranking, Tally
from trainer.data.files import read_rankings
from trainer.data.values import JsonObject, Result
from trainer.engine.capabilities import check_identity
from trainer.engine.distributed import Processes
from trainer.engine.encoding import encode_all, figures_of_left_out, nothing_left
from trainer.engine.fit import Learner, Sum, SummedLoss, Validation, fit
from trainer.engine.models import (
    choose_device,
    count_parameters,
    fit_window,
    load_policy,
    make_repeatable,
)
from trainer.engine.prepare import plain_model, prepare_model
from trainer.engine.protocols import Policy
from trainer.engine.provenance import provenance_of
from trainer.engine.responses import response_sums
from trainer.engine.shared_prefix import PromptResponses, build_batch
from trainer.engine.tokens import Encoder, load_tokenizer, same_tokens
from trainer.engine.usage import describe_answering
from trainer.errors import TrainerError
from trainer.formulas.losses import dpo, ipo
from trainer.formulas.schedules import count_steps
from trainer.run.artifacts import write_artifacts
from trainer.run.directory import Run
from trainer.run.files import hash_model_files
from trainer.run.progress import tell_left_out
from trainer.settings.dpo import DPOConfig
from trainer.settings.rates import choose_lr

# Validation on so many pairs along the way; the end is measured on all of them.
VALIDATION_PAIRS = 256

Side = tuple[list[int], list[int]]  # prompt and response tokens


@dataclass(frozen=True)
class Pair:
    """A comparison, and the reference's summed log-probabilities of its sides."""

    chosen: Side
    rejected: Side
    weight: float
    reference: tuple[float, float] = (0.0, 0.0)


def main(config: DPOConfig) -> Result:
    """Train; the result is also in result.json."""
    processes = Processes(choose_device(config.device))
    processes.check_batch(config.batch_size)
    make_repeatable(config.seed, processes.device)
    data = read_rankings(config.data)
    tokenizer = load_tokenizer(config.model)

    def load(path: str = config.model) -> Policy:
        return load_policy(path, tokenizer, processes.loading_device(config.shard))

    if config.reference and not same_tokens(tokenizer, load_tokenizer(config.reference)):
        raise TrainerError(f"{config.reference}: its tokens are not those of {config.model}")
    policy, pad = load(), tokenizer.pad_token_id
    lr, lr_source = choose_lr(
        config.lr, "dpo", count_parameters(policy), lora=bool(config.lora_rank)
    )
    # Made ready one after the other: no two stand whole on a device that they are to be divided on.
    learner: Learner[Policy, Pair] = Learner(
        policy,
        config,
        processes,
        lr=lr,
        sum_losses=lambda model, pairs: sum_losses(model, pairs, pad, config),
        weight_of=lambda pair: pair.weight,
    )
    reference = prepare_model(
        load(config.reference or config.model), config, processes, trainable=False
    )
    encoder = Encoder(tokenizer, fit_window(config.max_length, policy, reference))
    train, held_out = (
        with_reference(reference, to_pairs(encoder, data[split], data.left_out), pad)
        for split in ("train", "validation")
    )
    del reference
    if not train:
        raise nothing_left(config.data, "comparisons to train on", data.left_out)
    tell_left_out("dpo", data.left_out, speaks=processes.first)
    steps = count_steps(config.steps, config.epochs, len(train), config.batch_size)
    provenance = provenance_of(
        config,
        data,
        lr=lr,
        lr_source=lr_source,
        window=encoder.max_length,
        reference_hash=hash_model_files(config.reference or config.model),
    )

    def validate(model: Policy) -> Validation:
        figures = measure(model, held_out[:VALIDATION_PAIRS], pad, config)
        loss, accuracy = figures["loss"], figures["accuracy"]
        return Validation(loss, {"validation_loss": loss, "validation_accuracy": accuracy})

    with Run("dpo", config, provenance, processes) as run:
        best = fit(
            run,
            learner,
            train,
            steps=steps,
            length_of=count_tokens,
            validate=validate if held_out else None,
            check_start=None if config.reference else partial(check_start, config),
        )
        result: JsonObject = {
            "stage": "dpo",
            "steps": run.last_step,
            **best,
            "train_pairs": len(train),
        }
        if held_out:
            result["validation"] = measure(policy, held_out, pad, config)
        result |= figures_of_left_out(data.left_out, encoder, config.max_length)
        write_artifacts(
            run,
            model=plain_model(policy, load, config),
            tokenizer=tokenizer,
            result=result,
            usage=describe_answering(tokenizer),
        )
    return result


def check_start(config: DPOConfig, figures: Mapping[str, float]) -> None:
    """The first step starts at the reference: no margin, and the loss of no opinion.

    -log sigmoid(0) = ln 2, smoothed or not; IPO's is (1 / (2 beta))^2. Raises TrainerError otherwise: the
    policy and its own copy would have been computed differently.
    """
    expected = 1 / (4 * config.beta**2) if config.loss == "ipo" else math.log(2)
    check_identity("DPO's first loss", figures["loss"] / expected, 1.0, config)
    check_identity("DPO's first margin", figures["margin"], 0.0, config)


def to_pairs(
    encoder: Encoder, rankings: Sequence[Ranking], tally: Tally | None = None
) -> list[Pair]:
    """The strict pairs of rankings, each with the weight of its ranking."""
    tally = Tally() if tally is None else tally
    pairs = encode_all(encoder, rankings, partial(strict_pairs_of, encoder), tally)
    return [each for some in pairs for each in some]


def strict_pairs_of(encoder: Encoder, ranking: Ranking) -> list[Pair]:
    """The pairs of which one is preferred."""
    sides = [encoder.pair(ranking.messages, text) for text in ranking.candidates]
    strict = [
        (one, other) if ranking.ranks[one] < ranking.ranks[other] else (other, one)
        for one, other in combinations(range(len(sides)), 2)
        if ranking.ranks[one] != ranking.ranks[other]
    ]
    return [Pair(sides[one], sides[other], ranking.weight) for one, other in strict]


def to_groups(pair: Pair) -> list[PromptResponses]:
    """Both sides, under one prompt where the prompt was not cut differently for them."""
    (prompt, chosen), (other, rejected) = pair.chosen, pair.rejected
    if prompt == other:
        return [(prompt, [chosen, rejected])]
    return [(prompt, [chosen]), (other, [rejected])]


def count_tokens(pair: Pair) -> int:
    """How long the pair's row is."""
    return len(pair.chosen[0]) + len(pair.chosen[1]) + len(pair.rejected[1])


def pair_sums(policy: Policy, pairs: Sequence[Pair], pad: int) -> tuple[Tensor, Tensor]:
    """(B, 2) summed log-probabilities of chosen and rejected, and (B, 2) how many tokens each has."""
    groups = [group for pair in pairs for group in to_groups(pair)]
    sums, lengths = response_sums(policy, build_batch(groups, policy, pad))
    return sums.view(-1, 2), lengths.view(-1, 2)


def with_reference(
    reference: Policy, pairs: Sequence[Pair], pad: int, *, batch_size: int = 16
) -> list[Pair]:
    """The pairs with the reference's log-probabilities: each candidate's worked out once."""
    sides: dict[int, Side] = {}
    for pair in pairs:
        sides |= {id(pair.chosen): pair.chosen, id(pair.rejected): pair.rejected}
    # Candidates of one prompt make one group; a prompt that was cut differently is another.
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for key, (prompt, _) in sides.items():
        by_prompt.setdefault(tuple(prompt), []).append(key)
    order = sorted(
        by_prompt.items(), key=lambda group: len(group[0]) + count_side_tokens(group[1], sides)
    )
    logprobs: dict[int, float] = {}
    with torch.no_grad():
        for start in range(0, len(order), batch_size):
            some = order[start : start + batch_size]
            keys = [key for _, own in some for key in own]
            groups: list[PromptResponses] = [
                (prompt, [sides[key][1] for key in own]) for prompt, own in some
            ]
            sums, _ = response_sums(reference, build_batch(groups, reference, pad))
            logprobs |= dict(zip(keys, sums.tolist(), strict=True))
    return [
        replace(pair, reference=(logprobs[id(pair.chosen)], logprobs[id(pair.rejected)]))
        for pair in pairs
    ]


def count_side_tokens(keys: Sequence[int], sides: dict[int, Side]) -> int:
    """How many tokens the responses of these sides have."""
    return sum(len(sides[key][1]) for key in keys)


def sum_losses(policy: Policy, pairs: Sequence[Pair], pad: int, config: DPOConfig) -> SummedLoss:
    """The weighted losses of some pairs, added up, with accuracy and margin, in one forward pass."""
    sums, lengths = pair_sums(policy, pairs, pad)
    reference = sums.new_tensor([pair.reference for pair in pairs])
    ratios = sums - reference  # (B, 2) log of policy over reference
    chosen, rejected = ratios.unbind(-1)
    if config.loss == "ipo":
        losses = ipo(*(ratios / lengths).unbind(-1), beta=config.beta)
    else:
        losses = dpo(chosen, rejected, beta=config.beta, smoothing=config.label_smoothing)
    weights = sums.new_tensor([pair.weight for pair in pairs])
    margin = config.beta * (chosen - rejected).detach()
    right = (margin > 0).float() + 0.5 * (margin == 0).float()
    count = float(len(pairs))
    figures = {
        "accuracy": Sum(float(right.sum()), count),
        "margin": Sum(float(margin.sum()), count),
    }
    return SummedLoss((losses * weights).sum(), figures)


def measure(
    policy: Policy, pairs: Sequence[Pair], pad: int, config: DPOConfig, *, batch_size: int = 16
) -> dict[str, float]:
    """The weighted mean loss and the implicit reward's accuracy on pairs that are not trained on."""
    loss = right = 0.0
    order = sorted(pairs, key=count_tokens)
    with torch.no_grad():
        for start in range(0, len(order), batch_size):
            part = sum_losses(policy, order[start : start + batch_size], pad, config)
            loss += part.loss.item()
            right += part.figures["accuracy"].total
    weight = max(sum(pair.weight for pair in pairs), 1e-8)
    return {"pairs": len(pairs), "loss": loss / weight, "accuracy": right / len(pairs)}
