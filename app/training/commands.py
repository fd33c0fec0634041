"""Starting a run and following it, from the command line."""

import asyncio
import json
import uuid
from pathlib import Path
from typing import Annotated

import typer

from app.db.engine import SessionMaker
from app.errors import Unavailable
from app.settings import Settings, get_settings
from app.terminal import Json, Slug, say, validated, with_sessions
from app.training.models import RunState
from app.training.schemas import RunIn, RunOut

POLL_SECONDS = 0.5


def start_run(
    slug: Slug,
    stage: Annotated[str, typer.Option(help="What to train: sft, reward, ppo, dpo, ….")],
    export_id: Annotated[
        uuid.UUID | None,
        typer.Option(
            "--export", help="The export to train on [default: the newest; else a new one]."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="TOML: policy, reward, name, serve, replace, and flags of the trainer (steps, lr, …)."
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

    values = read_config(config) if config else {}
    # What is no setting of the run itself is a flag of the trainer's, wherever it stands.
    flags = {name: values.pop(name) for name in list(values) if name not in RunIn.model_fields}
    given = values.get("config", {})
    values["config"] = {**flags, **given} if isinstance(given, dict) else given
    wanted = validated(
        RunIn, {**values, "stage": stage, "export": export_id or values.get("export")}
    )
    settings = get_settings()

    async def work(sessions: SessionMaker) -> RunOut:
        if wanted.export is None:
            await _ensure_export(sessions, settings, slug)
        async with sessions() as session:
            project = await get_project(session, slug)
            run = await service.start_run(session, project, wanted, actor=None)
            await session.commit()
            started = RunOut.model_validate(run)
        return await _follow_run(sessions, run.id) if wait else started

    run = with_sessions(work)
    figures = f" {json.dumps(run.result, default=str)}" if run.result else ""
    told = run.model_dump(mode="json", include=None if wait else {"id", "state"})
    say(f"The {stage} run {run.id} is {run.state.value}.{figures}", told, as_json)
    if wait and run.state is not RunState.SUCCEEDED:
        raise Unavailable(run.error or f"the run was {run.state.value}", field=str(run.id))


async def _ensure_export(sessions: SessionMaker, settings: Settings, slug: str) -> None:
    """Make an export of the project's rankings here and now, where there is none that is ready."""
    from app.datasets.jobs import make_export
    from app.datasets.queries import find_newest_ready_export
    from app.datasets.schemas import ExportIn
    from app.datasets.service import request_export
    from app.projects.service import get_project

    async with sessions() as session:
        project = await get_project(session, slug)
        if await find_newest_ready_export(session, project.id) is not None:
            return
        export = await request_export(session, project, ExportIn(name="first"), actor=None)
        await session.commit()
    await make_export(sessions, export.id, settings.exports_dir)


async def _follow_run(sessions: SessionMaker, run_id: uuid.UUID) -> RunOut:
    """Wait for the end of a run, with a bar in the terminal; the run as the API tells it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from app.training.service import ENDED, get_run

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        bar = progress.add_task("waits for a worker", total=None)
        while True:
            async with sessions() as session:
                run = await get_run(session, run_id)
                out = RunOut.model_validate(run)
            progress.update(
                bar, description=out.state.value, completed=out.step, total=out.total_steps
            )
            if out.state in ENDED:
                return out
            await asyncio.sleep(POLL_SECONDS)
