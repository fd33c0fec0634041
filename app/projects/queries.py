"""Selects of the projects room."""

import uuid
from collections.abc import Sequence

from sqlalchemy import bindparam, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.projects.models import Guideline, Project

# Every lease asks for it: put together once, it takes less time.
_BY_SLUG = select(Project).where(Project.slug == bindparam("slug"))


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


async def list_projects(session: AsyncSession) -> Sequence[Project]:
    """All projects, the newest first."""
    return (await session.scalars(select(Project).order_by(Project.id.desc()))).all()


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
