"""Training the story-teller within a time, or a number of steps.

The learning rate is constant for the first half and falls linearly to 0 over the second. So half-way,
when the machine's speed is known, the number of steps is chosen to fill `--seconds`; a run with `--steps`
set to that number repeats it to the digit.
"""

import random
import sys
import time
from typing import Any

import torch
from torch import nn

from demo.network import loss_of
from demo.settings import StoryTellerConfig
from demo.tokenizer import Row, batches

WARMUP_STEPS = 20

# Under load the second half may take longer than the first; beyond this share over time it is cut short.
PATIENCE = 1.1


class Schedule:
    """The learning rate's share at each step: up, level, then linearly to 0 over the second half.

    With `steps` it is fixed. Without, `plan` chooses the number of steps half-way through the time; it
    also cuts the rest short (`cut`) when a machine that grew busier would end far too late.
    """

    def __init__(self, steps: int | None) -> None:
        self.total = steps
        self.cut = False
        self._fixed = steps is not None
        self._turn = steps // 2 if steps is not None else 0
        self._height = 1.0

    def share(self, step: int) -> float:
        """Return the share of the full learning rate at this step (from 1)."""
        warm = min(1.0, step / WARMUP_STEPS)
        if self.total is None or step <= self._turn:
            return warm
        return min(warm, self._height * (self.total - step + 1) / (self.total - self._turn))

    def plan(self, step: int, spent: float, budget: float) -> None:
        """Choose, after `step` steps in `spent` of `budget` seconds, how many there will be."""
        if self._fixed:
            return
        if self.total is None:
            if spent >= budget / 2:
                self.total, self._turn = 2 * step, step
            return
        fits = step + max(1, int((PATIENCE * budget - spent) / (spent / step)))
        if fits < self.total:
            # Go on from the rate of now, so that the way down has no jump.
            self._height = self.share(step)
            self.total, self._turn, self.cut = fits, step, True

    def progress(self, step: int, spent: float, budget: float) -> float:
        """Return how much is done, from 0 to 1."""
        return step / self.total if self.total is not None else min(1.0, spent / budget)


def train(
    model: Any, rows: list[Row], config: StoryTellerConfig, *, deadline: float
) -> dict[str, Any]:
    """Train until the steps, or the time until `deadline` (`time.perf_counter`), are used up."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, betas=(0.9, 0.95), weight_decay=0.0
    )
    schedule = Schedule(config.steps)
    stream = batches(rows, config.batch_size, random.Random(config.seed))  # noqa: S311
    started = time.perf_counter()
    budget = max(0.0, deadline - started)
    step = tokens = 0
    loss = torch.zeros(())
    model.train()
    with Bar("story-teller") as bar:
        while schedule.total is None or step < schedule.total:
            step += 1
            batch = next(stream)
            for group in optimizer.param_groups:
                group["lr"] = config.lr * schedule.share(step)
            loss = loss_of(model, batch)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            tokens += sum(len(row.ids) for row in batch)
            spent = time.perf_counter() - started
            if step >= WARMUP_STEPS:
                schedule.plan(step, spent, budget)
            bar.show(schedule.progress(step, spent, budget))
    seconds = time.perf_counter() - started
    return {
        "steps": step,
        # Whether `--steps` with this number gives this very model (same threads, same versions).
        "repeatable_by_steps": not schedule.cut,
        "training_seconds": round(seconds, 1),
        "training_tokens": tokens,
        "tokens_per_second": round(tokens / seconds),
        "train_loss": round(loss.item(), 4),
    }


class Bar:
    """Progress on stderr: a bar on a terminal, a line at every tenth elsewhere."""

    def __init__(self, label: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        self._label = label
        self._tenths = 0
        console = Console(stderr=True)
        self._bar: Any = None
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
            self._bar = Progress(*columns, Remaining(), console=console)
            self._task = self._bar.add_task(label, total=1.0)

    def __enter__(self) -> "Bar":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: float) -> None:
        """Show that this share, from 0 to 1, is done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done)
        elif int(done * 10) > self._tenths:
            self._tenths = int(done * 10)
            print(f"{self._label}: {self._tenths * 10} %", file=sys.stderr, flush=True)  # noqa: T201
