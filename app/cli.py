"""The `plackett` command: every room's commands under their names, as `main` has every room's routers.

Exit codes: 0 for success, 2 for a usage error, 1 for a failure explained in one line on stderr.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import typer
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError

from app import __version__, stopping
from app import commands as whole
from app.accounts import commands as accounts
from app.datasets import commands as datasets
from app.errors import PlackettError, Unavailable
from app.feedback import commands as feedback
from app.generation import commands as generation
from app.inputs import describe
from app.intake import commands as intake
from app.policies import commands as policies
from app.private import UMASK
from app.projects import commands as projects
from app.training import commands as training

Command = Callable[..., None]

HELP = "Collect human rankings of language-model outputs, and train with them."
COMMANDS: Mapping[str, Command] = {
    "demo": whole.demo,
    "serve": whole.serve,
    "worker": whole.worker,
    "migrate": whole.migrate,
    "import": intake.import_files,
    "export": datasets.export,
}
# (name, help, its commands)
GROUPS: Sequence[tuple[str, str, Mapping[str, Command]]] = (
    ("user", "People and what they may do.", {"create": accounts.create_user}),
    ("token", "Keys for programs.", {"create": accounts.create_token}),
    (
        "project",
        "Projects, and who sees them.",
        {
            "create": policies.create_project,
            "add-member": projects.add_members,
            "remove-member": projects.remove_members,
            "close": projects.close_project,
            "open": projects.open_project,
        },
    ),
    ("policy", "The registry of models that can speak.", {"add": generation.add_policy}),
    ("run", "Training runs.", {"start": training.start_run}),
    (
        "feedback",
        "A model ranks and rewrites by written principles.",
        {"rank": feedback.rank_by_principles, "revise": feedback.revise_by_principles},
    ),
)


def show_version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        typer.echo(f"plackett {__version__}")
        raise typer.Exit


def plackett(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True)
    ] = False,
) -> None:
    """Collect human rankings of language-model outputs, and train with them."""


def create_commands() -> typer.Typer:
    """All of them, in the order in which help lists them."""
    every = typer.Typer(
        name="plackett",
        help=HELP,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    every.callback()(plackett)
    for name, command in COMMANDS.items():
        every.command(name)(command)
    for name, purpose, members in GROUPS:
        group = typer.Typer(help=purpose, no_args_is_help=True)
        for verb, command in members.items():
            group.command(verb)(command)
        every.add_typer(group, name=name)
    return every


commands = create_commands()


def main() -> None:
    """The command's entry point: failures become one line on stderr and exit code 1."""
    stopping.obey()
    os.umask(UMASK)
    try:
        commands()
    except SystemExit as ending:
        # Typer takes every interruption for Ctrl-C.
        if ending.code == 130 and (signum := stopping.told()):
            sys.exit(128 + signum)
        raise
    except PlackettError as error:
        fail(str(error).replace("\n", "\n  "))
    except DBAPIError as error:
        if not (error.connection_invalidated or "connect" in str(error.orig).lower()):
            if "UndefinedTable" in repr(error.orig):
                fail("the database has no tables yet: run `plackett migrate`")
            raise
        reason = str(error.orig).strip().splitlines()[-1]
        fail(str(Unavailable(f"the database does not answer ({reason})", field="DATABASE_URL")))
    except ValidationError as error:
        name, message = describe(error.errors()[0])
        fail(f"setting {name or 'settings'}: {message}")
    except KeyboardInterrupt:
        sys.exit(130)


def fail(reason: str) -> None:
    """Say why, and stop."""
    print(f"plackett: {reason}", file=sys.stderr)  # noqa: T201
    sys.exit(1)
