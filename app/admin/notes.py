"""What raters say of tasks: read by admins, and done with."""

import uuid
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response

from app.accounts.guards import Admin, Exporter, Session
from app.admin.tabs import ProjectPage
from app.projects import service as projects
from app.rating import notes
from app.web.pages import PageNumber, PageOf, see_other
from app.web.templates import render

router = APIRouter(include_in_schema=False)

PAGE_SIZE = 50


@dataclass(frozen=True, kw_only=True)
class NotesPage(ProjectPage):
    """A project's notes, those that wait first."""

    notes: PageOf[notes.Note]
    waiting: int


@router.get("/admin/projects/{slug}/notes")
async def notes_page(
    request: Request, slug: str, session: Session, reader: Exporter, page: PageNumber = 1
) -> Response:
    """What raters have to say of a project's tasks."""
    project = await projects.get_project_for(session, reader, slug)
    waiting, total = await notes.count_notes(session, project)
    offset = (page - 1) * PAGE_SIZE
    rows = await notes.list_notes(session, project, limit=PAGE_SIZE, offset=offset)
    context = NotesPage(
        title="Notes",
        project=project,
        tab="notes",
        notes=PageOf(rows, page, total, PAGE_SIZE),
        waiting=waiting,
    )
    return render(request, "prompts/notes.html", context)


@router.post("/admin/projects/{slug}/notes")
async def resolve_note(
    request: Request,
    slug: str,
    session: Session,
    admin: Admin,
    note: Annotated[uuid.UUID, Form()],
    resolved: Annotated[bool, Form()] = True,
) -> Response:
    """Be done with a note, or not after all."""
    project = await projects.get_project_for(session, admin, slug)
    await notes.set_resolved(session, project, note, resolved, actor=admin.id)
    await session.commit()
    notice = "The note is done with." if resolved else "The note waits again."
    return see_other(request, f"/admin/projects/{slug}/notes", notice=notice)
