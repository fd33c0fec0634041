"""The catalogue, for programs that offer the stages to people and never import the trainer.

It needs no torch: a web server without one can ask.

    python -m trainer stages
"""

from typing import TypedDict

from trainer.settings import list_stages
from trainer.settings.flags import FlagEntry, list_flags
from trainer.settings.stages import StagesConfig


class StageListing(TypedDict):
    """A stage that trains."""

    title: str
    summary: str
    makes: str
    needs: list[str]
    flags: list[FlagEntry]


def main(config: StagesConfig) -> dict[str, StageListing]:
    """Every stage that makes a run directory, by name."""
    return {
        name: {
            "title": stage.title,
            "summary": stage.summary,
            "makes": stage.makes,
            "needs": list(stage.needs),
            "flags": list_flags(stage.config),
        }
        for name, stage in list_stages().items()
        if stage.makes
    }
