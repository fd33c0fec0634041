"""Log-probabilities of chosen tokens, and entropies, from logits."""

from collections.abc import Callable

from torch import Tensor


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
