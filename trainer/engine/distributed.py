"""The processes that train one model together, on one machine or several.

`accelerate launch -m trainer …` (or torchrun) starts them; a run that is started plainly is one process,
and everything here does nothing. Each process works on its share of every batch, losses are divided by
totals over the whole batch, and gradients are added up: the numbers are those of one process, but for the
order of additions. Every process reads the data by itself, and all of them must see the same `--out`.

With `--shard` (or `accelerate launch --use_fsdp`) the weights of the transformer's layers, their gradients
and the optimiser's moments are divided among the processes (FSDP: Zhao et al. 2023, as torch's
`fully_shard` does it); what is outside of the layers stays whole on each.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from trainer.engine.protocols import Module
from trainer.errors import TrainerError, UsageError, first_line

Item = TypeVar("Item")


class Processes:
    """This process among those of the run: number `rank` of `count`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank, self.count = 0, 1
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            self._join()

    def _join(self) -> None:
        """Meet the others: over NCCL where there are GPUs, over gloo elsewhere."""
        from accelerate import PartialState

        state = PartialState(cpu=self.device.type == "cpu")
        self.rank, self.count = state.process_index, state.num_processes
        if self.device.type == "cuda":
            self.device = state.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes the run directory."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> list[Item]:
        """This process's part of a batch."""
        return list(items[self.rank :: self.count])

    def check_batch(self, size: int) -> None:
        """Raise UsageError where a batch does not divide among the processes."""
        if size % self.count:
            raise UsageError(f"--batch-size {size} does not divide among {self.count} processes")

    def all_reduce(self, figures: Tensor) -> Tensor:
        """The sum of a tensor over the processes."""
        if self.count > 1:
            figures = figures.to(self.device)
            dist.all_reduce(figures)
        return figures

    def any(self, here: bool) -> bool:
        """Whether it is so in any process."""
        return bool(self.all_reduce(torch.tensor(float(here))))

    def all_gather(self, items: Sequence[Item]) -> list[Item]:
        """The items of all processes, in the order that `share` took them from."""
        if self.count == 1:
            return list(items)
        parts: list[list[Item]] = [[] for _ in range(self.count)]
        dist.all_gather_object(parts, list(items))
        most = max(map(len, parts))
        return [part[index] for index in range(most) for part in parts if index < len(part)]

    def barrier(self) -> None:
        """Wait until all have come this far."""
        if self.count > 1:
            dist.barrier()

    def all_reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add the gradients of all processes up, in few messages."""
        if self.count == 1:
            return
        whole = []
        for each in parameters:
            if isinstance(each, DTensor):
                if each.grad is not None:  # the mean, made during the backward pass
                    each.grad.mul_(self.count)
            elif each.requires_grad:
                if each.grad is None:  # a process whose share had no use for it still takes part
                    each.grad = torch.zeros_like(each)
                whole.append(each.grad)
        if not whole:
            return
        flat = torch.cat([gradient.flatten() for gradient in whole])
        dist.all_reduce(flat)
        sizes = [gradient.numel() for gradient in whole]
        for gradient, summed in zip(whole, torch.split(flat, sizes), strict=True):
            gradient.copy_(summed.view_as(gradient))

    def clip_grad_norm(self, parameters: Iterable[nn.Parameter], max_norm: float) -> float:
        """Shorten the gradient to at most that norm; the norm before."""
        gradients = [each.grad for each in parameters if each.grad is not None]
        whole = [each for each in gradients if not isinstance(each, DTensor)]
        if len(whole) == len(gradients):
            norm = torch.nn.utils.get_total_norm(whole)
        else:
            parts = [each.to_local() for each in gradients if isinstance(each, DTensor)]
            square = self.all_reduce(torch.nn.utils.get_total_norm(parts).square())
            norm = (torch.nn.utils.get_total_norm(whole).square() + square).sqrt()
        scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_([local_part(each) for each in gradients], scale)
        return float(norm)

    def shard(self, model: Module) -> None:
        """Divide the weights of the model's layers among the processes.

        Every layer is divided by itself, so that it may be called from anywhere. Raises TrainerError
        where the model has no list of layers.
        """
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        if self.count == 1:
            return
        lists = [each for each in model.modules() if isinstance(each, nn.ModuleList) and len(each)]
        if not lists:
            raise TrainerError("--shard: the model has no list of layers to divide")
        layers: Any = max(lists, key=len)
        mesh = init_device_mesh(self.device.type, (self.count,))
        for layer in layers:
            fully_shard(layer, mesh=mesh, reshard_after_forward=True)


def wants_shards(asked: bool) -> bool:
    """Whether the weights are to be divided: by the flag, or by the launcher's own."""
    return asked or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def local_part(value: Tensor) -> Tensor:
    """This process's part of a tensor that may be divided."""
    return value.to_local() if isinstance(value, DTensor) else value


def whole(value: Any) -> Any:
    """A state (of tensors in dictionaries and lists) in which nothing is divided. All processes ask."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, dict):
        return {name: whole(each) for name, each in value.items()}
    if isinstance(value, list):
        return [whole(each) for each in value]
    return value


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a whole state into the optimiser of a model that may be divided.

    Raises TrainerError where the state is of another division into groups: an older trainer's.
    """
    try:
        optimizer.load_state_dict(state)
    except ValueError as error:
        raise TrainerError(
            f"the checkpoint's optimiser is of another version of the trainer: {first_line(error)}"
        ) from None
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            moments = optimizer.state.get(parameter, {})
            for name, value in moments.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    moments[name] = shard_like(parameter, value)


def shard_like(pattern: Any, value: Tensor) -> Tensor:
    """A whole tensor, divided as the pattern is."""
    if isinstance(pattern, DTensor) and not isinstance(value, DTensor):
        return distribute_tensor(value.to(pattern.device), pattern.device_mesh, pattern.placements)
    return value
