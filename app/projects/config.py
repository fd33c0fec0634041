"""A project's settings from a TOML file."""

import tomllib
from pathlib import Path

from app.errors import InvalidInput


def read_config(path: Path) -> dict[str, object]:
    """The file's settings, the same keys as the API's. Raises InvalidInput naming the file.

    `guidelines_file` may name a Markdown file, beside this one, instead of `guidelines`.
    """
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise InvalidInput(f"cannot be read ({error.strerror})", field=str(path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"is not TOML: {error}", field=str(path)) from None
    name = values.pop("guidelines_file", None)
    if name is not None:
        file = path.parent / str(name)
        try:
            values["guidelines"] = file.read_text()
        except OSError as error:
            raise InvalidInput(f"cannot be read ({error.strerror})", field=str(file)) from None
    return values
