"""Training runs, through the API."""

import uuid

from fastapi import APIRouter

from app.accounts.guards import Researcher, Session
from app.projects.service import get_project_for
from app.training import service
from app.training.schemas import LineNumber, RunIn, RunOut

api = APIRouter(prefix="/api/v1", tags=["training"])


@api.post("/projects/{slug}/runs", status_code=202)
async def start_run(slug: str, wanted: RunIn, session: Session, researcher: Researcher) -> RunOut:
    """Start a training run."""
    project = await get_project_for(session, researcher, slug)
    run = await service.start_run(session, project, wanted, actor=researcher.id, viewer=researcher)
    await session.commit()
    return RunOut.model_validate(run)


@api.get("/runs/{run_id}")
async def get_run(run_id: uuid.UUID, session: Session, researcher: Researcher) -> RunOut:
    """Where a run stands, and its result."""
    return RunOut.model_validate(await service.get_run_for(session, researcher, run_id))


@api.get("/runs/{run_id}/metrics")
async def get_metrics(
    run_id: uuid.UUID, session: Session, researcher: Researcher, after: LineNumber = -1
) -> list[dict[str, object]]:
    """A run's metrics, one object a step; `after` leaves out the first lines, counted from 0."""
    run = await service.get_run_for(session, researcher, run_id)
    return [metric.data for metric in await service.list_metrics(session, run, after=after)]


@api.post("/runs/{run_id}/cancel", status_code=202)
async def cancel_run(run_id: uuid.UUID, session: Session, researcher: Researcher) -> RunOut:
    """Ask a run to stop."""
    run = await service.get_run_for(session, researcher, run_id)
    await service.request_cancel(session, run, actor=researcher.id)
    await session.commit()
    return RunOut.model_validate(run)
