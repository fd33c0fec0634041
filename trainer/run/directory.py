"""The run directory: what was asked, what happened at each step, and where to go on from.

`config.json`, `metrics.jsonl`, `checkpoints/`, `model/`, `report.html`, `result.json`.
"""

import dataclasses
import json
import math
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch

from trainer import __version__
from trainer.errors import Stopped, TrainerError, UsageError
from trainer.run.files import read_description, write_json
from trainer.run.progress import progress, start_trackers
from trainer.settings import list_stages
from trainer.settings.training import TrainingConfig

# Of what docs/run-directory.md describes: raised where a reader of today would stumble.
FORMAT_VERSION = 1

# The newest and the one before it, in case a kill cut the newest's disk short.
KEPT_CHECKPOINTS = 2

# Flags that may differ when a run goes on: they change nothing of the numbers.
FREE_TO_CHANGE = ("out", "resume", "checkpoint_every")
# Facts for the record alone: a run may go on on a machine that computes otherwise.
NOTED = {"linear"}


class ProcessGroup(Protocol):
    """What a run directory needs to know of the processes that share it."""

    count: int

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""

    def any(self, here: bool) -> bool:
        """Whether it is so in any process."""

    def wait(self) -> None:
        """Wait until all have come this far."""


class Run:
    """A training run and its directory.

    Use it as a context: SIGTERM and SIGINT then let the step that is under way end, a checkpoint is
    written, and Stopped is raised. A second signal ends the process at once. Of several processes the
    first alone writes; all of them read, and call the same methods.
    """

    def __init__(
        self, stage: str, config: TrainingConfig, facts: dict[str, Any], processes: ProcessGroup
    ) -> None:
        self.stage = stage
        self.config = config
        self.processes = processes
        self.folder = Path(config.out)
        self.total_steps = 0
        self.start = 0
        self.last_step = 0
        self._asked_to_stop = False
        self._stops_here = False
        self._facts = facts
        self._metrics: Any = None
        self._trackers: Any = None

    def open(self, total_steps: int) -> dict[str, Any] | None:
        """Make (or find again) the directory; the state to resume from, if any.

        Raises UsageError where a run is there already and --resume was not said, and TrainerError where
        the checkpoint is another run's. A run that ended before its first checkpoint left nothing to
        lose: it starts again without being asked.
        """
        self.total_steps = total_steps
        file = self.folder / "config.json"
        state = None
        if file.exists() and self._has_work():
            if not self.config.resume:
                raise UsageError(f"--out {self.folder}: holds a run already; say --resume to go on")
            before = read_description(file)
            # Another number of threads adds up in another order: the last digits would differ.
            torch.set_num_threads(before.get("threads", torch.get_num_threads()))
            self._check_same(before, self.describe())
            state = self._newest_checkpoint()
        self.start = self.last_step = int(state["step"]) if state else 0
        self.processes.wait()  # all have read what the first is about to change
        if self.processes.first:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(file, self.describe())
            self._keep_metrics_until(self.start)
            self._metrics = (self.folder / "metrics.jsonl").open("a")
            if self.config.trackers:
                self._trackers = start_trackers(self.config, self.folder)
        return state

    def _has_work(self) -> bool:
        return (self.folder / "model").exists() or any(
            (self.folder / "checkpoints").glob("step-*/state.pt")
        )

    def describe(self) -> dict[str, Any]:
        """What config.json holds: all that it takes to make the run again."""
        import transformers

        return {
            "format": "plackett-run",
            "format_version": FORMAT_VERSION,
            "stage": self.stage,
            "catalogue": list_stages()[self.stage].describe(self.config),
            "config": dataclasses.asdict(self.config),
            "total_steps": self.total_steps,
            "versions": {
                "plackett": __version__,
                "python": sys.version.split()[0],
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
            "threads": torch.get_num_threads(),
            "processes": self.processes.count,
            **self._facts,
        }

    def _check_same(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        for name, value in before.get("config", {}).items():
            if name not in FREE_TO_CHANGE and now["config"].get(name) != value:
                raise TrainerError(
                    f"{self.folder}: its checkpoint is of another run: {name} was {value!r}, "
                    f"is {now['config'].get(name)!r}"
                )
        for name in ("stage", "total_steps", *(self._facts.keys() - NOTED)):
            if before.get(name) != now.get(name):
                raise TrainerError(
                    f"{self.folder}: its checkpoint is of another run: {name} differs"
                )

    def _newest_checkpoint(self) -> dict[str, Any] | None:
        for folder in sorted((self.folder / "checkpoints").glob("step-*"), reverse=True):
            try:
                # Written by this program: it holds tensors and plain numbers alone.
                state: dict[str, Any] = torch.load(
                    folder / "state.pt", map_location="cpu", weights_only=True
                )
            except (OSError, RuntimeError, EOFError):
                continue  # cut short by a kill: the one before it is whole
            return state
        return None

    def _keep_metrics_until(self, step: int) -> None:
        """Forget metrics of steps that will be made again."""
        file = self.folder / "metrics.jsonl"
        if not file.exists():
            return
        kept = []
        for line in file.read_text().splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                break  # the last line, cut short by a kill
            if row["step"] <= step:
                kept.append(line)
        fresh = file.with_suffix(".new")
        fresh.write_text("".join(f"{line}\n" for line in kept))
        fresh.rename(file)

    def steps(self) -> Iterator[int]:
        """The numbers of the steps to make, from 1; shows progress, and stops when asked to."""
        what = self.stage if self.processes.first else ""
        for step in progress(self.start + 1, self.total_steps, what):
            yield step
            if self._stops_here:
                raise Stopped(f"stopped after step {step}; go on with --resume")

    def log(self, step: int, **figures: float) -> None:
        """One line of metrics.jsonl, on disk at once; what is no finite number is written as null.

        Raises TrainerError where the loss or the gradient is no number: nothing good comes after it.
        """
        row: dict[str, Any] = {"step": step}
        for name, value in figures.items():
            finite = math.isfinite(value)
            if name in ("loss", "grad_norm") and not finite:
                raise TrainerError(f"step {step}: {name} is {value}; try a smaller --lr")
            row[name] = round(float(value), 8) if finite else None
        if self._metrics is not None:
            self._metrics.write(json.dumps(row) + "\n")
            self._metrics.flush()
        if self._trackers is not None:
            shown = {name: value for name, value in row.items() if value is not None}
            self._trackers.log(shown, step=step)

    def wants_checkpoint(self, step: int, ends_here: bool = False) -> bool:
        """Whether the state after this step should be saved. Asked once a step: a signal that comes
        later than this is heard in the next one."""
        self.last_step = step
        self._stops_here = self.processes.any(self._asked_to_stop)
        return (
            self._stops_here
            or ends_here
            or step % self.config.checkpoint_every == 0
            or step == self.total_steps
        )

    def save_checkpoint(self, step: int, state: dict[str, Any]) -> None:
        """Write the state beside its place and rename it: there is never half a checkpoint."""
        if not self.processes.first:
            return
        folder = self.folder / "checkpoints"
        folder.mkdir(exist_ok=True)
        fresh = folder / ".new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        torch.save({**state, "step": step}, fresh / "state.pt")
        with (fresh / "state.pt").open("rb") as file:
            os.fsync(file.fileno())
        place = folder / f"step-{step:08d}"
        shutil.rmtree(place, ignore_errors=True)
        fresh.rename(place)
        for old in sorted(folder.glob("step-*"))[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old)

    def read_metrics(self) -> list[dict[str, Any]]:
        """All metrics so far."""
        return [
            json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()
        ]

    def __enter__(self) -> "Run":
        self._before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
        for each in self._before:
            try:
                signal.signal(each, self._ask_to_stop)
            except ValueError:  # not the main thread: whoever started it stops it otherwise
                self._before = {}
                break
        return self

    def __exit__(self, *_: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)
        if self._metrics is not None:
            self._metrics.close()
        if self._trackers is not None:
            self._trackers.end_training()

    def _ask_to_stop(self, *_: int | FrameType | None) -> None:
        if self._asked_to_stop:
            raise KeyboardInterrupt
        self._asked_to_stop = True
