"""People and roles: inviting them, letting them do other things, shutting them out."""

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response

from app.accounts import queries, service
from app.accounts.guards import AdminInPerson, Session, start_over
from app.accounts.models import Role, User
from app.errors import PlackettError
from app.projects import queries as projects
from app.projects.models import Project
from app.projects.service import add_members, get_project_for
from app.settings import Settings
from app.web.pages import see_other
from app.web.templates import PageContext, render

router = APIRouter(include_in_schema=False)

INVITATION = timedelta(days=7)


@dataclass(frozen=True, kw_only=True)
class PeoplePage(PageContext):
    """Everybody, and the form that invites somebody."""

    people: Sequence[User]
    roles: Sequence[Role]
    me: User
    # Shown once: (whose, address).
    link: tuple[str, str] | None = None
    # Those that somebody sees only as a member; whose members are whom; those that the form begins with.
    closed: Sequence[Project]
    memberships: Mapping[uuid.UUID, Sequence[Project]]
    chosen: Collection[str]


async def _people_page(
    request: Request,
    session: Session,
    admin: User,
    *,
    link: tuple[str, str] | None = None,
    chosen: Collection[str] = (),
    error: PlackettError | None = None,
) -> Response:
    listed = await projects.list_projects_for(session, admin)
    page = PeoplePage(
        title="People",
        people=await queries.list_users(session),
        roles=list(Role),
        me=admin,
        link=link,
        closed=[each for each in listed if each.members_only],
        memberships=await projects.list_projects_by_member(session),
        chosen=chosen,
        error=error,
    )
    return render(request, "accounts/people.html", page, status=error.status if error else 200)


async def _invitation(session: Session, user: User, settings: Settings) -> tuple[str, str]:
    token = await service.create_sign_in_link(session, user, lifetime=INVITATION)
    return user.email, f"{settings.public_address}/sign-in/{token}"


@router.get("/admin/people")
async def people(
    request: Request, session: Session, admin: AdminInPerson, project: str = ""
) -> Response:
    """Everybody; the form is filled in for a project that a link names."""
    return await _people_page(request, session, admin, chosen=[project])


@router.post("/admin/people")
async def invite(
    request: Request,
    session: Session,
    admin: AdminInPerson,
    email: Annotated[str, Form()],
    role: Annotated[Role, Form()],
    name: Annotated[str, Form()] = "",
    project: Annotated[list[str], Form()] = [],  # noqa: B006 - FastAPI copies it
) -> Response:
    """Make a person, a member of the chosen projects, and show the link that signs them in once."""
    try:
        user = await service.create_user(session, email, role, name=name, actor=admin.id)
        for slug in project:
            joined = await get_project_for(session, admin, slug)
            await add_members(session, joined, [user], actor=admin.id)
    except PlackettError as error:
        await start_over(session, admin)
        return await _people_page(request, session, admin, chosen=project, error=error)
    link = await _invitation(session, user, request.app.state.settings)
    await session.commit()
    return await _people_page(request, session, admin, link=link)


@router.post("/admin/people/{user_id}/link")
async def new_link(
    request: Request, session: Session, admin: AdminInPerson, user_id: uuid.UUID
) -> Response:
    """Another link, for somebody who lost theirs or the password."""
    user = await service.get_user(session, user_id)
    link = await _invitation(session, user, request.app.state.settings)
    await service.record(session, admin.id, "user.link", user.email)
    await session.commit()
    return await _people_page(request, session, admin, link=link)


@router.post("/admin/people/{user_id}/role")
async def change_role(
    request: Request,
    session: Session,
    admin: AdminInPerson,
    user_id: uuid.UUID,
    role: Annotated[Role, Form()],
) -> Response:
    """Let somebody do other things."""
    user = await service.get_user(session, user_id)
    await service.change_role(session, user, role, actor=admin.id)
    await session.commit()
    return see_other(request, "/admin/people", notice=f"{user.email} is {role.value} now.")


@router.post("/admin/people/{user_id}/disabled")
async def set_disabled(
    request: Request,
    session: Session,
    admin: AdminInPerson,
    user_id: uuid.UUID,
    disabled: Annotated[bool, Form()],
) -> Response:
    """Shut somebody out, or let them in again."""
    user = await service.get_user(session, user_id)
    await service.set_disabled(session, user, disabled, actor=admin.id)
    await session.commit()
    outcome = "shut out" if disabled else "let in again"
    return see_other(request, "/admin/people", notice=f"{user.email} is {outcome}.")
