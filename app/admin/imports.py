"""A project's imports: what came in, from where, and what was refused."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from app.accounts.guards import Exporter, Session
from app.admin.tabs import ProjectPage
from app.projects.service import get_project_for
from app.prompts.models import PromptImport
from app.prompts.queries import list_imports
from app.web.templates import render

router = APIRouter(include_in_schema=False)

SHOWN = 100


@dataclass(frozen=True, kw_only=True)
class ImportsPage(ProjectPage):
    """The latest imports."""

    imports: Sequence[PromptImport]


@router.get("/admin/projects/{slug}/imports")
async def imports(request: Request, slug: str, session: Session, reader: Exporter) -> Response:
    """The latest imports, the newest first."""
    project = await get_project_for(session, reader, slug)
    page = ImportsPage(
        title=f"{project.name}: imports",
        project=project,
        tab="imports",
        imports=await list_imports(session, project.id, limit=SHOWN),
    )
    return render(request, "prompts/imports.html", page)
