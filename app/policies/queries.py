"""Selects of the policies room."""

import uuid
from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.policies.models import Policy, ProjectPolicy
from app.projects.models import Project


async def find_policy(session: AsyncSession, name: str) -> Policy | None:
    """The policy of this name."""
    return await session.scalar(select(Policy).where(Policy.name == name))


async def get_policy_by_id(session: AsyncSession, policy_id: uuid.UUID) -> Policy:
    """The policy that a row refers to; policies are never deleted."""
    return await session.get_one(Policy, policy_id)


async def list_policies(session: AsyncSession) -> Sequence[Policy]:
    """Every policy, the newest first."""
    return (await session.scalars(select(Policy).order_by(Policy.id.desc()))).all()


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


async def list_projects_by_policy(session: AsyncSession) -> dict[uuid.UUID, list[str]]:
    """The slugs of the projects that each policy writes for; empty for the others."""
    rows = await session.execute(
        select(ProjectPolicy.policy_id, Project.slug)
        .join(Project, Project.id == ProjectPolicy.project_id)
        .order_by(Project.slug)
    )
    used: dict[uuid.UUID, list[str]] = defaultdict(list)
    for policy_id, slug in rows:
        used[policy_id].append(slug)
    return used
