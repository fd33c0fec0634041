"""Small files written whole, read back and hashed."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.data.values import JsonObject, JsonValue
from trainer.errors import TrainerError, first_line


def read_description(file: Path) -> JsonObject:
    """A run's config.json. Raises TrainerError where it cannot be read."""
    try:
        description: JsonValue = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise TrainerError(f"{file}: cannot be read: {first_line(error)}") from None
    if not isinstance(description, dict):
        raise TrainerError(f"{file}: cannot be read: it holds no JSON object")
    return description


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Libraries write into the folder. Raises TrainerError where they cannot, and takes the half away.

    Each says it in an exception of its own that the disk is full.
    """
    try:
        yield
    except Exception as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise TrainerError(f"{folder}: cannot be written: {first_line(error)}") from None


def write_json(path: Path, value: JsonValue) -> None:
    """Write JSON under another name and rename it: there is never half a file."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    fresh.rename(path)


def hash_model_files(path: str) -> str:
    """SHA-256 over a model's weight and configuration files; of the id itself where it is no path."""
    digest = hashlib.sha256()
    folder = Path(path)
    if not folder.is_dir():
        digest.update(path.encode())
    for file in sorted(folder.glob("*")) if folder.is_dir() else ():
        if file.is_file():
            digest.update(file.name.encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()
