"""The forward passes that every stage shares.

All batches carry their masks, and position ids are made from them, so that padding on either side, or its
token, changes nothing. Log-probabilities are computed in float32.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from trainer.data.examples import Messages
from trainer.engine.protocols import Model, RewardModel
from trainer.engine.tokens import Encoder, pad_right, positions_of


def autocast_of(model: Model) -> AbstractContextManager[object]:
    """The precision that the run computes this model in; outside of it, everything is float32."""
    dtype = getattr(model, "compute_dtype", None)
    if dtype is None:
        return nullcontext()
    return torch.autocast(next(model.parameters()).device.type, dtype)


@contextmanager
def generating(model: Model) -> Iterator[None]:
    """The model with its cache: layers that compute activations twice in training keep none."""
    modules = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in modules:
            module.training = True


def trunk_of(model: Model) -> nn.Module:
    """The model without its head."""
    trunk: nn.Module = getattr(model, model.base_model_prefix)
    return trunk


def hidden_states(
    model: Model, ids: Tensor, mask: Tensor | None, positions: Tensor | None = None
) -> Tensor:
    """(B, L, D) last hidden states of the model's trunk, in float32.

    `positions` are made from a mask of (B, L); without a mask, they tell where each document of a packed
    row starts.
    """
    if positions is None:
        assert mask is not None
        positions = positions_of(mask)
    trunk = trunk_of(model)
    with autocast_of(model):
        output = trunk(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
    states: Tensor = output.last_hidden_state
    return states.float()


def sequence_rewards(model: RewardModel, ids: Tensor, mask: Tensor) -> Tensor:
    """(B,) rewards read at each row's last real token: the end token of its response."""
    columns = torch.arange(mask.shape[1], device=mask.device)
    last = (columns * mask).argmax(-1)
    states = hidden_states(model, ids, mask)
    ends = states[torch.arange(len(states), device=states.device), last]  # (B, D)
    scores: Tensor = model.score(ends)[..., 0]
    return scores - getattr(model.config, "reward_mean", 0.0)


def score_texts(
    model: RewardModel,
    encoder: Encoder,
    pairs: Sequence[tuple[Messages, str]],
    *,
    batch_size: int = 64,
) -> Tensor:
    """(N,) rewards of responses to conversations, tokenised as the reward model wants them."""
    device = next(model.parameters()).device
    encoded = [encoder.pair(messages, text) for messages, text in pairs]
    rows = [prompt + response for prompt, response in encoded]
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    scores = torch.zeros(len(rows))
    with torch.no_grad():
        for start in range(0, len(order), batch_size):
            some = order[start : start + batch_size]
            ids, mask = pad_right(
                [rows[index] for index in some], encoder.tokenizer.pad_token_id, device
            )
            scores[some] = sequence_rewards(model, ids, mask).float().cpu()
    return scores
