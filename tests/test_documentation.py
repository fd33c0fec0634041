"""What is written down beside the code is what the code says."""

import importlib.util
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from pydantic import Field
from pydantic_settings import BaseSettings

from app.datasets.files import SCHEMA
from app.errors import PlackettError
from app.settings import CHECKOUT


def load(file: str) -> ModuleType:
    """A file of the checkout that is no package's, as a module."""
    spec = importlib.util.spec_from_file_location(Path(file).stem, CHECKOUT / file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    return load("docs/generate.py")


@pytest.mark.parametrize("name", ["settings.md", "errors.md", "cli.md"])
def test_a_page_is_what_the_code_says(generate: ModuleType, name: str) -> None:
    written = (CHECKOUT / "docs" / name).read_text()
    assert written == generate.PAGES[name](), "run `python3 dev.py docs`"


def test_every_page_is_compared(generate: ModuleType) -> None:
    assert set(generate.PAGES) == {"settings.md", "errors.md", "cli.md", "learning-rates.md"}


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


def test_the_formats_pages_are_of_the_versions_that_are_written() -> None:
    for page, code in (
        ("export-format.md", "app/datasets/service.py"),
        ("run-directory.md", "trainer/run/directory.py"),
    ):
        title = (CHECKOUT / "docs" / page).read_text().splitlines()[0]
        version = re.search(
            r"^FORMAT_VERSION = (\d+)$", (CHECKOUT / code).read_text(), re.MULTILINE
        )
        assert version
        assert title.endswith(f": version {version[1]}"), page


def test_the_exports_page_names_every_column() -> None:
    page = (CHECKOUT / "docs" / "export-format.md").read_text()
    columns = {column for schema in SCHEMA.values() for column in schema}
    columns |= {"rater", "ranks", "axes", "flags", "rationale", "presented", "seconds", "weight"}
    assert [column for column in sorted(columns) if f"`{column}`" not in page] == []


def rooms_of(table: str) -> set[str]:
    """The top-level folders that the map of the README names in its first column."""
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return {name.split("/")[0] for row in rows for name in re.findall(r"`([^`]+)`", row)}


def tracked(*under: str) -> list[str]:
    """The files that git tracks, where this is a checkout."""
    listed = subprocess.run(
        ["git", "ls-files", *under], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return listed.stdout.splitlines()


def test_the_readmes_map_names_every_room() -> None:
    table = (CHECKOUT / "README.md").read_text().partition("## Find your way")[2]
    assert rooms_of(table) == {path.split("/")[0] for path in tracked() if "/" in path}
    of_app = {"/".join(path.split("/")[:2]) for path in tracked("app") if path.count("/") > 1}
    assert [room for room in sorted(of_app) if f"`{room}`" not in table] == []


def test_a_room_that_is_not_on_the_map_is_missed() -> None:
    assert rooms_of("| `app/web`, `tests` | `x` |\n| --- | --- |\n| `trainer` | `bench` |") == {
        "app",
        "tests",
        "trainer",
    }


def test_pre_commit_has_the_checks_of_the_test_command() -> None:
    hooks = yaml.safe_load((CHECKOUT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    checks = load("dev.py").CHECKS
    assert [hook["id"] for hook in hooks] == list(checks)
    assert [hook["entry"] for hook in hooks] == [f"python3 dev.py check {name}" for name in checks]
