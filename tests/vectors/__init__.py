"""Test vectors of what the application and the trainer both compute: neither may import the other."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def read(name: str) -> dict[str, Any]:
    """One file of vectors; what its fields mean stands under `about`."""
    vectors: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return vectors
