"""What the models say of the responses in a batch: rewards, log-probabilities, logits, values."""

import torch
from torch import Tensor

from trainer.engine.forward import autocast_of, hidden_states
from trainer.engine.last_layer import SelectiveLastLayer
from trainer.engine.protocols import Model, Policy, RewardModel
from trainer.engine.shared_prefix import SharedPrefixBatch
from trainer.formulas.logprobs import token_logprobs

RowsAndColumns = tuple[Tensor, Tensor]


def select(states: Tensor, where: RowsAndColumns) -> Tensor:
    """(N, D) of (R, L, D) states at these rows and columns."""
    rows, columns = where
    return states.flatten(0, 1).index_select(0, rows * states.shape[1] + columns)


def states_at(model: Model, batch: SharedPrefixBatch, where: RowsAndColumns) -> Tensor:
    """(N, D) last hidden states at these rows and columns."""
    last: SelectiveLastLayer | None = getattr(model, "last_layer", None)
    if last is None:
        return select(hidden_states(model, batch.ids, batch.mask, batch.positions), where)
    count, length = batch.ids.shape
    rows, columns = where
    # Each once: a position put back twice would be learnt from twice.
    with last.compute_only(torch.unique(rows * length + columns), (count, length)):
        states = hidden_states(model, batch.ids, batch.mask, batch.positions)
    return select(states, where)


def response_rewards(model: RewardModel, batch: SharedPrefixBatch) -> Tensor:
    """(N,) rewards, read at each response's last token: its end token."""
    rewards: Tensor = model.score(states_at(model, batch, batch.ends))[..., 0]
    return rewards - getattr(model.config, "reward_mean", 0.0)


def response_values(model: RewardModel, batch: SharedPrefixBatch) -> Tensor:
    """(M,) the scalar head where each response token follows: of the state before the token."""
    values: Tensor = model.score(states_at(model, batch, batch.before))[..., 0]
    return values - getattr(model.config, "reward_mean", 0.0)


def response_logits(policy: Policy, batch: SharedPrefixBatch, known: int | None = None) -> Tensor:
    """(M, V) logits that stand before each response token.

    The vocabulary is projected where a response token follows, and nowhere else: it is much of the cost
    and most of the memory. What was sampled from the `known` first tokens alone is compared with these.
    """
    head = policy.get_output_embeddings()
    if head is not None and getattr(policy, "plain_head", False):
        states = states_at(policy, batch, batch.before)
        with autocast_of(policy):
            logits: Tensor = head(states)
        return logits[:, :known]
    with autocast_of(policy):
        output = policy(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            position_ids=batch.positions,
            use_cache=False,
        )
    return select(output.logits, batch.before)[:, :known]


def response_token_logprobs(
    policy: Policy, batch: SharedPrefixBatch, temperature: float = 1.0, known: int | None = None
) -> Tensor:
    """(M,) log-probabilities of the response tokens, of all or of the `known` first tokens."""
    return token_logprobs(response_logits(policy, batch, known), batch.targets, temperature)


def response_sums(policy: Policy, batch: SharedPrefixBatch) -> tuple[Tensor, Tensor]:
    """(N,) summed log-probabilities of the responses, and (N,) how many tokens each has."""
    logprobs = response_token_logprobs(policy, batch)
    count = len(batch.ends[0])
    sums = logprobs.new_zeros(count).index_add(0, batch.segment_ids, logprobs)
    return sums, torch.bincount(batch.segment_ids, minlength=count).to(sums.dtype)
