"""Each stage's settings, a module each. Nothing here needs torch: wrong usage is told at once.

A stage is a module of this package with a `STAGE`, and the module of the same name in `trainer`, whose
`main` takes the settings.
"""

import importlib
import pkgutil
from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """A word of the command line: what it is for, its settings, and flags to show under --help."""

    summary: str
    config: type
    example: str


def list_stages() -> dict[str, Stage]:
    """Every stage by name."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        stage = getattr(importlib.import_module(f"{__name__}.{module.name}"), "STAGE", None)
        if stage is not None:
            found[module.name] = stage
    return found
