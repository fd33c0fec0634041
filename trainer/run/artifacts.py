"""What a finished run leaves: the model, the report, the result."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from trainer.data.values import JsonObject
from trainer.run.directory import Run
from trainer.run.files import write_json, writing
from trainer.run.model_card import write_card
from trainer.run.report import Sample, write_report


class Saveable(Protocol):
    """A model or a tokenizer."""

    def save_pretrained(self, folder: Path) -> object:
        """Write it."""


def save_model(
    model: Saveable, tokenizer: Saveable, folder: Path, *, card: str | None = None
) -> None:
    """Save both (and a card) under another name and rename it: there is never half a model."""
    fresh = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    with writing(fresh):
        model.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        if card is not None:
            (fresh / "README.md").write_text(card)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def write_artifacts(
    run: Run,
    *,
    model: Saveable,
    tokenizer: Saveable,
    result: JsonObject,
    usage: str,
    samples: Sequence[Sample] = (),
    drawings: Sequence[str] = (),
) -> None:
    """Write all that a finished run leaves; result.json, which says that it is done, comes last.

    `usage` is the section of the model's card that says how others use it.

    Of several processes the first writes; all of them wait for it.
    """
    if run.processes.first:
        folder = run.folder / "model"
        save_model(model, tokenizer, folder, card=write_card(run, result, usage))
        write_report(
            run.folder / "report.html",
            run=run,
            result=result,
            samples=samples,
            drawings=drawings,
        )
        write_json(run.folder / "result.json", result)
    run.processes.barrier()
