"""The `metrics.jsonl` of a run directory: one object a step, on disk at once."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from trainer.errors import TrainerError

Metrics = dict[str, float | None]


def to_row(step: int, figures: Mapping[str, float]) -> Metrics:
    """A step's figures as a row; what is no finite number becomes None.

    Raises TrainerError where the loss or the gradient is no number: nothing good comes after it.
    """
    row: Metrics = {"step": step}
    for name, value in figures.items():
        finite = math.isfinite(value)
        if name in ("loss", "grad_norm") and not finite:
            raise TrainerError(f"step {step}: {name} is {value}; try a smaller --lr")
        row[name] = float(f"{value:.9g}") if finite else None
    return row


class MetricsFile:
    """The file, open for the rows to come."""

    def __init__(self, path: Path, *, keep_until: int) -> None:
        """Open it, without the rows of steps that will be made again."""
        forget_later_steps(path, keep_until)
        self._file = path.open("a")

    def write(self, row: Metrics) -> None:
        """Add a row."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close it."""
        self._file.close()


def forget_later_steps(path: Path, step: int) -> None:
    """Drop the rows after that step."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            made = json.loads(line)["step"]
        except (ValueError, TypeError, KeyError):
            break  # the last line, cut short by a kill
        if made <= step:
            kept.append(line)
    fresh = path.with_suffix(".new")
    fresh.write_text("".join(f"{line}\n" for line in kept))
    fresh.rename(path)


def read_metrics(path: Path) -> list[Metrics]:
    """All rows so far."""
    with path.open() as lines:
        return [json.loads(line) for line in lines]
