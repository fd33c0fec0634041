"""What a model can do, found out by trying it on a few tokens."""

from typing import Any

import torch
from torch import Tensor

from trainer.engine.forward import computing, hidden_states
from trainer.engine.last_layer import last_layer_of
from trainer.engine.responses import pick, states_at
from trainer.engine.shared_prefix import Tree, plant

# Two ways to compute the same state agree this well in float32.
TOLERANCE = 1e-3

# How a model fails that is asked for what it cannot do.
FAILURES = (ValueError, RuntimeError, TypeError, IndexError, AttributeError, AssertionError)


def explore(model: Any) -> Any:
    """Note on the model what it can do: read trees, be projected outside of its own forward pass, and have
    its last layer narrowed to what is read.

    All are tried on a few tokens, against rows of their own, the model's own logits and whole states.
    """
    config = model.config.get_text_config()
    model.reads_trees = model.plain_head = False
    model.last_layer = None
    windowed = getattr(config, "sliding_window", None) and getattr(
        config, "use_sliding_window", True
    )
    tree: Tree = ([1, 2, 3], [[4, 5], [6, 7, 1]])
    with torch.no_grad():
        apart = plant([tree], model, 0)
        states = hidden_states(model, apart.ids, apart.mask, apart.positions)
        head = model.get_output_embeddings()
        if head is not None:
            with computing(model):
                own = model(
                    input_ids=apart.ids,
                    attention_mask=apart.mask,
                    position_ids=apart.positions,
                    use_cache=False,
                ).logits
                model.plain_head = close(head(states), own)
        model.last_layer = last_layer_of(model)
        wanted = pick(states, apart.ends)
        try:
            if not close(states_at(model, apart, apart.ends), wanted):
                model.last_layer = None
        except FAILURES:
            model.last_layer = None
        if windowed:
            return model
        model.reads_trees = True
        together = plant([tree], model, 0)
        try:
            shared = hidden_states(model, together.ids, together.mask, together.positions)
        except FAILURES:
            model.reads_trees = False
        else:
            found, wanted = pick(shared, together.before), pick(states, apart.before)
            model.reads_trees = len(together.ids) == 1 and close(found, wanted)
    return model


def close(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal but for rounding."""
    difference = (one.float() - other.float()).abs()
    return bool(difference.max() <= TOLERANCE * other.abs().max().clamp(min=1))
