"""Selects of the projects room."""

import uuid
from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import ColumnElement, bindparam, func, or_, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import Role, User
from app.projects.models import Guideline, Membership, Project

# The same as `visible_to`, for statements that are written out: `project` is the project, and :rater_id
# who asks.
RATER_SEES_PROJECT = """
    (NOT project.members_only
     OR EXISTS (SELECT FROM memberships
                WHERE memberships.project_id = project.id AND memberships.user_id = :rater_id)
     OR EXISTS (SELECT FROM users WHERE users.id = :rater_id AND users.role = 'admin'))
"""

_IS_MEMBER = (
    select(Membership.user_id)
    .where(Membership.project_id == Project.id, Membership.user_id == bindparam("viewer_id"))
    .correlate(Project)
    .exists()
)
# Every lease asks for it: put together once, it takes less time.
_BY_SLUG = select(Project).where(Project.slug == bindparam("slug"))
_BY_SLUG_FOR = _BY_SLUG.where(or_(Project.members_only.is_(False), _IS_MEMBER))


def visible_to(viewer: User) -> ColumnElement[bool]:
    """The projects that somebody sees: an admin all of them, others the open ones and their own."""
    if viewer.role is Role.ADMIN:
        return true()
    own = select(Membership.project_id).where(Membership.user_id == viewer.id)
    return or_(Project.members_only.is_(False), Project.id.in_(own))


async def find_project_for(session: AsyncSession, viewer: User, slug: str) -> Project | None:
    """The project of this slug, if the viewer sees it."""
    if viewer.role is Role.ADMIN:
        return await find_project(session, slug)
    return await session.scalar(_BY_SLUG_FOR, {"slug": slug, "viewer_id": viewer.id})


async def find_project(session: AsyncSession, slug: str) -> Project | None:
    """The project of this slug."""
    return await session.scalar(_BY_SLUG, {"slug": slug})


async def get_project_by_id(session: AsyncSession, project_id: uuid.UUID) -> Project:
    """The project that a row refers to."""
    return await session.get_one(Project, project_id)


async def get_project_for_update(session: AsyncSession, project_id: uuid.UUID) -> Project:
    """The project, locked, so that versions of its guidelines get their numbers in turn."""
    return (
        await session.scalars(select(Project).where(Project.id == project_id).with_for_update())
    ).one()


async def list_projects_for(
    session: AsyncSession, viewer: User, *, limit: int | None = None
) -> Sequence[Project]:
    """The projects that the viewer sees, the newest first."""
    return (
        await session.scalars(
            select(Project).where(visible_to(viewer)).order_by(Project.id.desc()).limit(limit)
        )
    ).all()


async def sees_project(session: AsyncSession, viewer: User, project_id: uuid.UUID) -> bool:
    """Whether the viewer sees the project that a row refers to."""
    found = select(Project.id).where(Project.id == project_id, visible_to(viewer))
    return await session.scalar(found) is not None


async def list_members(session: AsyncSession, project_id: uuid.UUID) -> Sequence[User]:
    """The members of a project, by address."""
    return (
        await session.scalars(
            select(User)
            .join(Membership, Membership.user_id == User.id)
            .where(Membership.project_id == project_id)
            .order_by(func.lower(User.email))
        )
    ).all()


async def list_projects_by_member(session: AsyncSession) -> dict[uuid.UUID, list[Project]]:
    """The projects of everybody who is a member of one, by name."""
    rows = await session.execute(
        select(Membership.user_id, Project)
        .join(Project, Project.id == Membership.project_id)
        .order_by(Project.name)
    )
    found: dict[uuid.UUID, list[Project]] = defaultdict(list)
    for user_id, project in rows:
        found[user_id].append(project)
    return found


async def get_guideline(
    session: AsyncSession, project_id: uuid.UUID, version: int
) -> Guideline | None:
    """One version of a project's guidelines."""
    return await session.scalar(
        select(Guideline).where(Guideline.project_id == project_id, Guideline.version == version)
    )


async def list_guidelines(session: AsyncSession, project_id: uuid.UUID) -> Sequence[Guideline]:
    """Every version of a project's guidelines, the newest first."""
    return (
        await session.scalars(
            select(Guideline)
            .where(Guideline.project_id == project_id)
            .order_by(Guideline.version.desc())
        )
    ).all()
