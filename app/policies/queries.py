"""Selects of the policies room."""

import uuid
from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import ColumnElement, or_, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import Role, User
from app.policies.models import Policy, ProjectPolicy
from app.projects.models import Project
from app.projects.queries import visible_to


async def find_policy(session: AsyncSession, name: str) -> Policy | None:
    """The policy of this name."""
    return await session.scalar(select(Policy).where(Policy.name == name))


async def get_policy_by_id(session: AsyncSession, policy_id: uuid.UUID) -> Policy:
    """The policy that a row refers to; policies are never deleted."""
    return await session.get_one(Policy, policy_id)


def visible_policies(viewer: User) -> ColumnElement[bool]:
    """The policies that somebody sees: all but those that a run of a project made which they do not see."""
    if viewer.role is Role.ADMIN:
        return true()
    seen = select(Project.id).where(visible_to(viewer))
    serving = select(ProjectPolicy.policy_id).where(ProjectPolicy.project_id.in_(seen))
    return or_(Policy.project_id.is_(None), Policy.project_id.in_(seen), Policy.id.in_(serving))


async def list_policies_for(session: AsyncSession, viewer: User) -> Sequence[Policy]:
    """The policies that the viewer sees, the newest first."""
    return (
        await session.scalars(
            select(Policy).where(visible_policies(viewer)).order_by(Policy.id.desc())
        )
    ).all()


async def sees_policy(session: AsyncSession, viewer: User, policy_id: uuid.UUID) -> bool:
    """Whether the viewer sees this policy."""
    found = select(Policy.id).where(Policy.id == policy_id, visible_policies(viewer))
    return await session.scalar(found) is not None


async def list_project_policies(session: AsyncSession, project_id: uuid.UUID) -> Sequence[Policy]:
    """The policies that write a project's candidates, in the order they were attached."""
    return (
        await session.scalars(
            select(Policy)
            .join(ProjectPolicy, ProjectPolicy.policy_id == Policy.id)
            .where(ProjectPolicy.project_id == project_id, Policy.retired_at.is_(None))
            .order_by(ProjectPolicy.created_at, Policy.id)
        )
    ).all()


async def list_projects_by_policy(
    session: AsyncSession, viewer: User
) -> dict[uuid.UUID, list[str]]:
    """The slugs of the projects that each policy writes for, of those that the viewer sees."""
    rows = await session.execute(
        select(ProjectPolicy.policy_id, Project.slug)
        .join(Project, Project.id == ProjectPolicy.project_id)
        .where(visible_to(viewer))
        .order_by(Project.slug)
    )
    used: dict[uuid.UUID, list[str]] = defaultdict(list)
    for policy_id, slug in rows:
        used[policy_id].append(slug)
    return used
