"""Each stage's settings and its entry in the catalogue, a module each. Nothing here needs torch: wrong
usage is told at once, and whoever offers the stages to people can ask for them anywhere.

A stage is a module of this package with a `STAGE`, and the module of the same name in `trainer`, whose
`main` takes the settings. There is no other list of stages, curves or flags: a run directory's
`config.json` carries the entry of its stage, and `python -m trainer stages` prints all of them.
"""

import importlib
import pkgutil
from dataclasses import dataclass
from typing import TypedDict


class CurveEntry(TypedDict):
    """A curve as `config.json` tells it."""

    title: str
    unit: str
    metrics: list[str]


class StageEntry(TypedDict):
    """A stage as `config.json` tells it."""

    title: str
    makes: str
    needs: list[str]
    curves: list[CurveEntry]


@dataclass(frozen=True)
class Curve:
    """A plot over the steps: at most three names of metrics in one unit.

    `only_with` names the setting without which there is nothing to draw.
    """

    title: str
    metrics: tuple[str, ...]
    unit: str = ""
    only_with: str | None = None


@dataclass(frozen=True)
class Stage:
    """A word of the command line: what it is for, its settings, and flags to show under --help.

    A stage that trains also says what it `makes` ("policy" or "reward"; "" makes no run directory), which
    of these it `needs` besides data and a model to start from, the curves of its run, and what the card of
    its model says that it is.
    """

    summary: str
    config: type
    example: str
    title: str = ""
    makes: str = ""
    needs: tuple[str, ...] = ()
    curves: tuple[Curve, ...] = ()
    card: str = ""

    def describe(self, config: object) -> StageEntry:
        """The entry of a run with these settings."""
        return {
            "title": self.title,
            "makes": self.makes,
            "needs": list(self.needs),
            "curves": [
                {"title": curve.title, "unit": curve.unit, "metrics": list(curve.metrics)}
                for curve in self.curves
                if curve.only_with is None or getattr(config, curve.only_with)
            ],
        }


def list_stages() -> dict[str, Stage]:
    """Every stage by name."""
    stages = {}
    for module in pkgutil.iter_modules(__path__):
        stage = getattr(importlib.import_module(f"{__name__}.{module.name}"), "STAGE", None)
        if stage is not None:
            stages[module.name] = stage
    return stages
