"""The last layer computed only where its result is read.

Later layers attend to what an earlier one says of every token; to the last one's nobody does. Where a
position of it is not read, it needs keys and values alone: no query, no output of its attention, no
feed-forward part. A reward model is read at one position in a response, a policy at none of the prompt's:
with few layers that is a good part of all work (of a two-layer reward model's two fifths), with many it is
little.

It is done by hooks on the last layer's own parts, so that every model whose parts are named as usual has
it; `probe_capabilities` tries whether the states that are read stay what they were.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from trainer.engine.forward import trunk_of
from trainer.engine.protocols import Model

# Parts of a layer that work on each position alone, where keys and values do not come from.
POSITIONWISE = ("self_attn.q_proj", "self_attn.o_proj", "mlp")
# Taking rows out and putting them back costs about as much as a tenth of a layer's work.
MOST_READ = 0.9


class SelectiveLastLayer:
    """Which positions of the last layer are computed at present; all, outside of `compute_only`."""

    def __init__(self, layer: nn.Module) -> None:
        self.rows: Tensor | None = None
        self.shape = (0, 0)
        self.parts = [name for name in POSITIONWISE if has_part(layer, name)]
        for name in self.parts:
            part = layer.get_submodule(name)
            part.register_forward_pre_hook(self.gather_rows)
            part.register_forward_hook(self.scatter_rows)

    @contextmanager
    def compute_only(self, rows: Tensor, shape: tuple[int, int]) -> Iterator[None]:
        """Compute these (N,) different positions of the (R, L) batch laid flat."""
        if len(rows) > MOST_READ * shape[0] * shape[1]:
            yield
            return
        self.rows, self.shape = rows, shape
        try:
            yield
        finally:
            self.rows = None

    def gather_rows(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """(1, N, D) of (R, L, D): what is read goes into the part."""
        if self.rows is None:
            return None
        states, *rest = inputs
        return (states.flatten(0, 1).index_select(0, self.rows)[None], *rest)

    def scatter_rows(self, _: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """(R, L, D) of (1, N, D): zeros where nobody reads."""
        if self.rows is None:
            return None
        whole = output.new_zeros(self.shape[0] * self.shape[1], output.shape[-1])
        return whole.index_copy(0, self.rows, output[0]).view(*self.shape, -1)


def has_part(layer: nn.Module, name: str) -> bool:
    """Whether the layer has such a part."""
    try:
        layer.get_submodule(name)
    except AttributeError:
        return False
    return True


def find_last_layer(model: Model) -> SelectiveLastLayer | None:
    """The model's last layer, ready to be computed in part; None where it is not found."""
    trunk = trunk_of(model)
    for name in ("layers", "h"):
        layers = getattr(trunk, name, None)
        if isinstance(layers, nn.ModuleList) and len(layers):
            last = SelectiveLastLayer(layers[-1])
            return last if last.parts else None
    return None
