"""Projects, through the API."""

from fastapi import APIRouter

from app.accounts.guards import AnyUser, Session
from app.projects import queries, service
from app.projects.schemas import ProjectOut

api = APIRouter(prefix="/api/v1", tags=["projects"])


@api.get("/projects")
async def list_projects(session: Session, _: AnyUser) -> list[ProjectOut]:
    """Every project, the newest first."""
    return [ProjectOut.model_validate(each) for each in await queries.list_projects(session)]


@api.get("/projects/{slug}")
async def get_project(slug: str, session: Session, _: AnyUser) -> ProjectOut:
    """One project."""
    return ProjectOut.model_validate(await service.get_project(session, slug))
