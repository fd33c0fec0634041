"""What a model can do, found out by trying it on a few tokens."""

import torch
from torch import Tensor

from trainer.engine.forward import autocast_of, hidden_states
from trainer.engine.last_layer import find_last_layer
from trainer.engine.protocols import AnyModel
from trainer.engine.responses import select, states_at
from trainer.engine.shared_prefix import PromptResponses, build_batch

# Two ways to compute the same state agree this well in float32.
TOLERANCE = 1e-3
# How a model fails that is asked for what it cannot do.
FAILURES = (ValueError, RuntimeError, TypeError, IndexError, AttributeError, AssertionError)


def probe_capabilities(model: AnyModel) -> AnyModel:
    """Note on the model what it can do: read a shared prefix once, have its head applied outside of its own
    forward pass, and have its last layer computed only where it is read.

    All are tried on a few tokens, against rows of their own, the model's own logits and whole states.
    """
    config = model.config.get_text_config()
    model.reads_shared_prefix = model.plain_head = False
    model.last_layer = None
    windowed = getattr(config, "sliding_window", None) and getattr(
        config, "use_sliding_window", True
    )
    group: PromptResponses = ([1, 2, 3], [[4, 5], [6, 7, 1]])
    with torch.no_grad():
        apart = build_batch([group], model, 0)
        states = hidden_states(model, apart.ids, apart.mask, apart.positions)
        head = model.get_output_embeddings()
        if head is not None:
            with autocast_of(model):
                own = model(  # type: ignore[operator]
                    input_ids=apart.ids,
                    attention_mask=apart.mask,
                    position_ids=apart.positions,
                    use_cache=False,
                ).logits
                model.plain_head = agree(head(states), own)
        model.last_layer = find_last_layer(model)
        expected = select(states, apart.ends)
        try:
            if not agree(states_at(model, apart, apart.ends), expected):
                model.last_layer = None
        except FAILURES:
            model.last_layer = None
        if windowed:
            return model
        model.reads_shared_prefix = True
        together = build_batch([group], model, 0)
        try:
            shared = hidden_states(model, together.ids, together.mask, together.positions)
        except FAILURES:
            model.reads_shared_prefix = False
        else:
            same = agree(select(shared, together.before), select(states, apart.before))
            model.reads_shared_prefix = len(together.ids) == 1 and same
    return model


def agree(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal but for rounding."""
    difference = (one.float() - other.float()).abs()
    return bool(difference.max() <= TOLERANCE * other.abs().max().clamp(min=1))
