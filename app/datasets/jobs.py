"""The job that makes an export."""

import uuid

from procrastinate import Blueprint, RetryStrategy

from app.datasets.service import make_export
from app.db.engine import SessionMaker
from app.settings import Settings


def create_jobs(*, sessions: SessionMaker, settings: Settings) -> Blueprint:
    """The datasets room's jobs."""
    blueprint = Blueprint()

    @blueprint.task(
        name="export", queue="datasets", retry=RetryStrategy(max_attempts=3, linear_wait=5)
    )
    async def export(export_id: str) -> None:
        """Build one export."""
        await make_export(sessions, uuid.UUID(export_id), settings.exports_dir)

    return blueprint
