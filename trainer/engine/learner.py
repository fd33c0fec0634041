"""A model under training: moved one step at a time, saved and found again.

What a batch is computed in (micro-batches, several processes) changes nothing of what it teaches: losses
are sums over examples, divided by the weight of the whole batch.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from trainer.engine.distributed import Processes, load_optimizer_state
from trainer.engine.forward import trunk_of
from trainer.engine.optimizer import adam, groups_of, load_weights, optimizer_state, weights_of
from trainer.engine.prepare import equip, whole_model
from trainer.formulas.schedules import is_due
from trainer.settings.supervised import SupervisedConfig

Example = TypeVar("Example")

# Sums over examples, and what they are to be divided by.
Sums = Mapping[str, tuple[float, float]]


@dataclass
class Best:
    """The weights of least validation loss so far, where a run may end early."""

    loss: float = float("inf")
    step: int = 0
    looks_since: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)


class Learner(Generic[Example]):
    """One model that learns from a fixed set of examples.

    loss_of: (model, examples) to the sum of their weighted losses, and figures as sums;
    weight_of: an example's weight in its batch.
    """

    def __init__(
        self,
        model: Any,
        config: SupervisedConfig,
        processes: Processes,
        *,
        lr: float,
        loss_of: Callable[[Any, Sequence[Example]], tuple[Tensor, Sums]],
        weight_of: Callable[[Example], float],
    ) -> None:
        processes.check_batch(config.batch_size)
        self.model = equip(model, config, processes)
        if config.compile:
            model.last_layer = None  # compiled code would be made again for each number of rows
            trunk_of(model).compile(dynamic=True)
        self.config, self.processes = config, processes
        self.loss_of, self.weight_of = loss_of, weight_of
        self.optimizer = adam(groups_of(model), lr=lr, weight_decay=config.weight_decay)
        self.best = Best()

    def step(self, batch: Sequence[Example], *, lr: float) -> dict[str, float]:
        """One step of the optimiser on the mean loss of a batch; the figures of it."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad()
        total = max(sum(map(self.weight_of, batch)), 1e-8)
        own = self.processes.share(batch)
        sums: Sums = {"loss": (0.0, 0.0)}
        for part in parts_of(own, self.config.micro_batch):
            lost, figures = self.loss_of(self.model, part)
            (lost / total).backward()  # type: ignore[no-untyped-call]
            sums = add_sums(sums, {**figures, "loss": (lost.item(), 0.0)})
        self.processes.add_up_gradients(self.model.parameters())
        norm = self.processes.clip(self.model.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        sums = {**sums, "loss": (sums["loss"][0], total / self.processes.count)}
        return {**means(sums, self.processes), "lr": lr, "grad_norm": norm}

    # --- the best so far

    def looks(self, step: int, total: int) -> bool:
        """Whether the validation split should be looked at after this step."""
        return is_due(step, self.config.validate_every, total)

    def note(self, step: int, loss: float) -> None:
        """Remember the weights if the validation loss is the least so far; count looks since."""
        if self.config.patience is None:
            return
        if loss < self.best.loss:
            weights = {name: each.cpu().clone() for name, each in weights_of(self.model).items()}
            self.best = Best(loss, step, 0, weights)
        else:
            self.best.looks_since += 1

    @property
    def has_enough(self) -> bool:
        """Whether the validation loss has not fallen for as many looks as --patience says."""
        patience = self.config.patience
        return patience is not None and self.best.looks_since >= patience

    def take_best(self) -> dict[str, float]:
        """Go back to the weights of least validation loss; the figures of it for the result."""
        if not self.best.weights:
            return {}
        load_weights(self.model, self.best.weights)
        return {"best_step": self.best.step, "best_validation_loss": self.best.loss}

    def whole_model(self, reload: Callable[[], Any]) -> Any:
        """The plain model, when all is learnt."""
        return whole_model(self.model, reload, self.config)

    # --- state, for an exact resume

    def state(self) -> dict[str, Any]:
        """All that a later start needs to give the same numbers. All processes ask."""
        return {
            "model": weights_of(self.model),
            "optimizer": optimizer_state(self.optimizer),
            "best": vars(self.best),
        }

    def load_state(self, state: dict[str, Any] | None) -> None:
        """Go on from a checkpoint, if there is one."""
        if state is None:
            return
        load_weights(self.model, state["model"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.best = Best(**state["best"])


def parts_of(items: Sequence[Example], size: int | None) -> Iterable[Sequence[Example]]:
    """The items, at most `size` at a time."""
    step = size or len(items)
    return (items[start : start + step] for start in range(0, len(items), step))


def add_sums(one: Sums, other: Sums) -> Sums:
    """Both sums and both divisors, added."""
    names = one.keys() | other.keys()
    empty = (0.0, 0.0)
    return {
        name: (
            one.get(name, empty)[0] + other.get(name, empty)[0],
            one.get(name, empty)[1] + other.get(name, empty)[1],
        )
        for name in sorted(names)
    }


def means(sums: Sums, processes: Processes) -> dict[str, float]:
    """Each sum over all processes, divided by its divisor."""
    rows = torch.tensor(list(sums.values()), dtype=torch.float64)
    rows = processes.add_up(rows)
    return {
        name: float(total / max(count, 1e-8))
        for name, (total, count) in zip(sums, rows.tolist(), strict=True)
    }
