"""Projects and policies for tests."""

import itertools
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from app.policies import service as policies
from app.policies.models import Backend, Policy
from app.policies.schemas import PolicyIn
from app.projects import service as projects
from app.projects.models import Project
from app.projects.schemas import ProjectIn

_numbers = itertools.count(1)


async def create_project(session: AsyncSession, **settings: Any) -> Project:
    """A project; anything of `ProjectIn` may be given."""
    number = next(_numbers)
    wanted = {"slug": f"project-{number}", "name": f"Project {number}"} | settings
    return await projects.create_project(session, ProjectIn.model_validate(wanted))


async def create_policy(session: AsyncSession, **settings: Any) -> Policy:
    """A registered policy."""
    wanted = {
        "name": f"policy-{next(_numbers)}",
        "backend": Backend.OPENAI,
        "model": "test-model",
        "base_url": "http://127.0.0.1:9/v1",
    } | settings
    return await policies.register_policy(session, PolicyIn.model_validate(wanted))
