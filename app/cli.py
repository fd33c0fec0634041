"""The `plackett` command.

Exit codes: 0 for success, 2 for a usage error, 1 for a failure explained in one line on stderr.
"""

import asyncio
import json
import os
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from app import __version__
from app.accounts.models import Kind, Role
from app.db.engine import open_sessions
from app.errors import InvalidInput, PlackettError, Unavailable
from app.settings import Settings, get_settings
from app.training.models import Stage

commands = typer.Typer(
    name="plackett",
    help="Collect human rankings of language-model outputs, and train with them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
user_commands = typer.Typer(help="People and what they may do.", no_args_is_help=True)
token_commands = typer.Typer(help="Keys for programs.", no_args_is_help=True)
project_commands = typer.Typer(help="Projects.", no_args_is_help=True)
policy_commands = typer.Typer(help="The registry of models that can speak.", no_args_is_help=True)
run_commands = typer.Typer(help="Training runs.", no_args_is_help=True)
feedback_commands = typer.Typer(
    help="A model ranks and rewrites by written principles.", no_args_is_help=True
)
for name, group in {
    "user": user_commands,
    "token": token_commands,
    "project": project_commands,
    "policy": policy_commands,
    "run": run_commands,
    "feedback": feedback_commands,
}.items():
    commands.add_typer(group, name=name)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of sentences.")]
Slug = Annotated[str, typer.Argument(metavar="SLUG", help="The project's slug.")]


@contextmanager
def database(settings: Settings, *, migrated: bool = True) -> Iterator[str]:
    """The database's URL; the embedded one is brought to the newest schema on the way."""
    from app.db.migrate import migrate
    from app.db.server import resolve_database

    with resolve_database(settings) as url:
        if migrated and settings.database_url is None:
            migrate(url)
        yield url


Answer = TypeVar("Answer")
Model = TypeVar("Model", bound=BaseModel)


def with_session(work: Callable[[AsyncSession], Awaitable[Answer]]) -> Answer:
    """Run a piece of work in one transaction, committed at its end."""

    async def in_session(url: str) -> Answer:
        async with open_sessions(url) as sessions, sessions() as session:
            answer = await work(session)
            await session.commit()
            return answer

    with database(get_settings()) as url:
        return asyncio.run(in_session(url))


def say(sentence: str, facts: dict[str, Any], as_json: bool) -> None:
    """Print the outcome: a sentence for people, or an object for programs."""
    typer.echo(json.dumps(facts, default=str, ensure_ascii=False) if as_json else sentence)


def validated(model: type[Model], values: dict[str, Any]) -> Model:
    """The values as the model wants them; the first that is wrong is named."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or None
        raise InvalidInput(first["msg"].removeprefix("Value error, "), place=place) from None


def show_version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        typer.echo(f"plackett {__version__}")
        raise typer.Exit


@commands.callback()
def plackett(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True)
    ] = False,
) -> None:
    """Collect human rankings of language-model outputs, and train with them."""


@commands.command()
def demo(
    port: Annotated[int, typer.Option(help="The port of the web application.")] = 8000,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where everything is kept [default: .plackett].")
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Open no browser.")] = False,
    model: Annotated[
        str | None,
        typer.Option(help="A chat model to use instead of the little story-teller: path or id."),
    ] = None,
) -> None:
    """Everything on one machine: database, sample project, web application and worker.

    Example: plackett demo --port 8080
    """
    from app.demo import run_demo

    if data_dir is not None:
        os.environ["PLACKETT_DATA_DIR"] = str(data_dir)
        get_settings.cache_clear()
    settings = get_settings()
    with database(settings) as url:
        raise typer.Exit(
            run_demo(url, settings, port=port, open_browser=not no_browser, model=model)
        )


@commands.command()
def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="How many processes.")] = 1,
) -> None:
    """The web application.

    Example: plackett serve --host 0.0.0.0 --port 8000 --workers 4
    """
    from app.logs import configure_logs
    from app.serve import serve as run_server

    settings = get_settings()
    configure_logs(settings.log_format)
    with database(settings) as url:
        # The processes that are started share this one's hold on the embedded server.
        os.environ["DATABASE_URL"] = url
        get_settings.cache_clear()
        run_server(host, port, workers)


@commands.command()
def worker(
    queue: Annotated[
        list[str] | None,
        typer.Option(help="A queue to work on, given once for each [default: all of them]."),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Jobs at the same time.")] = 2,
) -> None:
    """Write candidates, train, make exports.

    Example: plackett worker --queue generation --concurrency 4
    """
    from app.logs import configure_logs
    from app.worker import QUEUES, run_worker

    settings = get_settings()
    configure_logs(settings.log_format)
    queues = tuple(queue or QUEUES)
    unknown = set(queues) - set(QUEUES)
    if unknown:
        raise typer.BadParameter(
            f"there is no queue {sorted(unknown)[0]!r}; there are {', '.join(QUEUES)}",
            param_hint="--queue",
        )
    with database(settings) as url:
        asyncio.run(run_worker(url, settings, queues=queues, concurrency=concurrency))


@commands.command()
def migrate() -> None:
    """Bring the database to the newest schema.

    Example: DATABASE_URL=postgresql://… plackett migrate
    """
    from app.db.migrate import migrate as upgrade
    from app.db.migrate import newest_revision

    with database(get_settings(), migrated=False) as url:
        upgrade(url)
    typer.echo(f"The database is at revision {newest_revision()}.")


@user_commands.command("create")
def create_user(
    email: Annotated[str, typer.Argument(metavar="EMAIL")],
    role: Annotated[Role, typer.Option(help="What the person may do.")],
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read a password from standard input.")
    ] = False,
    name: Annotated[str, typer.Option(help="The name to show.")] = "",
    as_json: Json = False,
) -> None:
    """Make a person. Without a password, a link that signs them in once is printed.

    Example: plackett user create ada@example.org --role admin
    """
    from datetime import timedelta

    from app.accounts import service

    password = sys.stdin.readline().rstrip("\r\n") if password_stdin else None

    async def work(session: AsyncSession) -> dict[str, Any]:
        user = await service.create_user(session, email, role, name=name, password=password)
        facts = {"id": user.id, "email": user.email, "role": user.role.value}
        if password is None:
            token = await service.create_sign_in_link(session, user, lifetime=timedelta(days=7))
            facts["sign_in_link"] = f"{get_settings().base_url.rstrip('/')}/sign-in/{token}"
        return facts

    facts = with_session(work)
    sentence = f"{facts['email']} is a new {facts['role']}."
    if "sign_in_link" in facts:
        sentence += f"\nSign in once, within 7 days: {facts['sign_in_link']}"
    say(sentence, facts, as_json)


@token_commands.command("create")
def create_token(
    email: Annotated[str, typer.Argument(metavar="EMAIL")],
    name: Annotated[str, typer.Option(help="What the token is for.")] = "",
    as_json: Json = False,
) -> None:
    """Make an API token and print it, once.

    Example: plackett token create ada@example.org --name notebook
    """
    from app.accounts import service
    from app.accounts.queries import get_user_by_email
    from app.errors import NotFound

    async def work(session: AsyncSession) -> str:
        user = await get_user_by_email(session, email)
        if user is None:
            raise NotFound(f"There is nobody with the address {email}", place="EMAIL")
        return await service.create_api_token(session, user, name=name)

    token = with_session(work)
    say(token, {"token": token}, as_json)


@project_commands.command("create")
def create_project(
    slug: Slug,
    name: Annotated[str, typer.Option(help="The project's name.")],
    config: Annotated[
        Path | None, typer.Option(help="A TOML file with the project's other settings.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a project.

    Example: plackett project create stories --name "Little stories" --config stories.toml
    """
    from app.policies import service as policies
    from app.projects import service
    from app.projects.config import read_config
    from app.projects.schemas import ProjectIn

    values = read_config(config) if config else {}
    wanted = validated(ProjectIn, values | {"slug": slug, "name": name})

    async def work(session: AsyncSession) -> None:
        project = await service.create_project(session, wanted)
        await policies.set_policies_by_name(session, project, wanted.policies)

    with_session(work)
    say(f"The project {slug} is there.", {"slug": slug, "name": name}, as_json)


@policy_commands.command("add")
def add_policy(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    backend: Annotated[str, typer.Option(help="transformers (local) or openai (a server).")],
    model: Annotated[str, typer.Option(help="A path or id, or the model's name at the server.")],
    base_url: Annotated[
        str | None, typer.Option(help="The server's address, up to and with /v1.")
    ] = None,
    api_key_variable: Annotated[
        str | None, typer.Option(help="The environment variable that holds the server's key.")
    ] = None,
    project: Annotated[
        list[str] | None, typer.Option(help="A project whose candidates it shall write.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Register a model.

    Example: plackett policy add mistral --backend openai --model mistral-7b --base-url http://gpu:8000/v1
    """
    from app.generation.service import enqueue_waiting
    from app.policies import service
    from app.policies.queries import list_project_policies
    from app.policies.schemas import PolicyIn
    from app.projects.service import get_project

    if backend not in ("transformers", "openai"):
        raise typer.BadParameter("is transformers or openai", param_hint="--backend")
    local = Path(model).expanduser()
    if backend == "transformers" and local.exists():
        model = str(local.resolve())  # the worker may run in another directory
    wanted = validated(
        PolicyIn,
        {
            "name": name,
            "backend": backend,
            "model": model,
            "base_url": base_url,
            "api_key_variable": api_key_variable,
        },
    )

    async def work(session: AsyncSession) -> Any:
        policy = await service.register_policy(session, wanted)
        for slug in project or ():
            found = await get_project(session, slug)
            serving = await list_project_policies(session, found.id)
            await service.set_project_policies(session, found, [*serving, policy])
            await enqueue_waiting(session, found.id)
        return policy.id

    policy_id = with_session(work)
    say(f"The policy {name} is registered.", {"id": policy_id, "name": name}, as_json)


@commands.command("import")
def import_file(
    slug: Slug,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSONL, CSV or Parquet.")],
    generate: Annotated[
        int | None, typer.Option(min=2, max=9, help="Candidates to write for each prompt.")
    ] = None,
    policy: Annotated[
        list[str] | None, typer.Option(help="A policy to write them, once for each.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Bring prompts, candidates and rankings into a project.

    Example: plackett import stories prompts.jsonl --generate 4
    """
    from app.intake.service import import_prompts
    from app.projects.service import get_project
    from app.prompts.parse import read_file

    settings = get_settings()

    async def work(session: AsyncSession) -> Any:
        project = await get_project(session, slug)
        rows = read_file(file, max_bytes=settings.max_prompt_bytes)
        return await import_prompts(
            session,
            project,
            rows,
            source=file.name,
            actor=None,
            wanted=generate,
            policies=tuple(policy or ()),
        )

    report = with_session(work)
    facts = report.model_dump()
    lines = [
        f"{report.accepted} accepted, {report.duplicates} there already, "
        f"{len(report.rejected)} rejected."
    ]
    lines += [f"line {row.line}, {row.field}: {row.message}" for row in report.rejected]
    say("\n".join(lines), facts, as_json)
    if report.rejected:
        total = report.accepted + report.duplicates + len(report.rejected)
        first = report.rejected[0]
        raise InvalidInput(
            f"{len(report.rejected)} of {total} rows were not imported; the first: "
            f"{first.field}: {first.message}",
            place=f"{file}:{first.line}",
        )


@commands.command("export")
def export(
    slug: Slug,
    out: Annotated[Path, typer.Option(help="The directory to write; it must not exist yet.")],
    name: Annotated[str, typer.Option(help="The export's name.")] = "export",
    kind: Annotated[
        list[Kind] | None, typer.Option(help="Whose rankings [default: person and imported].")
    ] = None,
    since: Annotated[datetime | None, typer.Option(help="Given from this UTC moment on.")] = None,
    before: Annotated[datetime | None, typer.Option(help="Given before this UTC moment.")] = None,
    min_rankings: Annotated[int, typer.Option(min=1, help="Rankings a prompt must have.")] = 1,
    without_flag: Annotated[
        list[str] | None, typer.Option(help="Leave out rankings with this flag.")
    ] = None,
    no_extra: Annotated[
        bool, typer.Option("--no-extra", help="Leave out rankings that came too late.")
    ] = False,
    gold: Annotated[bool, typer.Option("--gold", help="With gold tasks.")] = False,
    validation: Annotated[float, typer.Option(min=0, max=1, help="Share of prompts.")] = 0.1,
    test: Annotated[float, typer.Option(min=0, max=1, help="Share of prompts.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Varies which prompt goes where.")] = 0,
    as_json: Json = False,
) -> None:
    """Write what was collected as a directory of files.

    Example: plackett export stories --out stories-1 --min-rankings 2
    """
    from app.datasets.schemas import ExportIn
    from app.datasets.service import build_export
    from app.projects.service import get_project

    filters: dict[str, Any] = {
        "since": _as_utc(since),
        "before": _as_utc(before),
        "min_rankings": min_rankings,
        "without_flags": without_flag or [],
        "extra": not no_extra,
        "gold": gold,
    }
    if kind:
        filters["kinds"] = kind
    split = {"train": 1 - validation - test, "validation": validation, "test": test, "seed": seed}
    wanted = validated(ExportIn, {"name": name, "filters": filters, "split": split})

    async def work(url: str) -> dict[str, Any]:
        async with open_sessions(url) as sessions:
            async with sessions() as session:
                project = await get_project(session, slug)
            # A session of its own: the export reads one snapshot from its first statement on.
            async with sessions() as session:
                return await build_export(
                    session, project, wanted.filters, wanted.split, out.absolute(), wanted.name
                )

    with database(get_settings()) as url:
        manifest = asyncio.run(work(url))
    counts = manifest["counts"]
    lines = [f"{out}: content hash {manifest['content_hash']}"]
    lines += [
        f"  {where:<11}{count['prompts']:>8} prompts {count['rankings']:>8} rankings "
        f"{count['comparisons']:>8} comparisons"
        for where, count in counts.items()
    ]
    say("\n".join(lines), manifest, as_json)


def _as_utc(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment is not None else None


@run_commands.command("start")
def start_run(
    slug: Slug,
    stage: Annotated[Stage, typer.Option(help="What to train.")],
    export_id: Annotated[
        uuid.UUID | None,
        typer.Option(
            "--export", help="The export to train on [default: the newest; else a new one]."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="TOML: policy, reward, name, serve, and flags of the trainer (steps, lr, …)."
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the run to its end.")] = False,
    as_json: Json = False,
) -> None:
    """Start a training run; a worker carries it out.

    Example: plackett run start stories --stage reward --wait
    """
    from app.projects.config import read_config
    from app.projects.service import get_project
    from app.training import service
    from app.training.runner import ensure_export, follow_run
    from app.training.schemas import RunIn

    values = read_config(config) if config else {}
    # What is no setting of the run itself is a flag of the trainer's, wherever it stands.
    flags = {name: values.pop(name) for name in list(values) if name not in RunIn.model_fields}
    values["config"] = {**flags, **values.get("config", {})}
    wanted = validated(
        RunIn, {**values, "stage": stage, "export": export_id or values.get("export")}
    )
    settings = get_settings()

    async def work(url: str) -> dict[str, Any]:
        async with open_sessions(url) as sessions:
            if wanted.export is None:
                await ensure_export(sessions, settings, slug)
            async with sessions() as session:
                project = await get_project(session, slug)
                run = await service.start_run(session, project, wanted, actor=None)
                await session.commit()
            if not wait:
                return {"id": run.id, "state": run.state.value}
            return await follow_run(sessions, run.id)

    with database(settings) as url:
        facts = asyncio.run(work(url))
    figures = f" {json.dumps(facts['result'], default=str)}" if facts.get("result") else ""
    say(f"The {stage.value} run {facts['id']} is {facts['state']}.{figures}", facts, as_json)
    if wait and facts["state"] != "succeeded":
        raise Unavailable(
            facts.get("error") or f"the run was {facts['state']}", place=str(facts["id"])
        )


Judging = Annotated[str, typer.Option("--policy", help="The policy of the registry that judges.")]
PrinciplesFile = Annotated[
    Path, typer.Option("--principles", help="A TOML file; docs/principles.toml is one.")
]
MostTasks = Annotated[int | None, typer.Option(min=1, help="At most so many tasks.")]
FeedbackSeed = Annotated[int, typer.Option(min=0, help="Draws principles, and samples.")]


@feedback_commands.command("rank")
def rank_by_principles(
    slug: Slug,
    policy: Judging,
    principles: PrinciplesFile,
    limit: MostTasks = None,
    seed: FeedbackSeed = 0,
    as_json: Json = False,
) -> None:
    """Let a model rank every task, as a rater of kind `ai`; what it has ranked already stays.

    People's tasks and figures are untouched; `plackett export --kind ai` writes its comparisons.

    Example: plackett feedback rank answers --policy mistral --principles docs/principles.toml
    """
    _give_feedback(slug, policy, principles, limit=limit, seed=seed, as_json=as_json)


@feedback_commands.command("revise")
def revise_by_principles(
    slug: Slug,
    policy: Judging,
    principles: PrinciplesFile,
    rounds: Annotated[int, typer.Option(min=1, max=8, help="Critiques and revisions.")] = 1,
    limit: MostTasks = None,
    seed: FeedbackSeed = 0,
    as_json: Json = False,
) -> None:
    """The same, and let it criticise and rewrite the response that it ranks first.

    The rewrites are demonstrations in `plackett export --kind ai`, for supervised fine-tuning.

    Example: plackett feedback revise answers --policy mistral --principles docs/principles.toml
    """
    _give_feedback(slug, policy, principles, limit=limit, seed=seed, as_json=as_json, rounds=rounds)


def _give_feedback(
    slug: str,
    policy: str,
    file: Path,
    *,
    limit: int | None,
    seed: int,
    as_json: bool,
    rounds: int | None = None,
) -> None:
    from app.feedback.principles import read_principles
    from app.feedback.service import Report, give_feedback
    from app.projects.service import get_project

    principles = read_principles(file)
    settings = get_settings()

    def show(done: int, total: int) -> None:
        typer.echo(f"{done} of {total} tasks", err=True)

    async def work(url: str) -> Report:
        async with open_sessions(url) as sessions:
            async with sessions() as session:
                project = await get_project(session, slug)
            return await give_feedback(
                sessions,
                settings,
                project,
                policy,
                principles,
                seed=seed,
                limit=limit,
                revise=rounds is not None,
                rounds=rounds or 1,
                progress=show,
            )

    with database(settings) as url:
        report = asyncio.run(work(url))
    lines = [f"{report.rater}: {report.ranked} ranked ({report.ties} all tied)"]
    if rounds is not None:
        lines.append(f"  {report.revised} revised")
    lines += [f"  {count} not: {reason}" for reason, count in report.failures.items()]
    say("\n".join(lines), report.as_dict(), as_json)


def main() -> None:
    """The command's entry point: failures become one line on stderr and exit code 1."""
    try:
        commands()
    except PlackettError as error:
        fail(str(error).replace("\n", "\n  "))
    except DBAPIError as error:
        if not (error.connection_invalidated or "connect" in str(error.orig).lower()):
            if "UndefinedTable" in repr(error.orig):
                fail("the database has no tables yet: run `plackett migrate`")
            raise
        reason = str(error.orig).strip().splitlines()[-1]
        fail(str(Unavailable(f"the database does not answer ({reason})", place="DATABASE_URL")))
    except ValidationError as error:
        first = error.errors()[0]
        name = first["loc"][0] if first["loc"] else "settings"
        fail(f"setting {name}: {first['msg'].removeprefix('Value error, ')}")
    except KeyboardInterrupt:
        sys.exit(130)


def fail(reason: str) -> None:
    """Say why, and stop."""
    print(f"plackett: {reason}", file=sys.stderr)  # noqa: T201
    sys.exit(1)
