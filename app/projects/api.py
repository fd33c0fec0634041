"""Projects, through the API."""

from fastapi import APIRouter

from app.accounts.guards import AnyUser, Session
from app.projects import queries, service
from app.projects.schemas import ProjectOut

api = APIRouter(prefix="/api/v1", tags=["projects"])


@api.get("/projects")
async def list_projects(session: Session, user: AnyUser) -> list[ProjectOut]:
    """Every project that the caller sees, the newest first."""
    found = await queries.list_projects_for(session, user)
    return [ProjectOut.model_validate(each) for each in found]


@api.get("/projects/{slug}")
async def get_project(slug: str, session: Session, user: AnyUser) -> ProjectOut:
    """One project."""
    return ProjectOut.model_validate(await service.get_project_for(session, user, slug))
