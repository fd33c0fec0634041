"""What ties cost a reward's spread: Breslow's rule beside Davidson-Luce, on simulated rankings.

    python bench/ties.py [--rankings 20000]

Linear rewards of three features are planted; rankings of K candidates are drawn with ties that come about
in several ways: by Davidson-Luce itself, by a threshold that the felt difference does not reach (Rao and
Kupper 1967), by raters who tie whatever they see, by rounding what is felt to a few grades. Both rules are
fitted to one half and judged on the other: held-out likelihood (nats a ranking, divided by K - 1, both with
the ties' parameters that suit them best), the share of the planted spread that is left, and the calibration
error of strict pairs (Davidson-Luce first, then Breslow). Prints one JSON object a row.
"""

import argparse
import itertools
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from trainer.formulas.evaluation import calibration_error, log_odds_of, ordered
from trainer.formulas.losses import davidson_luce
from trainer.formulas.ties import Rankings, compare_rules, fit_linear, largest_tie

SLOPES = (1.5, -0.8, 0.5)
Draw = Callable[[Tensor, float, torch.Generator], Tensor]


def by_davidson(rewards: Tensor, nu: float, stream: torch.Generator) -> Tensor:
    """Ranks by the chances of all outcomes."""
    count = rewards.shape[1]
    every = torch.tensor(
        [
            ranks
            for ranks in itertools.product(range(1, count + 1), repeat=count)
            if set(ranks) == set(range(1, max(ranks) + 1))
        ]
    )
    log_nu = torch.full((count - 1,), math.log(nu), dtype=torch.float64)
    mask = torch.ones(rewards.shape)
    losses = [davidson_luce(rewards, each.expand(rewards.shape), mask, log_nu) for each in every]
    chances = (-torch.stack(losses, dim=-1) * (count - 1)).exp()
    return every[torch.multinomial(chances, 1, generator=stream)[:, 0]]


def felt(rewards: Tensor, stream: torch.Generator) -> Tensor:
    """Rewards with a Gumbel's noise: their order is Plackett-Luce's."""
    chance = torch.rand(rewards.shape, generator=stream, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
    return rewards - (-chance.log()).log()


def dense(values: Tensor) -> Tensor:
    """(B, K) ranks of values, the greatest first, equal ones tied."""
    return 1 + (values[:, None, :] > values[:, :, None]).sum(-1)


def by_threshold(rewards: Tensor, width: float, stream: torch.Generator) -> Tensor:
    """Who is within `width` of the next better one is tied with it."""
    values, order = felt(rewards, stream).sort(-1, descending=True)
    steps = (values[:, :-1] - values[:, 1:] >= width).long().cumsum(-1)
    groups = torch.cat([torch.zeros(len(values), 1, dtype=torch.long), steps], dim=-1)
    return 1 + groups.gather(-1, order.argsort(-1))


def by_laziness(rewards: Tensor, share: float, stream: torch.Generator) -> Tensor:
    """A share of the neighbours is tied, whatever was felt."""
    order = felt(rewards, stream).argsort(-1, descending=True)
    apart = torch.rand(order[:, 1:].shape, generator=stream) >= share
    groups = torch.cat([torch.zeros(len(order), 1, dtype=torch.long), apart.long().cumsum(-1)], -1)
    return 1 + groups.gather(-1, order.argsort(-1))


def by_rounding(rewards: Tensor, width: float, stream: torch.Generator) -> Tensor:
    """What is felt, in grades of this width."""
    return dense((felt(rewards, stream) / width).round())


# How ties come about, and how much of it makes about 15, 26 and 42 % of pairs tied.
WORLDS: dict[str, tuple[Draw, dict[int, tuple[float, ...]]]] = {
    "davidson": (by_davidson, {2: (0.54, 1.1, 2.45), 4: (0.35, 0.9)}),
    "threshold": (by_threshold, {2: (0.55, 1.0, 1.75), 4: (0.35, 0.6)}),
    "lazy": (by_laziness, {2: (0.15, 0.26, 0.42), 4: (0.26, 0.42)}),
    "rounded": (by_rounding, {2: (0.85, 1.6, 3.2), 4: (0.85, 1.6)}),
}


def judge(rankings: Rankings, fitted: Tensor, log_nu: Tensor | None) -> float:
    """The calibration error of strict pairs."""
    odds = log_odds_of([*(rankings.features @ fitted)], log_nu)
    chosen = [
        own[better, worse]
        for ranks, own in zip(rankings.ranks.tolist(), odds, strict=True)
        for better, worse in ordered(ranks)
    ]
    return float(calibration_error(torch.stack(chosen).sigmoid()))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rankings", type=int, default=20_000)
    wanted = parser.parse_args()
    truth = torch.tensor(SLOPES, dtype=torch.float64)
    for name, (draw, amounts) in WORLDS.items():
        for count, amount in ((count, each) for count, some in amounts.items() for each in some):
            stream = torch.Generator().manual_seed(0)
            rows = wanted.rankings if count == 2 else wanted.rankings // 4
            shape = (rows, count, len(SLOPES))
            features = torch.randn(shape, generator=stream, dtype=torch.float64)
            ranks = draw(features @ truth, amount, stream)
            tied = (ranks[:, :, None] == ranks[:, None, :]).double().mean()
            every = Rankings(features, ranks, torch.ones(ranks.shape), torch.ones(rows))
            parts = (slice(rows // 2), slice(rows // 2, None))
            train, held_out = (Rankings(*(each[part] for each in every)) for part in parts)
            largest = largest_tie(train.ranks.tolist())
            compared = compare_rules(train, held_out, largest=largest, ridge=1e-4)
            davidson, breslow = (fit_linear(train, largest=each) for each in (largest, None))
            row = {
                "ties": name,
                "candidates": count,
                "tied_pairs": round(float(count * tied - 1) / (count - 1), 3),
                "held_out": compared,
                "spread": [
                    round(float(each.slopes.norm() / truth.norm()), 3)
                    for each in (davidson, breslow)
                ],
                "calibration_error": [
                    round(judge(held_out, each.slopes, log_nu), 4)
                    for each, log_nu in ((davidson, davidson.log_nu), (breslow, None))
                ],
            }
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
