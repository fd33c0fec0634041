"""Who sees a project: everybody, or its members."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response

from app.accounts.guards import AdminInPerson, Session, start_over
from app.accounts.models import User
from app.accounts.service import get_user
from app.admin.tabs import ProjectPage
from app.errors import PlackettError
from app.projects import queries, service
from app.projects.models import Project
from app.web.pages import see_other
from app.web.templates import render

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, kw_only=True)
class MembersPage(ProjectPage):
    """A project's members, and the form that adds some."""

    members: Sequence[User]
    addresses: str


async def _members_page(
    request: Request,
    session: Session,
    project: Project,
    *,
    addresses: str = "",
    error: PlackettError | None = None,
) -> Response:
    page = MembersPage(
        title=f"{project.name}: members",
        project=project,
        tab="members",
        members=await queries.list_members(session, project.id),
        addresses=addresses,
        error=error,
    )
    return render(request, "projects/members.html", page, status=error.status if error else 200)


@router.get("/admin/projects/{slug}/members")
async def members(request: Request, slug: str, session: Session, admin: AdminInPerson) -> Response:
    """The members."""
    project = await service.get_project_for(session, admin, slug)
    return await _members_page(request, session, project)


@router.post("/admin/projects/{slug}/members")
async def add(
    request: Request,
    slug: str,
    session: Session,
    admin: AdminInPerson,
    addresses: Annotated[str, Form(max_length=100_000)] = "",
) -> Response:
    """Let the people with these addresses see the project: all of them, or none where one is unknown."""
    project = await service.get_project_for(session, admin, slug)
    try:
        people = [
            await service.find_person(session, each) for each in addresses.replace(",", " ").split()
        ]
        await service.add_members(session, project, people, actor=admin.id)
    except PlackettError as error:
        await start_over(session, admin)
        project = await service.get_project_for(session, admin, slug)
        return await _members_page(request, session, project, addresses=addresses, error=error)
    await session.commit()
    count = "1 person sees" if len(people) == 1 else f"{len(people)} people see"
    return see_other(request, f"/admin/projects/{slug}/members", notice=f"{count} the project now.")


@router.post("/admin/projects/{slug}/members/{user_id}/remove")
async def remove(
    request: Request, slug: str, user_id: uuid.UUID, session: Session, admin: AdminInPerson
) -> Response:
    """Let somebody see the project no more."""
    project = await service.get_project_for(session, admin, slug)
    person = await get_user(session, user_id)
    await service.remove_member(session, project, person, actor=admin.id)
    await session.commit()
    notice = f"{person.email} is no member any more."
    return see_other(request, f"/admin/projects/{slug}/members", notice=notice)


@router.post("/admin/projects/{slug}/members-only")
async def set_members_only(
    request: Request,
    slug: str,
    session: Session,
    admin: AdminInPerson,
    closed: Annotated[bool, Form()],
) -> Response:
    """Close the project to all but its members, or open it to everybody."""
    project = await service.get_project_for(session, admin, slug)
    await service.set_members_only(session, project, closed, actor=admin.id)
    await session.commit()
    notice = "Members alone see the project." if closed else "Everybody sees the project."
    return see_other(request, f"/admin/projects/{slug}/members", notice=notice)
