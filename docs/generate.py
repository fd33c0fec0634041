"""The reference pages that are made from the code: `python3 dev.py docs` writes them, a test compares them.

Each is a function that returns a page's text; what has no description in the code is refused.
"""

import contextlib
import importlib
import io
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer.main
from pydantic_settings import BaseSettings
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import app
import demo.__main__ as demo_command
import trainer.__main__ as trainer_command
from app.errors import PlackettError
from app.settings import CHECKOUT, Settings
from trainer.settings import list_stages, rates

MADE = "<!-- Made from the code by `python3 dev.py docs`; edit it there. -->\n"
COLUMNS = 100


def settings_page(settings: type[BaseSettings] = Settings) -> str:
    """Every setting: its environment variable, default and meaning."""
    rows = []
    for name, field in settings.model_fields.items():
        if not field.description:
            raise ValueError(f"the setting {name} has no description")
        variable = field.validation_alias or f"PLACKETT_{name.upper()}"
        default = "unset" if field.default is None else field.default
        if isinstance(default, Path) and default.is_relative_to(CHECKOUT):
            default = f"{default.relative_to(CHECKOUT)} in the checkout"
        kind = re.sub(r"typing\.|<class '|'>|pathlib\.", "", str(field.annotation))
        kind = kind.replace("|", r"\|")
        rows.append(f"| `{variable}` | {kind} | `{default}` | {field.description} |")
    return f"""# Settings

{MADE}
Read from environment variables, once, when a process starts. Every command takes them.

| variable | type | default | meaning |
| --- | --- | --- | --- |
{chr(10).join(rows)}
"""


def errors_page(kinds: Iterable[type[PlackettError]] | None = None) -> str:
    """Every error code that the API, the pages and the commands answer with."""
    rows = []
    for kind in sorted(kinds or app_errors(), key=lambda each: (each.status, each.code)):
        meaning = first_paragraph(kind.__doc__)
        if not meaning:
            raise ValueError(f"{kind.__name__} has no description")
        rows.append(f"| `{kind.code}` | {kind.status} | {kind.title} | {meaning} |")
    return f"""# Error codes

{MADE}
The API answers an error as a problem document (RFC 9457) with `type`, `title`, `status`, `detail` and,
where it is known, `place`: the line or field that the trouble is in. `type` is `urn:plackett:error:` and
the code, which is for programs and stays.

| code | status | title | meaning |
| --- | --- | --- | --- |
{chr(10).join(dict.fromkeys(rows))}
"""


def app_errors() -> Iterator[type[PlackettError]]:
    """Every error of the tree, wherever in app it is defined."""
    for module in pkgutil.walk_packages(app.__path__, "app."):
        if module.name != "app.__main__":
            importlib.import_module(module.name)
    yield from (each for each in subclasses(PlackettError) if each.__module__.startswith("app."))


def subclasses(kind: type[PlackettError]) -> Iterator[type[PlackettError]]:
    """A class and all that descend from it."""
    yield kind
    for each in kind.__subclasses__():
        yield from subclasses(each)


def commands_page() -> str:
    """The help of every command, of `plackett` and of the trainer."""
    from app.cli import commands

    parts = []
    for words, command in leaves(typer.main.get_command(commands), ()):
        bare = [str(each.name) for each in command.params if not getattr(each, "help", None)]
        if not command.help or bare:
            raise ValueError(f"{' '.join(words)}: no help for {', '.join(bare) or 'it'}")
        told = CliRunner().invoke(commands, [*words, "--help"], env={"COLUMNS": str(COLUMNS)})
        parts.append(section(f"plackett {' '.join(words)}", told.output))
    for stage in list_stages():
        parts.append(
            section(
                f"python -m trainer {stage}", help_from(trainer_command.main, [stage, "--help"])
            )
        )
    parts.append(section("python -m demo", help_from(demo_command.main, ["--help"])))
    return f"""# Commands

{MADE}
Every command exits with 0 when it is done, 2 where it was called wrongly, and 1 for a failure that it
explains in one line on stderr.

{chr(10).join(parts)}"""


def rates_page() -> str:
    """Every learning rate that a run may be given, with its source."""
    rows = [
        f"| {each.stage} | {size(each.parameters)} | {'adapters' if each.lora else 'all'} "
        f"| {each.lr:.3g} | {each.source} |"
        for each in rates.RATES
    ]
    same = "".join(f" `{stage}` takes `{other}`'s." for stage, other in rates.SAME_AS.items())
    epsilons = [
        f"| {stages} | {value:g} | {source} |" for stages, (value, source) in rates.EPSILONS.items()
    ]
    return f"""# Learning rates

{MADE}
{paragraphs(rates.__doc__)}

`--lr` overrides them; `config.json` and the report name the rate's source (`lr_source`). The rate falls
linearly to 0 (`trainer/formulas/schedules.py`), where many of the sources had a cosine.{same}

| stage | parameters | weights | rate | source |
| --- | --- | --- | --- | --- |
{chr(10).join(rows)}

Adam's epsilon (`--adam-eps`):

| stages | epsilon | source |
| --- | --- | --- |
{chr(10).join(epsilons)}
"""


def size(parameters: float) -> str:
    """`7B` of 7e9."""
    return f"{parameters / 1e9:g}B" if parameters >= 1e9 else f"{parameters / 1e6:g}M"


def paragraphs(doc: str | None) -> str:
    """A docstring as it stands."""
    return (doc or "").strip()


def leaves(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The commands that do something, with the words that call them."""
    members: Mapping[str, Any] = getattr(command, "commands", {})
    if not members:
        yield words, command
    for name, each in members.items():
        yield from leaves(each, (*words, name))


def help_from(main: Callable[[list[str]], int], argv: list[str]) -> str:
    """What a program prints for --help, without its line of usage: Python's versions wrap that one
    differently, and the flags are listed below it anyway."""
    told = io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(COLUMNS)
    try:
        with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
            main(argv)
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
    return re.sub(r"\Ausage:.*?\n\n", "", told.getvalue(), flags=re.DOTALL)


def section(title: str, text: str) -> str:
    """A command's part of the page."""
    lines = "\n".join(line.rstrip() for line in text.strip().splitlines())
    return f"## {title}\n\n```\n{lines}\n```\n"


def first_paragraph(doc: str | None) -> str:
    """A docstring's first paragraph as one line."""
    return " ".join((doc or "").strip().split("\n\n")[0].split())


PAGES: Mapping[str, Callable[[], str]] = {
    "settings.md": settings_page,
    "errors.md": errors_page,
    "cli.md": commands_page,
    "learning-rates.md": rates_page,
}


def main() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (CHECKOUT / "docs" / name).write_text(page())


if __name__ == "__main__":
    main()
