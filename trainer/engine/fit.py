"""Supervised training: one loop for every stage that learns from a fixed set of examples.

What a batch is computed in (micro-batches, several processes) changes nothing of what it teaches: losses
are sums over examples, divided by the weight of the whole batch.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from trainer.engine.batches import Batches
from trainer.engine.distributed import Processes
from trainer.engine.forward import trunk_of
from trainer.engine.optimizer import (
    adam,
    groups_of,
    load_optimizer_state,
    load_weights,
    optimizer_state,
    weights_of,
)
from trainer.engine.prepare import prepare_model
from trainer.engine.protocols import AnyModel
from trainer.formulas.schedules import is_due, linear_to_zero
from trainer.run.checkpoints import State
from trainer.run.directory import Run
from trainer.settings.supervised import SupervisedConfig

Example = TypeVar("Example")


class Sum(NamedTuple):
    """A sum over examples, and what it is to be divided by."""

    total: float
    divisor: float

    def plus(self, other: "Sum") -> "Sum":
        """Both totals and both divisors, added."""
        return Sum(self.total + other.total, self.divisor + other.divisor)


class SummedLoss(NamedTuple):
    """The weighted losses of some examples, added up, and figures to report beside them."""

    loss: Tensor
    figures: Mapping[str, Sum]


class Validation(NamedTuple):
    """Figures on examples that are not trained on; less `loss` is better."""

    loss: float
    figures: Mapping[str, float]


@dataclass
class Best:
    """The weights of least validation loss so far, where a run may end early."""

    loss: float = float("inf")
    step: int = 0
    evaluations_since: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)
    beside: dict[str, Tensor] = field(default_factory=dict)


class Learner(Generic[AnyModel, Example]):
    """One model that learns from a fixed set of examples.

    sum_losses: (model, examples) to the sum of their weighted losses;
    weight_of: an example's weight in its batch;
    beside: numbers of the loss that are learned with the model, by name. They have a learning rate of their
    own, no decay, and no part in the gradient's norm.
    """

    def __init__(
        self,
        model: AnyModel,
        config: SupervisedConfig,
        processes: Processes,
        *,
        lr: float,
        sum_losses: Callable[[AnyModel, Sequence[Example]], SummedLoss],
        weight_of: Callable[[Example], float],
        beside: Mapping[str, nn.Parameter] | None = None,
        beside_lr: float = 0.0,
    ) -> None:
        self.model = prepare_model(model, config, processes)
        if config.compile:
            model.last_layer = None  # compiled code would be made again for each number of rows
            trunk_of(model).compile(dynamic=True)
        self.config, self.processes, self.lr = config, processes, lr
        self.sum_losses, self.weight_of = sum_losses, weight_of
        self.beside = dict(beside or {})
        groups = groups_of(model, weight_decay=config.weight_decay, lr_scale=1.0)
        if self.beside:
            own = [(f"beside.{name}", each) for name, each in self.beside.items()]
            groups.append({"params": own, "weight_decay": 0.0, "lr_scale": beside_lr / lr})
        self.optimizer = adam(groups, lr=lr, eps=config.adam_eps)
        self.best = Best()

    def training_step(self, batch: Sequence[Example], *, lr: float) -> dict[str, float]:
        """One step of the optimiser on the mean loss of a batch; the figures of it."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        self.optimizer.zero_grad()
        weight = max(sum(map(self.weight_of, batch)), 1e-8)
        own = self.processes.share(batch)
        loss, sums = 0.0, dict[str, Sum]()
        for micro_batch in parts_of(own, self.config.micro_batch):
            lost, figures = self.sum_losses(self.model, micro_batch)
            (lost / weight).backward()  # type: ignore[no-untyped-call]
            loss += lost.item()
            sums = add_sums(sums, figures)
        self.processes.all_reduce_gradients([*self.model.parameters(), *self.beside.values()])
        norm = self.processes.clip_grad_norm(self.model.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        sums["loss"] = Sum(loss, weight / self.processes.count)
        return {**means(sums, self.processes), "lr": lr, "grad_norm": norm}

    # --- the best so far

    def record(self, step: int, loss: float) -> None:
        """Keep the weights if the validation loss is the least so far; count evaluations since.

        Each process measured it for itself. They agree on one figure: of two that differ in a last digit,
        one would end early and the other wait for it.
        """
        if self.config.patience is None:
            return
        loss = self.processes.mean(loss)
        if loss < self.best.loss:
            weights = {name: each.cpu().clone() for name, each in weights_of(self.model).items()}
            self.best = Best(loss, step, 0, weights, self.beside_values())
        else:
            self.best.evaluations_since += 1

    @property
    def early_stop(self) -> bool:
        """Whether the validation loss has not fallen for as many evaluations as --patience says."""
        patience = self.config.patience
        return patience is not None and self.best.evaluations_since >= patience

    def restore_best(self) -> dict[str, float]:
        """Go back to the weights of least validation loss; the figures of it for the result."""
        if not self.best.weights:
            return {}
        load_weights(self.model, self.best.weights)
        self.load_beside(self.best.beside)
        return {"best_step": self.best.step, "best_validation_loss": self.best.loss}

    # --- what is learned beside the model

    def beside_values(self) -> dict[str, Tensor]:
        """The numbers as they are now, by name."""
        return {name: each.detach().cpu().clone() for name, each in self.beside.items()}

    def load_beside(self, values: Mapping[str, Tensor]) -> None:
        """Take numbers that `beside_values` gave."""
        with torch.no_grad():
            for name, each in self.beside.items():
                each.copy_(values[name])

    # --- state, for an exact resume

    def state(self) -> State:
        """All that a later start needs to give the same numbers. All processes ask."""
        return {
            "model": weights_of(self.model, keep=self.processes.first),
            "beside": self.beside_values(),
            "optimizer": optimizer_state(self.optimizer, keep=self.processes.first),
            "best": vars(self.best),
        }

    def load_state(self, state: State | None) -> None:
        """Go on from a checkpoint, if there is one."""
        if state is None:
            return
        load_weights(self.model, state["model"])
        self.load_beside(state["beside"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.best = Best(**state["best"])


def fit(
    run: Run,
    learner: Learner[AnyModel, Example],
    examples: Sequence[Example],
    *,
    steps: int,
    length_of: Callable[[Example], int],
    validate: Callable[[AnyModel], Validation] | None,
    check_start: Callable[[Mapping[str, float]], None] | None = None,
) -> dict[str, float]:
    """Train from where the run stands to its end, or to where validation says that it is enough.

    `check_start` is shown the figures of the first step, which were computed before anything was learnt.
    Afterwards the model has its best weights, where --patience looks for them; the figures of these.
    """
    config = learner.config
    lengths = [length_of(each) for each in examples]
    order = Batches(len(examples), config.batch_size, seed=config.seed, lengths=lengths)
    learner.load_state(run.open(steps))
    for step in run.steps():
        if learner.early_stop:
            break
        lr = learner.lr * linear_to_zero(step, steps, warmup=min(20, steps // 10))
        figures = learner.training_step([examples[index] for index in order(step)], lr=lr)
        if step == 1 and check_start is not None:
            check_start(figures)
        if validate is not None and is_due(step, config.validate_every, steps):
            validation = validate(learner.model)
            figures |= validation.figures
            learner.record(step, validation.loss)
        run.log(step, **figures)
        if run.should_checkpoint(step, learner.early_stop):
            run.save_checkpoint(step, learner.state())
    return learner.restore_best()


def parts_of(items: Sequence[Example], size: int | None) -> Iterable[Sequence[Example]]:
    """The items, at most `size` at a time."""
    step = size or len(items)
    return (items[start : start + step] for start in range(0, len(items), step))


def add_sums(one: Mapping[str, Sum], other: Mapping[str, Sum]) -> dict[str, Sum]:
    """Sums of the same names, added."""
    zero = Sum(0.0, 0.0)
    return {
        name: one.get(name, zero).plus(other.get(name, zero))
        for name in sorted(one.keys() | other.keys())
    }


def means(sums: Mapping[str, Sum], processes: Processes) -> dict[str, float]:
    """Each sum over all processes, divided by its divisor."""
    names = sorted(sums)
    rows = processes.all_reduce(torch.tensor([sums[name] for name in names], dtype=torch.float64))
    return {
        name: float(total / max(divisor, 1e-8))
        for name, (total, divisor) in zip(names, rows.tolist(), strict=True)
    }
