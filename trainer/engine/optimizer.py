"""The optimiser, and the weights that it moves, as state that can be saved."""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from trainer.engine.distributed import local_part, shard_like, whole
from trainer.engine.protocols import Module

# Weights, and the settings that the optimiser moves them with.
ParameterGroup = dict[str, Any]


def groups_of(
    model: Module, *, weight_decay: float = 0.0, **settings: float
) -> list[ParameterGroup]:
    """What an optimiser moves of the model; divided weights are groups of their own.

    Decay is for matrices alone, as everywhere since GPT-2: a norm's scale is 1 where it does nothing, and
    drawing it, or a bias, to 0 makes no model simpler.
    """
    groups: dict[tuple[bool, float], list[torch.nn.Parameter]] = {}
    for each in model.parameters():
        if each.requires_grad:
            decay = weight_decay if each.dim() > 1 else 0.0
            groups.setdefault((isinstance(each, DTensor), decay), []).append(each)
    return [
        {"params": groups[divided, decay], "weight_decay": decay, **settings}
        for divided, decay in sorted(groups)
    ]


def adam(groups: list[ParameterGroup], *, lr: float) -> torch.optim.Optimizer:
    """AdamW with the papers' epsilon of 1e-5 (Huang et al. 2024, detail 5 of PPO's)."""
    divided = any(isinstance(each, DTensor) for group in groups for each in group["params"])
    return torch.optim.AdamW(groups, lr=lr, eps=1e-5, fused=not divided)


def weights_of(model: Module) -> dict[str, Tensor]:
    """The weights that move, whole. What stands still is in the model that the run started from."""
    return {
        name: whole(each.detach()) for name, each in model.named_parameters() if each.requires_grad
    }


def load_weights(model: Module, weights: dict[str, Tensor]) -> None:
    """Take weights that `weights_of` gave."""
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            local_part(own[name]).copy_(local_part(shard_like(own[name], value)))


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's state, whole."""
    state: dict[str, Any] = whole(optimizer.state_dict())
    return state
