"""The processes that train one model together, on one machine or several.

`accelerate launch -m trainer …` (or torchrun) starts them; a run that is started plainly is one process,
and everything here does nothing. Each process works on its share of every batch, losses are divided by
totals over the whole batch, and gradients are added up: the numbers are those of one process, but for the
order of additions. Every process reads the data by itself, and all of them must see the same `--out`.

With `--shard` (or `accelerate launch --use_fsdp`) the weights of the transformer's layers, their gradients
and the optimiser's moments are divided among the processes (FSDP: Zhao et al. 2023, as torch's
`fully_shard` does it); what is outside of the layers stays whole on each.
"""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
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

        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if self.device.type == "cuda" and here > torch.cuda.device_count():
            raise UsageError(
                f"{here} processes on a machine with {torch.cuda.device_count()} GPUs: each needs its own"
            )
        try:
            state = PartialState(cpu=self.device.type == "cpu")
        except (RuntimeError, ValueError) as error:
            raise TrainerError(f"the processes cannot meet: {first_line(error)}") from None
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

    def parts(
        self, batch: Sequence[Item], size: int | None, *, divided: bool
    ) -> list[tuple[list[Item], float]]:
        """This process's share of a batch, at most `size` items at a time, each part with its weight: 1.

        Where its share is empty, or where the processes hold parts of one model and must all make the same
        number of passes, parts of weight 0 follow: they are read as any other, and count nowhere.
        """
        own = self.share(batch)
        most = max(1, math.ceil(len(batch) / self.count))
        step = size or most
        found = [(own[start : start + step], 1.0) for start in range(0, len(own), step)]
        passes = math.ceil(most / step) if divided else 1
        return found + [(list(batch[:1]), 0.0)] * (passes - len(found))

    def loading_device(self, sharded: bool) -> torch.device:
        """Where models are loaded: not on the device where they are to be divided on their way to it."""
        return torch.device("cpu") if self.count > 1 and wants_shards(sharded) else self.device

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

    def mean(self, figure: float) -> float:
        """A figure that each process has, the same in all of them to the last bit."""
        return float(self.all_reduce(torch.tensor(figure, dtype=torch.float64))) / self.count

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
        """Divide the weights of the model's layers among the processes, and bring it to the device.

        Every layer is divided by itself, so that it may be called from anywhere, and so that no more than
        one of them is ever whole on the device. Raises TrainerError where the model has no list of layers.
        """
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        if self.count == 1:
            return
        lists = [each for each in model.modules() if isinstance(each, nn.ModuleList) and len(each)]
        if not lists:
            raise TrainerError("--shard: the model has no list of layers to divide")
        layers: Any = max(lists, key=len)
        named = os.environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "")
        kinds = {type(each).__name__ for each in layers}
        if named and not kinds <= {each.strip() for each in named.split(",")}:
            raise TrainerError(
                f"the launcher divides {named}, and this model's layers are {', '.join(sorted(kinds))}"
            )
        mesh = init_device_mesh(self.device.type, (self.count,))
        for layer in layers:
            fully_shard(layer, mesh=mesh, reshard_after_forward=True)
        module: Any = model
        module.to(self.device)


def wants_shards(asked: bool) -> bool:
    """Whether the weights are to be divided: by the flag, or by the launcher's own."""
    return asked or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def local_part(value: Tensor) -> Tensor:
    """This process's part of a tensor that may be divided."""
    return value.to_local() if isinstance(value, DTensor) else value


def whole(value: Any, *, keep: bool = True) -> Any:
    """A state (of tensors in dictionaries and lists) in which nothing is divided. All processes ask.

    What was divided comes to the CPU tensor by tensor: the device never holds more than one of them whole.
    A process that does not `keep` it gets empty tensors.
    """
    if isinstance(value, DTensor):
        gathered = value.full_tensor()
        return gathered.cpu() if keep else gathered.new_empty(0, device="cpu")
    if isinstance(value, dict):
        return {name: whole(each, keep=keep) for name, each in value.items()}
    if isinstance(value, list):
        return [whole(each, keep=keep) for each in value]
    return value


def shard_like(pattern: Any, value: Tensor) -> Tensor:
    """A whole tensor, divided as the pattern is."""
    if isinstance(pattern, DTensor) and not isinstance(value, DTensor):
        return distribute_tensor(value.to(pattern.device), pattern.device_mesh, pattern.placements)
    return value


@contextmanager
def one_voice() -> Iterator[None]:
    """Of processes that fail, the first alone says why, and the others end without a word.

    One that only lost another has nothing to say of its own: whoever it lost knows the reason.
    """
    try:
        yield
    except (TrainerError, OSError, KeyboardInterrupt) as error:
        if _has_spoken():
            raise SystemExit(2 if isinstance(error, UsageError) else 1) from None
        raise
    except RuntimeError as error:
        if not _has_lost_another(error):
            raise
        if _has_spoken():
            raise SystemExit(1) from None
        raise TrainerError("another process of this run has ended, and this one with it") from None


def _has_lost_another(error: RuntimeError) -> bool:
    """Whether a message to other processes failed: torch's own errors, and gloo's, known by their text."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def _has_spoken() -> bool:
    """Whether another process has said already why the run ends; from now on this one has."""
    if not dist.is_initialized():
        return False
    try:
        return dist.distributed_c10d._get_default_store().add("plackett/failed", 1) > 1
    except RuntimeError:  # the store ended with the process that kept it
        return False
