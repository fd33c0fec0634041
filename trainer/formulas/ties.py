"""What comes with ties in rankings: fitting their parameters, comparing rules, and the chances of pairs.

The likelihoods themselves are in `losses.py`: Breslow's rule (`plackett_luce`), and Davidson's model with
its Plackett-Luce extension (`davidson_luce`).
"""

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor

from trainer.formulas.losses import davidson_luce, plackett_luce, with_singles

# Ties of more than this are not modelled: each size is a parameter more, and the cost of a ranking grows
# with the square. People are shown nine candidates at most.
LARGEST_TIE = 9
# All subsets of a ranking's candidates are walked for the chances of its pairs: 3 ** 9 steps for nine.
LARGEST_WALK = 9
# Rankings whose chances are worked out together: for nine candidates, 42 MB of them.
WALKED_TOGETHER = 128


class Rankings(NamedTuple):
    """Rankings as tensors, with features that a linear reward may be made of."""

    features: Tensor  # (B, K, F)
    ranks: Tensor  # (B, K)
    mask: Tensor  # (B, K)
    weights: Tensor  # (B,)


class LinearFit(NamedTuple):
    """Rewards as a linear function, and the ties' parameters that go with them."""

    slopes: Tensor  # (F,)
    log_nu: Tensor  # (D - 1,)


def fit_linear(
    rankings: Rankings, *, largest: int | None, offset: Tensor | None = None, ridge: float = 1e-4
) -> LinearFit:
    """The linear rewards (plus a fixed (B, K) offset) that make rankings likeliest.

    largest: the largest tie of Davidson-Luce, whose parameters are fitted too; None takes Breslow's rule.
    Convex either way, with a little ridge so that what orders everything rightly, or always or never ties,
    has a finite answer.
    """
    features, mask = rankings.features.double(), rankings.mask.double()
    base = mask.new_zeros(mask.shape) if offset is None else offset.double()
    weights = rankings.weights.double() / rankings.weights.double().sum()
    count = features.shape[-1]
    values = features.new_zeros(count + (0 if largest is None else largest - 1)).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [values],
        max_iter=200,
        tolerance_grad=1e-8,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        rewards = base + features @ values[:count]
        if largest is None:
            losses = plackett_luce(rewards, rankings.ranks, mask)
        else:
            losses = davidson_luce(rewards, rankings.ranks, mask, values[count:])
        loss = (losses * weights).sum() + ridge * values.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    if len(values):
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    found = values.detach()
    return LinearFit(found[:count], found[count:])


def fit_log_nu(rankings: Rankings, rewards: Tensor, *, largest: int) -> Tensor:
    """(D - 1,) logs of the ties' parameters that make rankings with these (B, K) rewards likeliest."""
    none = rankings._replace(features=rankings.features[..., :0])
    return fit_linear(none, largest=largest, offset=rewards).log_nu


class Comparison(TypedDict):
    """Both rules on the same held-out rankings, in nats a ranking (divided by K - 1)."""

    davidson: float
    breslow: float
    difference: float  # Breslow's less Davidson's
    standard_error: float
    train_rankings: int
    held_out_rankings: int


def compare_rules(
    train: Rankings, held_out: Rankings, *, largest: int, ridge: float = 1e-2
) -> Comparison | None:
    """The held-out likelihood of linear rewards fitted by Breslow's rule and by Davidson-Luce.

    Breslow's own figure is no likelihood of outcomes (it adds up to more than one over them), so that its
    rewards are given the ties' parameters that suit them best on the training rankings, and both are judged
    by the same normalised likelihood. None where nothing is left to judge by.
    """
    losses = []
    for rule in (largest, None):
        fit = fit_linear(train, largest=rule, ridge=ridge)
        log_nu = fit_log_nu(train, train.features.double() @ fit.slopes, largest=largest)
        rewards = held_out.features.double() @ fit.slopes
        losses.append(davidson_luce(rewards, held_out.ranks, held_out.mask.double(), log_nu))
    davidson, breslow = losses
    known = davidson.isfinite()  # a tie larger than any of the training rankings has no likelihood
    if int(known.sum()) < 2:
        return None
    difference = (breslow - davidson)[known]
    return {
        "davidson": float(davidson[known].mean()),
        "breslow": float(breslow[known].mean()),
        "difference": float(difference.mean()),
        "standard_error": float(difference.std() / len(difference) ** 0.5),
        "train_rankings": len(train.ranks),
        "held_out_rankings": int(known.sum()),
    }


def largest_tie(rankings: Sequence[Sequence[float]]) -> int:
    """The size of the largest group of equal ranks; 1 where there is no tie."""
    return max((list(ranks).count(rank) for ranks in rankings for rank in ranks), default=1)


def pair_chances(rewards: Sequence[Tensor], log_nu: Tensor) -> list[Tensor | None]:
    """Of rankings with these (K,) rewards, the (K, K) `order_chances`; None of a ranking of too many."""
    found: list[Tensor | None] = [None] * len(rewards)
    for count in {len(each) for each in rewards if len(each) <= LARGEST_WALK}:
        some = [index for index, each in enumerate(rewards) if len(each) == count]
        chances = order_chances(torch.stack([rewards[index] for index in some]), log_nu)
        for index, own in zip(some, chances, strict=True):
            found[index] = own
    return found


def order_chances(rewards: Tensor, log_nu: Tensor) -> Tensor:
    """(B, K, K) chances that one candidate (row) is put before another (column) in a ranking of all K.

    What is left of both orders is the chance of their tie. By all subsets that can remain: of R, a set S is
    chosen; who is in S comes before who is left; among those left it goes on.
    """
    parts = [walk(part, log_nu) for part in torch.split(rewards.double(), WALKED_TOGETHER)]
    return torch.cat(parts)


def walk(rewards: Tensor, log_nu: Tensor) -> Tensor:
    """`order_chances` of a few rankings."""
    count = rewards.shape[1]
    sets = torch.arange(2**count)
    members = (sets[:, None] >> torch.arange(count) & 1).double()  # (2^K, K)
    sizes = members.sum(-1)
    nu = with_singles(log_nu.double().cpu())
    possible = (sizes > 0) & (sizes <= len(nu))
    weights = rewards.cpu() @ members.T / sizes.clamp(min=1)  # (B, 2^K)
    weights = weights + nu[(sizes.long() - 1).clamp(0, len(nu) - 1)]
    chances = rewards.new_zeros((len(sets), len(rewards), count, count), device="cpu")
    for remaining in sets[1:].tolist():
        chosen = sets[possible & ((sets & ~remaining) == 0)]
        chance = weights[:, chosen].softmax(-1)  # (B, S)
        left = members[remaining] - members[chosen]  # (S, K)
        now = torch.einsum("bs,si,sj->bij", chance, members[chosen], left)
        later = torch.einsum("bs,sbij->bij", chance, chances[remaining - chosen])
        chances[remaining] = now + later
    return chances[-1]
