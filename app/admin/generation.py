"""A project's generation: how far, how fast, and why not."""

from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from app.accounts.guards import Admin, Researcher, Session
from app.accounts.models import Role
from app.admin.tabs import ProjectPage
from app.generation import service
from app.projects.service import get_project_for
from app.web.pages import is_htmx, see_other
from app.web.templates import render

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, kw_only=True)
class GenerationPage(ProjectPage):
    """How generation stands."""

    status: service.Status


@router.get("/admin/projects/{slug}/generation")
async def generation(request: Request, slug: str, session: Session, reader: Researcher) -> Response:
    """The page; htmx asks again for its figures alone."""
    project = await get_project_for(session, reader, slug)
    if reader.role is Role.ADMIN:
        # A project that got a policy, or was resumed, has prompts that nobody told the worker of.
        await service.enqueue_waiting(session, project.id)
    page = GenerationPage(
        title=f"{project.name}: generation",
        project=project,
        tab="generation",
        status=await service.get_status(session, project),
    )
    await session.commit()
    name = "status" if is_htmx(request) else "page"
    return render(request, f"generation/{name}.html", page)


@router.post("/admin/projects/{slug}/generation/retry")
async def retry(request: Request, slug: str, session: Session, admin: Admin) -> Response:
    """Try every failed prompt again."""
    project = await get_project_for(session, admin, slug)
    count = await service.retry_failed(session, project, actor=admin.id)
    await session.commit()
    notice = f"{count} prompts are tried again." if count else "Nothing had failed."
    return see_other(request, f"/admin/projects/{slug}/generation", notice=notice)
