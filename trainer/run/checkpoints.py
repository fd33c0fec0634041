"""The `checkpoints/` of a run directory: whole or not there, the newest and the one before it."""

import os
import shutil
from pathlib import Path
from typing import Any, TypeAlias

import torch

from trainer.run.files import writing

# Tensors and plain numbers, in dictionaries and lists: all that a later start needs.
State: TypeAlias = dict[str, Any]
# The newest and the one before it, in case a kill cut the newest's disk short.
KEPT_CHECKPOINTS = 2


def has_checkpoints(folder: Path) -> bool:
    """Whether there is anything to go on from."""
    return any(folder.glob("step-*/state.pt"))


def save_checkpoint(folder: Path, step: int, state: State) -> None:
    """Write the state under another name and rename it: there is never half a checkpoint."""
    folder.mkdir(exist_ok=True)
    fresh = folder / ".new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    with writing(fresh):
        torch.save({**state, "step": step}, fresh / "state.pt")
        with (fresh / "state.pt").open("rb") as file:
            os.fsync(file.fileno())
    final = folder / f"step-{step:08d}"
    shutil.rmtree(final, ignore_errors=True)
    fresh.rename(final)
    for old in sorted(folder.glob("step-*"))[:-KEPT_CHECKPOINTS]:
        shutil.rmtree(old)


def load_newest_checkpoint(folder: Path) -> State | None:
    """The newest state that is whole, with its `step`; None where there is none."""
    for each in sorted(folder.glob("step-*"), reverse=True):
        try:
            # Written by this program: it holds tensors and plain numbers alone.
            state: State = torch.load(each / "state.pt", map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError):
            continue  # cut short by a kill: the one before it is whole
        return state
    return None
