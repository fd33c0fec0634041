"""Every formula of the trainer, as pure functions that take their masks.

Shapes: B rows, K candidates, T response tokens. Masks are 1 where a position counts. Sources are named by
paper and equation; where the reference implementations differ from the paper, the docstring says so.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# --- means under a mask -----------------------------------------------------------------------------


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean over the positions that count; 0 where none does."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def masked_var(values: Tensor, mask: Tensor) -> Tensor:
    """The biased variance over the positions that count."""
    mean = masked_mean(values, mask)
    return masked_mean((values - mean) ** 2, mask)


def whiten(values: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """Unit variance, and mean zero unless `shift_mean` is false; 0 where the mask is.

    As in Ziegler et al. 2019's code: rsqrt(var + 1e-8), biased variance.
    """
    mean = masked_mean(values, mask)
    whitened = (values - mean) * torch.rsqrt(masked_var(values, mask) + 1e-8)
    if not shift_mean:
        whitened = whitened + mean
    return whitened * mask


# --- log probabilities ------------------------------------------------------------------------------


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """(…, T) log-probabilities of `tokens` under (…, T, V) `logits` that stand one position before.

    The logits are divided by the temperature that the tokens were sampled with, in float32.
    """
    return chosen_and_entropy(logits, tokens, temperature)[0]


def chosen_and_entropy(
    logits: Tensor, tokens: Tensor, temperature: float
) -> tuple[Tensor, Callable[[], Tensor]]:
    """`token_logprobs`, and what tells the (…, T) entropies of the same distributions, in nats.

    The entropies have no gradient, and cost nothing unless they are asked for.
    """
    scaled = logits.float()
    if temperature != 1:
        scaled = scaled / temperature
    logprobs = scaled.log_softmax(-1)  # (…, T, V), read once more by the backward pass
    chosen = logprobs.gather(-1, tokens[..., None])[..., 0]
    known = logprobs.detach()
    return chosen, lambda: -(known.exp().mul_(known)).sum(-1)


# --- rankings ---------------------------------------------------------------------------------------


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


def bradley_terry(chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0) -> Tensor:
    """(B,) -log sigmoid(r_chosen - r_rejected - margin) (Ouyang et al. 2022, eq. 1)."""
    return -F.logsigmoid(chosen - rejected - margin)


# --- the KL penalty ---------------------------------------------------------------------------------


def kl_estimates(logprobs: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(k1, k2, k3) estimates of KL(policy, reference) for each sampled token, in nats.

    With x = log p - log q: k1 = x, unbiased; k2 = x^2 / 2; k3 = exp(-x) - 1 + x, unbiased and never
    negative (Schulman 2020, "Approximating KL divergence").
    """
    difference = logprobs - reference
    return difference, difference**2 / 2, torch.exp(-difference) - 1 + difference


def adapt_kl(
    coefficient: float, kl: float, *, target: float, horizon: float, episodes: int
) -> float:
    """The next KL coefficient (Ziegler et al. 2019, section 2.2).

    `kl` is the mean over episodes of the KL summed over each one's tokens, in nats.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coefficient * (1 + error * episodes / horizon)


def place_rewards(
    scores: Tensor, logprobs: Tensor, reference: Tensor, mask: Tensor, coefficient: float
) -> Tensor:
    """(B, T) rewards: -beta * k1 at every token, and the score at the last one that counts.

    scores: (B,). The sum over a row is score - beta * KL (Ouyang et al. 2022, eq. 2, without ptx).
    """
    rewards = -coefficient * (logprobs - reference) * mask
    last = mask.sum(-1).long() - 1
    return rewards.scatter_add(1, last.clamp(min=0)[:, None], scores[:, None])


# --- advantages -------------------------------------------------------------------------------------


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """(advantages, returns), both (B, T), by generalised advantage estimation.

    Schulman et al. 2016, eqs. 11 to 16. The value after the last token that counts is 0, and what stands
    at masked positions never leaks in. Returns are advantages + values, before any whitening.
    """
    rewards, values = rewards * mask, values * mask
    length = rewards.shape[1]
    advantage = torch.zeros_like(rewards[:, 0])
    after = torch.zeros_like(advantage)
    backwards = []
    for t in reversed(range(length)):
        delta = rewards[:, t] + gamma * after - values[:, t]
        advantage = (delta + gamma * lam * advantage) * mask[:, t]
        after = values[:, t]
        backwards.append(advantage)
    advantages = torch.stack(backwards[::-1], dim=1)
    return advantages, (advantages + values) * mask


def leave_one_out(rewards: Tensor) -> Tensor:
    """(P, k) advantages of k responses to each of P prompts: the reward less the mean of the others'.

    Kool et al. 2019; Ahmadian et al. 2024, section 3. They add up to 0 over each prompt's responses.
    """
    count = rewards.shape[-1]
    others = (rewards.sum(-1, keepdim=True) - rewards) / (count - 1)
    return rewards - others


def best_of_n_kl(n: int) -> float:
    """The most KL, in nats, that taking the best of n samples can put between it and the policy.

    log n - (n - 1) / n (Stiennon et al. 2020, appendix G.3; Beirami et al. 2024 show that it is a bound).
    """
    return math.log(n) - (n - 1) / n


# --- clipped objectives -----------------------------------------------------------------------------


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


# --- direct preference optimisation -----------------------------------------------------------------


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


# --- evaluation -------------------------------------------------------------------------------------


def calibration_error(probabilities: Tensor, bins: int = 10) -> Tensor:
    """The expected calibration error of predicted chances that the chosen one wins.

    Each pair is looked at from its likelier side: confidence max(p, 1-p), right where p > 1/2 (half
    right where p = 1/2). Equal-width bins over [1/2, 1] (Guo et al. 2017, eq. 3).
    """
    confidence = torch.maximum(probabilities, 1 - probabilities)
    right = (probabilities > 0.5).float() + 0.5 * (probabilities == 0.5).float()
    place = ((confidence - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    total = torch.zeros((), dtype=confidence.dtype, device=confidence.device)
    for index in range(bins):
        here = place == index
        if here.any():
            gap = (confidence[here].mean() - right[here].mean()).abs()
            total = total + gap * here.float().mean()
    return total
