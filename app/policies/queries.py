"""Selects of the policies room."""

import uuid
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.policies.models import Policy, ProjectPolicy


async def find_policy(session: AsyncSession, name: str) -> Policy | None:
    """The policy of this name."""
    return await session.scalar(select(Policy).where(Policy.name == name))


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
