"""The model's card."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from trainer.data.values import JsonObject, JsonValue
from trainer.run.directory import Run
from trainer.run.report import flatten, show
from trainer.settings import list_stages

# Settings that name files of one machine, or how the run was started.
NOT_IN_CARD = frozenset(
    {"data", "model", "out", "reward", "reference", "heldout_reward", "ptx_data", "resume"}
)


def write_card(run: Run, result: JsonObject, usage: str) -> str:
    """The model's card: what it is, how to use it, from which data under which guidelines, how good, how to
    repeat it.
    """
    config = run.config
    description = run.describe()
    data = read_manifest(Path(config.data))
    raters = data.get("raters")
    rows: JsonObject = {
        "data": data.get("name") or Path(config.data).name,
        "SHA-256 of the data that was read": description.get("data_hash"),
        "hash of the export": data.get("content_hash"),
        "version of the raters' guidelines": data.get("guideline_version"),
        "raters": raters.get("count") if isinstance(raters, dict) else None,
        "started from": Path(config.model).name,
        "SHA-256 of the start": description.get("model_hash"),
    }
    known = {name: value for name, value in rows.items() if value is not None}
    settings = {
        name: value for name, value in dataclasses.asdict(config).items() if name not in NOT_IN_CARD
    }
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            f"tags: [plackett, {run.stage}]",
            "---",
            "",
            f"# {run.folder.name}",
            "",
            f"{list_stages()[run.stage].card}. Made by Plackett's trainer, stage `{run.stage}`.",
            "",
            usage,
            "",
            "## Data",
            "",
            *table(known),
            "",
            "## Figures",
            "",
            *table(single_figures(result)),
            "",
            "## Limits",
            "",
            "It knows the taste of these raters under these guidelines, on prompts like these, and errs "
            "as they did. Figures above are of held-out prompts of the same source; what a reward model "
            "says of a policy that was trained against it is no evidence of quality.",
            "",
            "## To make it again",
            "",
            "The run directory's `config.json` has all settings, hashes and versions.",
            "",
            "```json",
            json.dumps({"settings": settings, "versions": description["versions"]}, indent=2),
            "```",
            "",
        ]
    )


def single_figures(result: JsonObject) -> JsonObject:
    """The figures that are one number or word each; tables of slices and bins are in the report."""
    hidden = ("stage", "left_out_where")  # lines of files that the card's reader does not have
    flat = flatten({name: each for name, each in result.items() if name not in hidden})
    return {
        name: value
        for name, value in flat.items()
        if ".slices." not in name
        and not (isinstance(value, list) and value and isinstance(value[0], dict))
    }


def table(rows: Mapping[str, JsonValue]) -> list[str]:
    """A Markdown table of names and figures."""
    shown = ((name, show(value).replace("|", "\\|")) for name, value in rows.items())
    return ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in shown)]


def read_manifest(data: Path) -> JsonObject:
    """The manifest of an export directory; of anything else, an empty one."""
    try:
        manifest = json.loads((data / "manifest.json").read_text())
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}
