"""What the models say of the responses in a batch: rewards, log-probabilities, logits, values."""

from typing import Any

import torch
from torch import Tensor

from trainer.engine.forward import computing, hidden_states
from trainer.engine.last_layer import LastLayer
from trainer.engine.shared_prefix import Forest
from trainer.formulas.logprobs import token_logprobs


def pick(states: Tensor, places: tuple[Tensor, Tensor]) -> Tensor:
    """(N, D) of (R, L, D) states at these rows and places."""
    rows, columns = places
    return states.flatten(0, 1).index_select(0, rows * states.shape[1] + columns)


def states_at(model: Any, forest: Forest, places: tuple[Tensor, Tensor]) -> Tensor:
    """(N, D) last hidden states at these rows and places."""
    last: LastLayer | None = getattr(model, "last_layer", None)
    if last is None:
        return pick(hidden_states(model, forest.ids, forest.mask, forest.positions), places)
    count, length = forest.ids.shape
    rows, columns = places
    # Each once: a place put back twice would be learnt from twice.
    with last.only(torch.unique(rows * length + columns), (count, length)):
        states = hidden_states(model, forest.ids, forest.mask, forest.positions)
    return pick(states, places)


def response_rewards(model: Any, forest: Forest) -> Tensor:
    """(N,) rewards, read at each response's last token: its end token."""
    rewards: Tensor = model.score(states_at(model, forest, forest.ends))[..., 0]
    return rewards - getattr(model.config, "reward_mean", 0.0)


def response_token_logprobs(policy: Any, forest: Forest, temperature: float = 1.0) -> Tensor:
    """(M,) log-probabilities of the response tokens."""
    return token_logprobs(response_logits(policy, forest), forest.targets, temperature)


def response_logits(policy: Any, forest: Forest) -> Tensor:
    """(M, V) logits that stand before each response token.

    The vocabulary is projected where a response token follows, and nowhere else: it is much of the cost
    and most of the memory.
    """
    if getattr(policy, "plain_head", False):
        states = states_at(policy, forest, forest.before)
        with computing(policy):
            logits: Tensor = policy.get_output_embeddings()(states)
        return logits
    with computing(policy):
        output = policy(
            input_ids=forest.ids,
            attention_mask=forest.mask,
            position_ids=forest.positions,
            use_cache=False,
        )
    return pick(output.logits, forest.before)


def response_values(model: Any, forest: Forest) -> Tensor:
    """(M,) the scalar head where each response token follows: of the state before the token."""
    values: Tensor = model.score(states_at(model, forest, forest.before))[..., 0]
    return values - getattr(model.config, "reward_mean", 0.0)


def response_sums(policy: Any, forest: Forest) -> tuple[Tensor, Tensor]:
    """(N,) summed log-probabilities of the responses, and (N,) how many tokens each has."""
    logprobs = response_token_logprobs(policy, forest)
    count = len(forest.ends[0])
    sums = logprobs.new_zeros(count).index_add(0, forest.owners, logprobs)
    return sums, torch.bincount(forest.owners, minlength=count).to(sums.dtype)
