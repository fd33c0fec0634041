"""`python -m trainer STAGE …`: a stage file for each word, imported only when it is asked for."""

import dataclasses
import importlib
import json
import os
import sys
from typing import TYPE_CHECKING

from trainer.errors import UsageError, explain_failures
from trainer.settings import Stage, list_stages
from trainer.settings.environment import name_lines, set_thread_variables
from trainer.settings.flags import parse
from trainer.settings.launcher import refuse_launcher_settings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

DRY_RUN = "--dry-run"


def main(argv: list[str]) -> int:
    """Run a stage. Exit codes: 0 done, 1 a failure explained in one line, 2 wrong usage."""
    set_thread_variables()
    name_lines()
    stages = list_stages()
    lines = "\n".join(f"  {name:<10}{stage.summary}" for name, stage in stages.items())
    usage = (
        f"usage: python -m trainer STAGE [flags]\n\n{lines}\n\n"
        f"Each STAGE has --help; with {DRY_RUN} it reads its settings, prints them as JSON and stops."
    )
    if not argv or argv[0] in ("-h", "--help"):
        print(usage)  # noqa: T201
        return 0 if argv else 2
    name, *flags = argv
    if name not in stages:
        print(f"there is no stage {name!r}\n\n{usage}", file=sys.stderr)  # noqa: T201
        return 2
    return explain_failures(f"trainer {name}", lambda: run_stage(name, stages[name], flags))


def run_stage(name: str, stage: Stage, flags: list[str]) -> None:
    """Read the settings, and only then import what is heavy; print the figures as the last line."""
    asked = [each for each in flags if each != DRY_RUN]
    try:
        config: DataclassInstance = parse(
            stage.config, asked, program=f"python -m trainer {name}", example=stage.example
        )
        processes = refuse_launcher_settings(config)
    except UsageError:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            raise
        raise SystemExit(2) from None  # it is the same in all processes of a machine: one says it
    if len(asked) < len(flags):
        print(json.dumps(dataclasses.asdict(config)))  # noqa: T201
        return
    if processes == 1:
        result = importlib.import_module(f"trainer.{name}").main(config)
    elif not stage.makes:
        raise UsageError(f"{name} is one process's work, and the launcher started {processes}")
    else:
        from trainer.engine.distributed import one_voice

        with one_voice():
            result = importlib.import_module(f"trainer.{name}").main(config)
    if os.environ.get("RANK", "0") == "0":  # of several processes, one speaks
        print(json.dumps(result))  # noqa: T201 - the interface


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
