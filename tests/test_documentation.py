"""What is written about settings, commands and error codes is what the code says."""

import importlib.util
from types import ModuleType

import pytest
from pydantic import Field
from pydantic_settings import BaseSettings

from app.errors import PlackettError
from app.settings import CHECKOUT


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", CHECKOUT / "docs" / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["settings.md", "errors.md", "cli.md"])
def test_a_page_is_what_the_code_says(generate: ModuleType, name: str) -> None:
    written = (CHECKOUT / "docs" / name).read_text()
    assert written == generate.PAGES[name](), "run `python3 dev.py docs`"


def test_every_page_is_compared(generate: ModuleType) -> None:
    assert set(generate.PAGES) == {"settings.md", "errors.md", "cli.md"}


def test_a_new_setting_changes_the_page_and_needs_a_description(generate: ModuleType) -> None:
    class More(BaseSettings):
        colour: str = Field(default="red", description="What the walls have.")

    assert "| `PLACKETT_COLOUR` | str | `red` | What the walls have. |" in generate.settings_page(
        More
    )

    class Bare(BaseSettings):
        colour: str = "red"

    with pytest.raises(ValueError, match="colour has no description"):
        generate.settings_page(Bare)


def test_a_new_error_is_a_row_and_needs_a_description(generate: ModuleType) -> None:
    class PlantedError(PlackettError):
        """Something that a test has planted."""

        status, code, title = 418, "planted", "Planted"

    row = "| `planted` | 418 | Planted | Something that a test has planted. |"
    assert row in generate.errors_page([PlantedError])
    assert row not in generate.errors_page()  # it is none of app's
    PlantedError.__doc__ = None
    with pytest.raises(ValueError, match="PlantedError has no description"):
        generate.errors_page([PlantedError])
