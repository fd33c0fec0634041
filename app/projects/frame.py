"""The frame of a page: which projects its reader sees, and which of them the address names."""

import re

from fastapi import Request
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.guards import Session, SignedIn, identify
from app.accounts.models import Role
from app.projects import queries
from app.web.frame import Frame, Place
from app.web.people import get_person

# What the switcher lists; whoever has more finds them on the page of all projects.
MOST_PLACES = 30
NAMED = re.compile(r"/admin/projects/([^/]+)")


async def find_frame(request: Request, session: Session) -> None:
    """Look up what the page's navigation needs. A rater's pages, fragments and the API have none."""
    person = get_person(request)
    path = request.url.path
    if not isinstance(person, SignedIn) or person.role is Role.RATER:
        return
    if path.startswith(("/api/", "/rate")) or "hx-request" in request.headers:
        return
    # By the path, which an address that no route has may name too.
    named = NAMED.match(path)
    slug = named[1] if named else request.query_params.get("project", "")
    project = None
    if slug and "\x00" not in slug:
        project = await queries.find_project_for(session, person.user, slug)
    listed = await queries.list_projects_for(session, person.user, limit=MOST_PLACES)
    request.state.frame = Frame(
        [Place(each.slug, each.name) for each in listed],
        Place(project.slug, project.name) if project else None,
    )


async def recognise(request: Request, session: AsyncSession) -> None:
    """Who asks for an address that no route has, and the frame that its page keeps."""
    await identify(request, session)
    await find_frame(request, session)
