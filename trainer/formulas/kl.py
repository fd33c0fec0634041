"""The KL divergence of a policy from its reference, and its price."""

import math

import torch
from torch import Tensor


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


def best_of_n_kl(n: int) -> float:
    """The most KL, in nats, that taking the best of n samples can put between it and the policy.

    log n - (n - 1) / n (Stiennon et al. 2020, appendix G.3; Beirami et al. 2024 show that it is a bound).
    """
    return math.log(n) - (n - 1) / n
