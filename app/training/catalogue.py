"""The trainer's stages, as the trainer itself tells them.

The application never imports the trainer, and keeps no list of its stages, curves or flags: it asks
`python -m trainer stages` once a process, and lets the trainer check the settings of a run before it is
queued. Neither needs torch.
"""

import asyncio
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from pydantic import BaseModel, TypeAdapter, ValidationError

from app.errors import InvalidInput, Unavailable
from app.settings import CHECKOUT
from app.training.models import RunCatalogue, Setting

TRAINER = (sys.executable, "-m", "trainer")
SECONDS = 60  # it takes a fifth of one; a busy machine may take longer


class Flag(BaseModel):
    """A setting of a stage that may be chosen for a run."""

    name: str
    type: str
    help: str
    common: bool


class Stage(BaseModel):
    """A stage that trains: its title, what it makes, and what it needs besides an export and a policy."""

    title: str
    summary: str
    makes: str
    needs: list[str]
    flags: list[Flag]

    @property
    def entry(self) -> RunCatalogue:
        """What a run of it keeps until its own config.json says more."""
        return {"title": self.title, "makes": self.makes, "needs": self.needs}

    @property
    def flag_names(self) -> set[str]:
        """`kl-coef` and the others."""
        return {flag.name for flag in self.flags}


@dataclass(frozen=True)
class CommonFlag:
    """A setting that the form shows, with the titles of the stages that take it (none: all of them)."""

    name: str
    help: str
    stages: Sequence[str]


Catalogue = Mapping[str, Stage]
_catalogue: TypeAdapter[dict[str, Stage]] = TypeAdapter(dict[str, Stage])


@cache
def _ask() -> Catalogue:
    answer = _call("stages")
    if answer.returncode != 0:
        raise Unavailable(f"The trainer does not tell its stages: {answer.stderr.strip()[-500:]}")
    return _catalogue.validate_json(answer.stdout)


def _call(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [*TRAINER, *arguments],
            capture_output=True, text=True, check=False, cwd=CHECKOUT, timeout=SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"The trainer does not answer: {error}") from None


_entry: TypeAdapter[RunCatalogue] = TypeAdapter(RunCatalogue)


def read_entry(value: object) -> RunCatalogue | None:
    """The entry of a run's config.json; None where it has none that we understand."""
    try:
        return _entry.validate_python(value)
    except ValidationError:
        return None


async def list_stages() -> Catalogue:
    """Every stage that trains, by name. Raises Unavailable where there is no trainer."""
    return await asyncio.to_thread(_ask)


async def get_stage(name: str) -> Stage:
    """One stage. Raises InvalidInput."""
    stages = await list_stages()
    if name not in stages:
        raise InvalidInput(f"There is no stage {name!r}, only {', '.join(stages)}", field="stage")
    return stages[name]


async def check_flags(name: str, flags: Mapping[str, Setting]) -> dict[str, Setting]:
    """A run's settings by their flags' names, as the trainer accepts them. Raises InvalidInput."""
    stage = await get_stage(name)
    named = {key.replace("_", "-"): value for key, value in flags.items()}
    for key in named:
        if key not in stage.flag_names:
            raise InvalidInput(
                f"{stage.title} has no setting {key!r} for a run", field=f"config.{key}"
            )
    if not named:
        return {}
    # What the worker fills in; the trainer looks at none of it before a run starts.
    places = ["--data=-", "--model=-", "--out=-", *(f"--{each}=-" for each in stage.needs)]
    answer = await asyncio.to_thread(
        _call, name, *places, *as_arguments(named), "--dry-run"
    )  # fmt: skip
    if answer.returncode != 0:
        said = answer.stderr.strip().removeprefix(f"trainer {name}: ") or "is not valid"
        blamed = next((each for each in re.findall(r"--([a-z-]+)", said) if each in named), None)
        raise InvalidInput(said, field=f"config.{blamed}" if blamed else "config")
    return named


def as_arguments(flags: Mapping[str, Setting]) -> list[str]:
    """Settings as the trainer's command line has them: `--lr=0.1`, `--packing`, `--no-packing`."""
    return [
        (f"--{name}" if value else f"--no-{name}") if isinstance(value, bool) else f"--{name}={value}"
        for name, value in flags.items()
    ]  # fmt: skip


def list_common_flags(stages: Catalogue) -> list[CommonFlag]:
    """What the form shows: each flag that a stage calls common, once."""
    common: dict[str, str] = {}
    for stage in stages.values():
        common |= {flag.name: flag.help for flag in stage.flags if flag.common} | common
    return [
        CommonFlag(name, text, [] if len(takers) == len(stages) else takers)
        for name, text in common.items()
        for takers in [[each.title for each in stages.values() if name in each.flag_names]]
    ]
