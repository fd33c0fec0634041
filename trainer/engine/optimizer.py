"""The optimiser, and the weights that it moves, as state that can be saved."""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from trainer.engine.distributed import local_part, shard_like, whole
from trainer.engine.protocols import Module
from trainer.errors import TrainerError

# Weights, and the settings that the optimiser moves them with.
ParameterGroup = dict[str, Any]


def groups_of(
    model: Module, *, of: str = "model", weight_decay: float = 0.0, **settings: float
) -> list[ParameterGroup]:
    """What an optimiser moves of the model; divided weights are groups of their own.

    Decay is for matrices alone, as everywhere since GPT-2: a norm's scale is 1 where it does nothing, and
    drawing it, or a bias, to 0 makes no model simpler. Each weight goes by its name (`of` tells several
    models apart), so that a checkpoint fits whatever the groups are: another number of processes divides
    otherwise.
    """
    groups: dict[tuple[bool, float], list[tuple[str, torch.nn.Parameter]]] = {}
    for name, each in model.named_parameters():
        if each.requires_grad:
            decay = weight_decay if each.dim() > 1 else 0.0
            groups.setdefault((isinstance(each, DTensor), decay), []).append((f"{of}.{name}", each))
    return [
        {"params": groups[divided, decay], "weight_decay": decay, **settings}
        for divided, decay in sorted(groups)
    ]


def adam(groups: list[ParameterGroup], *, lr: float, eps: float) -> torch.optim.Optimizer:
    """AdamW; `trainer/settings/rates.py` has the stages' epsilons and their sources."""
    divided = any(isinstance(each, DTensor) for group in groups for _, each in group["params"])
    return torch.optim.AdamW(groups, lr=lr, eps=eps, fused=not divided)


def weights_of(model: Module, *, keep: bool = True) -> dict[str, Tensor]:
    """The weights that move, whole. What stands still is in the model that the run started from.

    All processes ask; one that does not `keep` them gets divided ones empty.
    """
    return {
        name: whole(each.detach(), keep=keep)
        for name, each in model.named_parameters()
        if each.requires_grad
    }


def load_weights(model: Module, weights: dict[str, Tensor]) -> None:
    """Take weights that `weights_of` gave."""
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            local_part(own[name]).copy_(local_part(shard_like(own[name], value)))


def optimizer_state(optimizer: torch.optim.Optimizer, *, keep: bool = True) -> dict[str, Any]:
    """The optimiser's state, whole, as `weights_of` gives the weights."""
    state: dict[str, Any] = whole(optimizer.state_dict(), keep=keep)
    return state


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take a state that `optimizer_state` gave, by the weights' names: what each group is set to stays as
    this run's settings have it.

    Raises TrainerError where the state is of other weights: an older trainer's, which had no names.
    """
    saved = {
        name: state["state"].get(index, {})
        for group in state["param_groups"]
        for name, index in zip(group.get("param_names", ()), group["params"], strict=False)
    }
    own = optimizer.state_dict()
    moments = {}
    for group, described in zip(optimizer.param_groups, own["param_groups"], strict=True):
        for name, parameter, index in zip(
            group["param_names"], group["params"], described["params"], strict=True
        ):
            if name not in saved:
                raise TrainerError(
                    f"the checkpoint's optimiser is of another version of the trainer: it has no {name}"
                )
            for value in saved[name].values():
                if value.dim() and value.shape != parameter.shape:  # torch would read past its end
                    raise TrainerError(f"the checkpoint's optimiser has another shape of {name}")
            moments[index] = {
                key: shard_like(parameter, value) if value.dim() else value
                for key, value in saved[name].items()
            }
    optimizer.load_state_dict(own | {"state": moments})
