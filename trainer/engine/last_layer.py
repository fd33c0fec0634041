"""The last layer worked out only where its result is read.

Later layers attend to what an earlier one says of every token; to the last one's nobody does. Where a place
of it is not read, it needs keys and values alone: no query, no output of its attention, no feed-forward
part. A reward model is read at one place in a response, a policy at none of the prompt's: with few layers
that is a good part of all work (of a two-layer reward model's two fifths), with many it is little.

It is done by hooks on the last layer's own parts, so that every model whose parts are named as usual has
it; `capabilities.explore` tries whether the states that are read stay what they were.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from trainer.engine.forward import trunk_of

# Parts of a layer that work on each place alone, where keys and values do not come from.
PLACEWISE = ("self_attn.q_proj", "self_attn.o_proj", "mlp")
# Taking rows out and putting them back costs about as much as a tenth of a layer's work.
MOST_READ = 0.9


class LastLayer:
    """Which places of the last layer are worked out at present; all, unless `only` says otherwise."""

    def __init__(self, layer: nn.Module) -> None:
        self.rows: Tensor | None = None
        self.shape = (0, 0)
        self.found = [name for name in PLACEWISE if has(layer, name)]
        for name in self.found:
            part = layer.get_submodule(name)
            part.register_forward_pre_hook(self.take)
            part.register_forward_hook(self.put)

    @contextmanager
    def only(self, rows: Tensor, shape: tuple[int, int]) -> Iterator[None]:
        """Work out these (N,) different places of the (R, L) batch laid flat."""
        if len(rows) > MOST_READ * shape[0] * shape[1]:
            yield
            return
        self.rows, self.shape = rows, shape
        try:
            yield
        finally:
            self.rows = None

    def take(self, _: nn.Module, given: tuple[Any, ...]) -> Any:
        """(1, N, D) of (R, L, D): what is read goes into the part."""
        if self.rows is None:
            return None
        states, *rest = given
        return (states.flatten(0, 1).index_select(0, self.rows)[None], *rest)

    def put(self, _: nn.Module, __: tuple[Any, ...], output: Tensor) -> Any:
        """(R, L, D) of (1, N, D): zeros where nobody reads."""
        if self.rows is None:
            return None
        whole = output.new_zeros(self.shape[0] * self.shape[1], output.shape[-1])
        return whole.index_copy(0, self.rows, output[0]).view(*self.shape, -1)


def has(layer: nn.Module, name: str) -> bool:
    """Whether the layer has such a part."""
    try:
        layer.get_submodule(name)
    except AttributeError:
        return False
    return True


def last_layer_of(model: Any) -> LastLayer | None:
    """The model's last layer, ready to be narrowed; None where it is not found."""
    trunk = trunk_of(model)
    for name in ("layers", "h"):
        layers = getattr(trunk, name, None)
        if isinstance(layers, nn.ModuleList) and len(layers):
            found = LastLayer(layers[-1])
            return found if found.found else None
    return None
