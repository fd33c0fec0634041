"""Registering policies and putting them to work in projects."""

import uuid
from collections.abc import Sequence

from sqlalchemy import delete
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.service import record
from app.db.types import utc_now
from app.errors import Conflict, NotFound
from app.policies import queries
from app.policies.models import Backend, Policy, ProjectPolicy
from app.policies.schemas import PolicyIn
from app.projects.models import Project


async def get_policy(session: AsyncSession, name: str) -> Policy:
    """The policy of this name. Raises NotFound."""
    policy = await queries.find_policy(session, name)
    if policy is None:
        raise no_such_policy(name)
    return policy


def no_such_policy(name: str) -> NotFound:
    """What is said of a policy that is not there, or that whoever asks does not see."""
    return NotFound(f"There is no policy {name!r}", field="policy")


async def register_policy(
    session: AsyncSession,
    wanted: PolicyIn,
    *,
    parent: Policy | None = None,
    run_id: uuid.UUID | None = None,
    project: Project | None = None,
    actor: uuid.UUID | None = None,
) -> Policy:
    """A new policy in the registry, of the run and the project that made it, if one did.

    Raises Conflict where the name is taken.
    """
    if await queries.find_policy(session, wanted.name) is not None:
        raise Conflict(f"There is already a policy {wanted.name!r}", field="name")
    policy = Policy(
        **wanted.model_dump(),
        parent_id=parent.id if parent else None,
        run_id=run_id,
        project_id=project.id if project else None,
    )
    session.add(policy)
    await session.flush()
    await record(session, actor, "policy.register", wanted.name, backend=wanted.backend.value)
    return policy


async def get_or_create_imported_policy(session: AsyncSession, name: str) -> Policy:
    """The policy that an imported candidate names; made, as one that cannot speak, if unknown."""
    await session.execute(
        insert(Policy).values(name=name[:200], backend=Backend.IMPORTED).on_conflict_do_nothing()
    )
    return await get_policy(session, name[:200])


async def set_project_policies(
    session: AsyncSession,
    project: Project,
    policies: Sequence[Policy],
    *,
    actor: uuid.UUID | None = None,
) -> None:
    """Let these policies, and no others, write the project's candidates from now on."""
    for policy in policies:
        if policy.backend is Backend.IMPORTED:
            raise Conflict(
                f"The policy {policy.name!r} came with imported responses and cannot write any",
                field="policies",
            )
    await session.execute(delete(ProjectPolicy).where(ProjectPolicy.project_id == project.id))
    for policy in policies:
        session.add(ProjectPolicy(project_id=project.id, policy_id=policy.id))
        await session.flush()
    await record(
        session,
        actor,
        "project.policies",
        project.slug,
        policies=[policy.name for policy in policies],
    )


async def set_policies_by_name(
    session: AsyncSession,
    project: Project,
    names: Sequence[str],
    *,
    actor: uuid.UUID | None = None,
) -> None:
    """The same, by names; none leaves the project as it is. Raises NotFound for an unknown one."""
    if names:
        policies = [await get_policy(session, name) for name in names]
        await set_project_policies(session, project, policies, actor=actor)


async def retire_policy(
    session: AsyncSession, policy: Policy, *, actor: uuid.UUID | None = None
) -> None:
    """Take a policy out of service everywhere; what it wrote stays."""
    policy.retired_at = policy.retired_at or utc_now()
    await session.execute(delete(ProjectPolicy).where(ProjectPolicy.policy_id == policy.id))
    await record(session, actor, "policy.retire", policy.name)
