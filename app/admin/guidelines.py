"""A project's guidelines, every version, for reading."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from app.accounts.guards import Researcher, Session
from app.admin.tabs import ProjectPage
from app.projects.models import Guideline
from app.projects.queries import list_guidelines
from app.projects.service import get_project_for
from app.web.markdown import Views, view_texts
from app.web.templates import render

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, kw_only=True)
class GuidelinesPage(ProjectPage):
    """All versions, the newest first."""

    guidelines: Sequence[Guideline]
    views: Views


@router.get("/admin/projects/{slug}/guidelines")
async def guidelines(request: Request, slug: str, session: Session, reader: Researcher) -> Response:
    """The guidelines."""
    project = await get_project_for(session, reader, slug)
    versions = await list_guidelines(session, project.id)
    page = GuidelinesPage(
        title=f"{project.name}: guidelines",
        project=project,
        tab="guidelines",
        guidelines=versions,
        views=await view_texts(each.text for each in versions),
    )
    return render(request, "projects/guidelines.html", page)
