"""What a command needs of runs: an export to start from, and the end of a run to wait for."""

import asyncio
import uuid
from typing import Any

from app.datasets.queries import find_newest_ready_export
from app.datasets.schemas import ExportIn
from app.datasets.service import make_export, request_export
from app.db.engine import SessionMaker
from app.projects.service import get_project
from app.settings import Settings
from app.training.schemas import RunOut
from app.training.service import ENDED, get_run

POLL_SECONDS = 0.5


async def ensure_export(sessions: SessionMaker, settings: Settings, slug: str) -> None:
    """Make an export of the project's rankings here and now, where there is none that is ready."""
    async with sessions() as session:
        project = await get_project(session, slug)
        if await find_newest_ready_export(session, project.id) is not None:
            return
        export = await request_export(session, project, ExportIn(name="first"), actor=None)
        await session.commit()
    await make_export(sessions, export.id, settings.exports_dir)


async def follow_run(sessions: SessionMaker, run_id: uuid.UUID) -> dict[str, Any]:
    """Wait for the end of a run, with a bar in the terminal; the run as the API tells it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

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
                return out.model_dump(mode="json")
            await asyncio.sleep(POLL_SECONDS)
