"""The losses, as pure functions that take their masks.

Shapes: B rows, K candidates, T response tokens. Masks are 1 where a position counts. Sources are named by
paper and equation; where the reference implementations differ from the paper, the docstring says so.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.formulas.masked import masked_mean


def plackett_luce(rewards: Tensor, ranks: Tensor, mask: Tensor) -> Tensor:
    """(B,) negative log-likelihoods of rankings, each divided by K - 1.

    rewards: (B, K); ranks: (B, K), 1 is best, equal ranks are ties; mask: (B, K), 1 where there is a
    candidate. Without ties, the Plackett-Luce model (Luce 1959; Plackett 1975): the best is drawn with
    probability exp(r_i) / sum_j exp(r_j), then the next among those that remain. A tied group T, with R
    remaining (T among them), has Breslow's (1974) likelihood

        prod_{i in T} exp(r_i) / (sum_{j in R} exp(r_j)) ** |T|

    which does not depend on any order within the group, and for a tied pair is that of one win each way,
    greatest at equal rewards. With K = 2 and no tie it is the Bradley-Terry loss -log sigmoid(r_w - r_l)
    (Ouyang et al. 2022, eq. 1); dividing by K - 1 keeps a ranking of K from outweighing K - 1 pairs.
    """
    remaining = (ranks[:, None, :] >= ranks[:, :, None]) & mask.bool()[:, None, :]  # (B, K, K)
    pool = rewards[:, None, :].masked_fill(~remaining, float("-inf"))
    # A padded candidate has an empty pool: give it a finite one, its term is masked out below.
    pool = torch.where(mask.bool()[:, :, None], pool, torch.zeros_like(pool))
    terms = pool.logsumexp(-1) - rewards  # (B, K): -log of each candidate's factor
    # The last group, if it is of one, has probability one, and its term is zero by itself.
    count = mask.sum(-1)
    return (terms * mask).sum(-1) / (count - 1).clamp(min=1)


def smoothed_plackett_luce(
    rewards: Tensor, ranks: Tensor, mask: Tensor, *, smoothing: float
) -> Tensor:
    """(B,) Plackett-Luce losses of rankings that are the wrong way round with chance `smoothing`.

    (1 - e) of the ranking's loss and e of that of the ranking turned over; of two candidates,
    -(1 - e) log sigmoid(d) - e log sigmoid(-d), conservative DPO's smoothing (Mitchell 2023).
    """
    losses = plackett_luce(rewards, ranks, mask)
    if not smoothing:
        return losses
    turned = torch.where(mask.bool(), ranks.max() + 1 - ranks, ranks)
    return (1 - smoothing) * losses + smoothing * plackett_luce(rewards, turned, mask)


def fit_slope(values: Tensor, ranks: Tensor, mask: Tensor, weights: Tensor) -> float:
    """The slope that makes rankings likeliest if rewards were slope * values: a fit in one number.

    values, ranks, mask: (B, K); weights: (B,). Newton's method on a convex loss, with a little ridge so
    that values that order everything rightly have a finite slope.
    """
    slope = torch.zeros((), dtype=torch.float64, requires_grad=True)
    values, weights = values.double(), weights.double() / weights.double().sum()
    for _ in range(50):
        losses = plackett_luce(slope * values, ranks, mask.double())
        loss = (losses * weights).sum() + 1e-4 * slope**2
        (first,) = torch.autograd.grad(loss, slope, create_graph=True)
        (second,) = torch.autograd.grad(first, slope)
        move = (first / second).detach().clamp(-1, 1)
        with torch.no_grad():
            slope -= move
        if abs(float(move)) < 1e-9:
            break
    return float(slope.detach())


def policy_loss(
    logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """(loss, share of tokens clipped): the sum over tokens of max(-A r, -A clip(r, 1-e, 1+e)).

    Schulman et al. 2017, eq. 7, as a loss. A sum, not a mean: the caller divides by the tokens of the
    whole minibatch, so that gradient accumulation changes nothing.
    """
    ratio = torch.exp(logprobs - old)
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip)
    share = masked_mean((clipped > plain).float(), mask)
    return (torch.maximum(plain, clipped) * mask).sum(), share


def value_loss(
    values: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """(loss, share of tokens clipped): the sum of max((V-R)^2, (clip(V, old +- e) - R)^2) / 2."""
    plain = (values - returns) ** 2
    near = old + (values - old).clamp(-clip, clip)
    clipped = (near - returns) ** 2
    share = masked_mean((clipped > plain).float(), mask)
    return 0.5 * (torch.maximum(plain, clipped) * mask).sum(), share


def dpo(chosen: Tensor, rejected: Tensor, *, beta: float, smoothing: float = 0.0) -> Tensor:
    """(B,) DPO losses (Rafailov et al. 2023, eq. 7).

    chosen, rejected: (B,) log pi(y|x) - log pi_ref(y|x), summed over the response's tokens. `smoothing`
    is the chance that the label is wrong (conservative DPO, Mitchell 2023).
    """
    margin = beta * (chosen - rejected)
    return -(1 - smoothing) * F.logsigmoid(margin) - smoothing * F.logsigmoid(-margin)


def ipo(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """(B,) IPO losses (Azar et al. 2023, eq. 17, with tau = beta).

    chosen, rejected: (B,) log ratios as for `dpo`, but means over the response's tokens: sums would make
    the distance of 1 / (2 beta) depend on the length.
    """
    return (chosen - rejected - 1 / (2 * beta)) ** 2
