"""What a run shows while it goes on: a bar, and trackers."""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from trainer.data.examples import Tally
from trainer.errors import UsageError
from trainer.settings.training import TrainingConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

    Trackers: TypeAlias = Accelerator


def start_trackers(config: TrainingConfig, folder: Path) -> "Trackers":
    """Accelerate's trackers (TensorBoard and others), beside metrics.jsonl. Raises UsageError."""
    from accelerate import Accelerator

    names = [name.strip() for name in config.trackers.split(",") if name.strip()]
    try:
        trackers = Accelerator(
            log_with=names, project_dir=str(folder / "trackers"), cpu=config.device == "cpu"
        )
        plain = {
            name: value for name, value in dataclasses.asdict(config).items() if value is not None
        }
        trackers.init_trackers(folder.name, plain)
    except (ValueError, ImportError) as error:
        raise UsageError(f"--trackers {config.trackers}: {error}") from None
    started = {tracker.name for tracker in trackers.trackers}
    missing = sorted(set(names) - started - {"all"})
    if missing:
        raise UsageError(f"--trackers: {', '.join(missing)} is not installed here")
    return trackers


def tell_left_out(label: str, left_out: Tally, *, speaks: bool = True) -> None:
    """A line on stderr of the rows that were left out whole, if there are any."""
    said = left_out.says()
    if said and speaks:
        print(f"{label}: left out: {said}", file=sys.stderr, flush=True)  # noqa: T201


def progress(first: int, last: int, label: str) -> Iterator[int]:
    """Count, with a bar on a terminal and a line now and then elsewhere; silently without a label."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not (console.is_terminal and label):
        for step in range(first, last + 1):
            yield step
            if not label:
                continue
            if step == last or step % max(1, last // 10) == 0:
                print(f"{label}: step {step} of {last}", file=sys.stderr, flush=True)  # noqa: T201
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(label, total=last, completed=first - 1)
        for step in range(first, last + 1):
            yield step
            bar.update(task, completed=step)
