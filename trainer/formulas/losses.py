"""The losses, as pure functions that take their masks.

Shapes: B rows, K candidates, T response tokens. Masks are 1 where a position counts. Sources are named by
paper and equation; where the reference implementations differ from the paper, the docstring says so.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.formulas.masked import masked_mean

# The logarithm of what cannot be; minus infinity itself has no gradient beside another one.
IMPOSSIBLE = -1e30


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


class Choices(NamedTuple):
    """Of each candidate's group: who remained when it was chosen, and the group itself."""

    remaining: Tensor  # (B, K, K) bool
    group: Tensor  # (B, K, K) bool
    sizes: Tensor  # (B, K) of the groups


def choices_of(ranks: Tensor, mask: Tensor) -> Choices:
    """The choices that (B, K) ranks stand for; less is better, equal ranks are one choice."""
    present = mask.bool()
    both = present[:, None, :] & present[:, :, None]
    group = (ranks[:, None, :] == ranks[:, :, None]) & both
    return Choices(
        remaining=(ranks[:, None, :] >= ranks[:, :, None]) & both,
        group=group,
        sizes=group.sum(-1),
    )


def log_set_weights(rewards: Tensor, remaining: Tensor, log_nu: Tensor) -> Tensor:
    """(B, K, D) log of the summed weights of all sets of 1, 2 … D that could be chosen.

    rewards: (B, K); remaining: (B, K, K); log_nu: (D - 1,) for ties of 2 … D. The sum over sets of q is an
    elementary symmetric polynomial of the numbers exp(r / q): K * q additions, not one for each set.
    """
    largest = len(log_nu) + 1
    orders = torch.arange(1, largest + 1, device=rewards.device)
    # (B, K, D, D + 1): for each order q, the logs of the polynomials of degree 0 … D over the candidates
    # so far.
    polynomials = rewards.new_full((*remaining.shape[:2], largest, largest + 1), IMPOSSIBLE)
    polynomials[..., 0] = 0.0
    for index in range(rewards.shape[1]):
        taken = polynomials[..., :-1] + (rewards[:, index, None] / orders)[:, None, :, None]
        grown = torch.cat(
            [polynomials[..., :1], torch.logaddexp(polynomials[..., 1:], taken)], dim=-1
        )
        polynomials = torch.where(remaining[:, :, index, None, None], grown, polynomials)
    own = polynomials[..., 1:].diagonal(dim1=-2, dim2=-1)  # degree q of order q
    return own + with_singles(log_nu)


def with_singles(log_nu: Tensor) -> Tensor:
    """(D,) log parameters of choices of 1, 2 … D; that of a single one is 0."""
    return torch.cat([log_nu.new_zeros(1), log_nu])


def davidson_luce(rewards: Tensor, ranks: Tensor, mask: Tensor, log_nu: Tensor) -> Tensor:
    """(B,) negative log-likelihoods of rankings with ties, each divided by K - 1.

    rewards: (B, K); ranks: (B, K), 1 is best, equal ranks are ties; mask: (B, K); log_nu: (D - 1,) logs of
    the ties' parameters, for ties of 2, 3 … D.

    Davidson (1970) gives a tie of two a chance of its own: with strengths a = exp(r),

        P(i) : P(j) : P(tie) = a_i : a_j : nu * sqrt(a_i * a_j)

    Firth, Kosmidis and Turner (2019, "Davidson-Luce model for multi-item choice with ties") extend it to
    choices: of those that remain, a set T of at most D is chosen with a chance in proportion to

        nu_|T| * (prod_{i in T} a_i) ** (1 / |T|),    nu_1 = 1

    and a ranking is a row of such choices until nobody remains. The chances of all outcomes whose ties are
    of at most D add up to one, which Breslow's rule does not give. A ranking with a larger tie cannot be,
    and its loss is infinite. Without ties and log_nu it is Plackett-Luce. Cost: K^2 D^2 a ranking.
    """
    choices = choices_of(ranks, mask)
    largest = len(log_nu) + 1
    total = log_set_weights(rewards, choices.remaining, log_nu).logsumexp(-1)  # (B, K)
    sizes = choices.sizes.clamp(min=1)
    mean = (rewards[:, None, :] * choices.group).sum(-1) / sizes
    chosen = with_singles(log_nu)[(sizes - 1).clamp(max=largest - 1)] + mean
    # A group's term stands at each of its members: each has its share.
    terms = torch.where(mask.bool(), (total - chosen) / sizes, torch.zeros_like(total))
    losses = terms.sum(-1) / (mask.sum(-1) - 1).clamp(min=1)
    return losses.masked_fill((choices.sizes > largest).any(-1), float("inf"))


def smoothed_plackett_luce(
    rewards: Tensor,
    ranks: Tensor,
    mask: Tensor,
    *,
    smoothing: float,
    log_nu: Tensor | None = None,
) -> Tensor:
    """(B,) Plackett-Luce losses of rankings that are the wrong way round with chance `smoothing`.

    (1 - e) of the ranking's loss and e of that of the ranking turned over; of two candidates,
    -(1 - e) log sigmoid(d) - e log sigmoid(-d), conservative DPO's smoothing (Mitchell 2023). Ties by
    Davidson-Luce where its parameters are given, else by Breslow's rule; turned over, a tie stays a tie.
    """

    def loss(some: Tensor) -> Tensor:
        if log_nu is None:
            return plackett_luce(rewards, some, mask)
        return davidson_luce(rewards, some, mask, log_nu)

    if not smoothing:
        return loss(ranks)
    turned = torch.where(mask.bool(), ranks.max() + 1 - ranks, ranks)
    return (1 - smoothing) * loss(ranks) + smoothing * loss(turned)


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
