"""Who sees a project, from the command line."""

from typing import Annotated

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from app.terminal import Json, Slug, say, with_session

Emails = Annotated[list[str], typer.Argument(metavar="EMAIL...", help="Whom, by their addresses.")]


def add_members(slug: Slug, emails: Emails, as_json: Json = False) -> None:
    """Let people see a project that is closed to all but its members.

    Example: plackett project add-member stories ada@example.org ben@example.org
    """
    from app.projects import service

    async def work(session: AsyncSession) -> None:
        project = await service.get_project(session, slug)
        people = [await service.find_person(session, email) for email in emails]
        await service.add_members(session, project, people)

    with_session(work)
    say(f"{slug} is seen by {', '.join(emails)}.", {"slug": slug, "emails": emails}, as_json)


def remove_members(slug: Slug, emails: Emails, as_json: Json = False) -> None:
    """Let people see a closed project no more. What they ranked stays.

    Example: plackett project remove-member stories ben@example.org
    """
    from app.projects import service

    async def work(session: AsyncSession) -> None:
        project = await service.get_project(session, slug)
        for email in emails:
            person = await service.find_person(session, email)
            await service.remove_member(session, project, person)

    with_session(work)
    say(
        f"{slug} is seen by {', '.join(emails)} no more.", {"slug": slug, "emails": emails}, as_json
    )


def close_project(slug: Slug, as_json: Json = False) -> None:
    """Close a project to all but its members and admins; whoever sees it now becomes a member.

    Example: plackett project close stories
    """
    _set_members_only(slug, True)
    say(f"Members alone see {slug} now.", {"slug": slug, "members_only": True}, as_json)


def open_project(slug: Slug, as_json: Json = False) -> None:
    """Open a project to everybody who is signed in.

    Example: plackett project open stories
    """
    _set_members_only(slug, False)
    say(f"Everybody sees {slug} now.", {"slug": slug, "members_only": False}, as_json)


def _set_members_only(slug: str, closed: bool) -> None:
    from app.projects import service

    async def work(session: AsyncSession) -> None:
        await service.set_members_only(session, await service.get_project(session, slug), closed)

    with_session(work)
