"""Exports, through the API."""

import uuid

from fastapi import APIRouter
from fastapi.responses import FileResponse

from app.accounts.guards import Exporter, Researcher, Session
from app.datasets import service
from app.datasets.schemas import ExportIn, ExportOut
from app.errors import Conflict
from app.projects.service import get_project_for
from app.web.openapi import fails_with

# By the ends of their names: manifest, datasheet, JSON Lines, Parquet.
FILE_KINDS = ("application/json", "text/markdown", "text/plain", "application/octet-stream")

api = APIRouter(prefix="/api/v1", tags=["datasets"])


@api.post("/projects/{slug}/exports", status_code=202)
async def create_export(
    slug: str, wanted: ExportIn, session: Session, researcher: Researcher
) -> ExportOut:
    """Make an immutable export."""
    project = await get_project_for(session, researcher, slug)
    export = await service.request_export(session, project, wanted, actor=researcher.id)
    await session.commit()
    return ExportOut.model_validate(export)


@api.get("/exports/{export_id}")
async def get_export(export_id: uuid.UUID, session: Session, researcher: Researcher) -> ExportOut:
    """Where an export stands, and its manifest once it is ready."""
    export = await service.get_export_for(session, researcher, export_id)
    return ExportOut.model_validate(export)


@api.get(
    "/exports/{export_id}/files/{name}",
    response_class=FileResponse,
    responses={200: {"content": {kind: {} for kind in FILE_KINDS}}, **fails_with(Conflict)},
)
async def get_file(
    export_id: uuid.UUID, name: str, session: Session, exporter: Exporter
) -> FileResponse:
    """One of an export's files."""
    export = await service.get_export_for(session, exporter, export_id)
    path = service.find_file(export, name)
    return FileResponse(path, filename=f"{export.name}-{name}")
