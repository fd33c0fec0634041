"""The registry, and projects with their policies, through the API."""

from fastapi import APIRouter, Request

from app.accounts.guards import Admin, Researcher, Session
from app.policies import queries, service
from app.policies.reach import check_base_url
from app.policies.schemas import PolicyIn, PolicyOut
from app.projects import service as projects
from app.projects.schemas import ProjectIn, ProjectOut

api = APIRouter(prefix="/api/v1", tags=["policies"])


@api.get("/policies")
async def list_policies(session: Session, researcher: Researcher) -> list[PolicyOut]:
    """Every policy that the caller sees, the newest first."""
    found = await queries.list_policies_for(session, researcher)
    return [PolicyOut.model_validate(each) for each in found]


@api.post("/policies", status_code=201)
async def register_policy(
    request: Request, wanted: PolicyIn, session: Session, admin: Admin
) -> PolicyOut:
    """Register a policy."""
    await check_base_url(wanted.base_url, request.app.state.settings.policy_private_hosts)
    policy = await service.register_policy(session, wanted, actor=admin.id)
    await session.commit()
    return PolicyOut.model_validate(policy)


@api.post("/projects", status_code=201, tags=["projects"])
async def create_project(wanted: ProjectIn, session: Session, admin: Admin) -> ProjectOut:
    """Make a project, with the policies that write for it."""
    project = await projects.create_project(session, wanted, actor=admin.id)
    await service.set_policies_by_name(session, project, wanted.policies, actor=admin.id)
    await session.commit()
    return ProjectOut.model_validate(project)
