"""The job that makes an export."""

import asyncio
import shutil
import uuid
from pathlib import Path

from procrastinate import Blueprint, JobContext, RetryStrategy

from app.datasets import queries
from app.datasets.format import Manifest
from app.datasets.models import Export, ExportState
from app.datasets.schemas import Filters, Split
from app.datasets.service import build_export
from app.db.engine import SessionMaker
from app.db.types import utc_now
from app.inputs import storable
from app.projects.models import Project
from app.settings import Settings

# A worker that dies gives its job back to the queue; one that kills every worker must come to an end.
MOST_ATTEMPTS = 5


def create_jobs(*, sessions: SessionMaker, settings: Settings) -> Blueprint:
    """The datasets room's jobs."""
    blueprint = Blueprint()

    @blueprint.task(
        name="export",
        queue="datasets",
        retry=RetryStrategy(max_attempts=3, linear_wait=5),
        pass_context=True,
    )
    async def export(context: JobContext, export_id: str) -> None:
        """Build one export."""
        if context.job.attempts >= MOST_ATTEMPTS:
            reason = f"Its worker died {context.job.attempts} times while it was made"
            await _set_state(sessions, uuid.UUID(export_id), error=reason)
            return
        await make_export(sessions, uuid.UUID(export_id), settings.exports_dir)

    return blueprint


async def make_export(sessions: SessionMaker, export_id: uuid.UUID, folder: Path) -> None:
    """Build a pending export; done already, it stays as it is. A failure is stored with its reason."""
    async with sessions() as session:
        export = await session.get(Export, export_id)
        if export is None or export.state is ExportState.READY:
            return
        project = await session.get_one(Project, export.project_id)
        out = folder / str(export.id)
        if out.exists():  # built by a worker that died before it could say so
            await asyncio.to_thread(shutil.rmtree, out)
        filters = Filters.model_validate(export.filters)
        split = Split.model_validate(export.split)
        name = export.name
    try:
        async with sessions() as session:
            manifest = await build_export(session, project, filters, split, out, name)
    except Exception as error:
        await _set_state(sessions, export_id, error=f"{type(error).__name__}: {error}")
        raise
    await _set_state(sessions, export_id, manifest=manifest, path=out)


async def _set_state(
    sessions: SessionMaker,
    export_id: uuid.UUID,
    *,
    manifest: Manifest | None = None,
    path: Path | None = None,
    error: str | None = None,
) -> None:
    async with sessions() as session:
        export = await queries.get_export_for_update(session, export_id)
        if export is not None:
            export.state = ExportState.READY if manifest else ExportState.FAILED
            export.manifest = manifest
            export.content_hash = manifest["content_hash"] if manifest else None
            export.path = str(path) if path else None
            export.error = storable(error)[:2000] if error else None
            export.finished_at = utc_now()
        await session.commit()
