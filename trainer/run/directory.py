"""The run directory: what was asked, what happened at each step, and where to go on from.

`config.json`, `metrics.jsonl`, `checkpoints/`, `model/`, `report.html`, `result.json`.
"""

import dataclasses
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Protocol, Self

import torch

from trainer import __version__
from trainer.data.values import JsonObject, JsonValue, as_json
from trainer.errors import Stopped, TrainerError, UsageError
from trainer.run.checkpoints import State, has_checkpoints, load_newest_checkpoint, save_checkpoint
from trainer.run.files import read_description, write_json
from trainer.run.metrics import Metrics, MetricsFile, read_metrics, to_row
from trainer.run.progress import progress, start_trackers
from trainer.settings import StageEntry, list_stages
from trainer.settings.training import TrainingConfig

if TYPE_CHECKING:
    from trainer.run.progress import Trackers

# Of what docs/run-directory.md describes: raised where a reader of today would stumble.
FORMAT_VERSION = 1
# Flags that may differ when a run goes on: they change nothing of the numbers.
FREE_TO_CHANGE = ("out", "resume", "checkpoint_every")
# What is written down for the record alone: a run may go on on a machine that computes otherwise.
NOTED = {"linear", "lr_source", "left_out"}


def same_place(one: object, other: object) -> bool:
    """Whether two settings are equal, or two spellings of one path (or of several, with commas between)."""
    if one == other or not isinstance(one, str) or not isinstance(other, str):
        return one == other
    if not one or not other:
        return False
    places = [[os.path.realpath(part.strip()) for part in each.split(",")] for each in (one, other)]
    return places[0] == places[1]


class ProcessGroup(Protocol):
    """What a run directory needs to know of the processes that share it."""

    count: int

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""

    def any(self, here: bool) -> bool:
        """Whether it is so in any process."""

    def all_gather(self, items: Sequence[JsonObject]) -> list[JsonObject]:
        """The items of all processes."""

    def barrier(self) -> None:
        """Wait until all have come this far."""


class Run:
    """A training run and its directory.

    Use it as a context: SIGTERM and SIGINT then let the step that is under way end, a checkpoint is
    written, and Stopped is raised. A second signal ends the process at once. Of several processes the
    first alone writes; all of them read, and call the same methods.
    """

    def __init__(
        self,
        stage: str,
        config: TrainingConfig,
        provenance: Mapping[str, JsonValue],
        processes: ProcessGroup,
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
        self._provenance = provenance
        self._metrics: MetricsFile | None = None
        self._trackers: Trackers | None = None

    def open(self, total_steps: int) -> State | None:
        """Make (or find again) the directory; the state to resume from, if any.

        Raises UsageError where a run is there already and --resume was not said, and TrainerError where
        the checkpoint is another run's. A run that ended before its first checkpoint left nothing to
        lose: it starts again without being asked.
        """
        self.total_steps = total_steps
        self._check_alike()
        file = self.folder / "config.json"
        state = None
        if file.exists() and self._has_work():
            if not self.config.resume:
                raise UsageError(f"--out {self.folder}: holds a run already; say --resume to go on")
            before = read_description(file)
            # Another number of threads adds up in another order: the last digits would differ.
            threads = before.get("threads")
            torch.set_num_threads(threads if isinstance(threads, int) else torch.get_num_threads())
            self._check_same(before, self.describe())
            state = load_newest_checkpoint(self.folder / "checkpoints")
        self.start = self.last_step = int(state["step"]) if state else 0
        self.processes.barrier()  # all have read what the first is about to change
        if self.processes.first:
            fresh = not self.folder.exists()
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.config.trackers:
                try:
                    self._trackers = start_trackers(self.config, self.folder)
                except UsageError:
                    if fresh:
                        shutil.rmtree(self.folder)
                    raise
            write_json(file, self.describe())
            self._metrics = MetricsFile(self.folder / "metrics.jsonl", keep_until=self.start)
        return state

    def _check_alike(self) -> None:
        """Raise UsageError where processes were given other settings or data: each would train on its own,
        or wait for steps that another does not make."""
        places = {each.name for each in dataclasses.fields(self.config) if each.metadata["local"]}
        own = {
            name: value
            for name, value in (dataclasses.asdict(self.config) | dict(self._provenance)).items()
            if name not in places | NOTED
        } | {"total_steps": self.total_steps}
        for other in self.processes.all_gather([own]):
            for name, value in own.items():
                if other[name] != value:
                    raise UsageError(
                        f"the processes of this run were given different {name}: {value!r} here, "
                        f"{other[name]!r} in another"
                    )

    def _has_work(self) -> bool:
        return (self.folder / "model").exists() or has_checkpoints(self.folder / "checkpoints")

    @property
    def catalogue(self) -> StageEntry:
        """What the stage says of itself: title, product, curves."""
        return list_stages()[self.stage].describe(self.config)

    def describe(self) -> JsonObject:
        """What config.json holds: all that it takes to make the run again."""
        import transformers

        return {
            "format": "plackett-run",
            "format_version": FORMAT_VERSION,
            "stage": self.stage,
            "catalogue": as_json(self.catalogue),
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
            **self._provenance,
        }

    def _check_same(self, before: JsonObject, now: JsonObject) -> None:
        asked_before, asked = before.get("config"), now["config"]
        assert isinstance(asked, dict)
        for name, value in asked_before.items() if isinstance(asked_before, dict) else ():
            hashed = f"{name}_hash" in self._provenance and value and asked.get(name)
            if name not in FREE_TO_CHANGE and not hashed and not same_place(value, asked.get(name)):
                raise TrainerError(
                    f"{self.folder}: its checkpoint is of another run: {name} was {value!r}, "
                    f"is {asked.get(name)!r}"
                )
        for name in ("stage", "total_steps", *(self._provenance.keys() - NOTED)):
            if before.get(name) != now.get(name):
                raise TrainerError(
                    f"{self.folder}: its checkpoint is of another run: {name} differs"
                )

    def steps(self) -> Iterator[int]:
        """The numbers of the steps to make, from 1; shows progress, and stops when asked to."""
        label = self.stage if self.processes.first else ""
        for step in progress(self.start + 1, self.total_steps, label):
            yield step
            if self._stops_here:
                raise Stopped(f"stopped after step {step}; go on with --resume")

    def log(self, step: int, **figures: float) -> None:
        """One line of metrics.jsonl, on disk at once; what is no finite number is written as null.

        Raises TrainerError where the loss or the gradient is no number: nothing good comes after it.
        """
        row = to_row(step, figures)
        if self._metrics is not None:
            self._metrics.write(row)
        if self._trackers is not None:
            known = {name: value for name, value in row.items() if value is not None}
            self._trackers.log(known, step=step)

    def should_checkpoint(self, step: int, ends_here: bool = False) -> bool:
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

    def save_checkpoint(self, step: int, state: State) -> None:
        """Keep the state after this step."""
        if self.processes.first:
            save_checkpoint(self.folder / "checkpoints", step, state)

    def read_metrics(self) -> list[Metrics]:
        """All metrics so far."""
        return read_metrics(self.folder / "metrics.jsonl")

    def __enter__(self) -> Self:
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
