"""Rewards of tokens, and advantages from them.

Shapes: B rows, T response tokens; P prompts with k responses each. Masks are 1 where a position counts.
"""

import torch
from torch import Tensor


def rewards_per_token(
    scores: Tensor, logprobs: Tensor, reference: Tensor, mask: Tensor, coefficient: float
) -> Tensor:
    """(B, T) rewards: -beta * k1 at every token, and the score at the last one that counts.

    scores: (B,). The sum over a row is score - beta * KL (Ouyang et al. 2022, eq. 2, without ptx).
    """
    rewards = -coefficient * (logprobs - reference) * mask
    last = mask.sum(-1).long() - 1
    return rewards.scatter_add(1, last.clamp(min=0)[:, None], scores[:, None])


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
