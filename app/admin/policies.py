"""The registry of policies: what is registered, what made it, where it serves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response

from app.accounts.guards import Admin, Researcher, Session
from app.accounts.models import User
from app.errors import PlackettError
from app.policies import queries, service
from app.policies.models import Policy
from app.policies.reach import check_base_url
from app.policies.schemas import PolicyIn
from app.web.errors import from_pydantic
from app.web.pages import see_other
from app.web.templates import PageContext, render

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, kw_only=True)
class PoliciesPage(PageContext):
    """The registry: (policy, name of its parent, slugs of the projects that it writes for)."""

    rows: Sequence[tuple[Policy, str | None, Sequence[str]]]
    values: Mapping[str, object]


async def _policies_page(
    request: Request,
    session: Session,
    viewer: User,
    *,
    values: Mapping[str, object] | None = None,
    error: PlackettError | None = None,
) -> Response:
    registered = await queries.list_policies_for(session, viewer)
    names = {policy.id: policy.name for policy in registered}
    used = await queries.list_projects_by_policy(session, viewer)
    page = PoliciesPage(
        title="Policies",
        rows=[
            (policy, names.get(policy.parent_id) if policy.parent_id else None, used[policy.id])
            for policy in registered
        ],
        values=values or {},
        error=error,
    )
    return render(request, "policies/list.html", page, status=error.status if error else 200)


@router.get("/admin/policies")
async def policies_page(request: Request, session: Session, reader: Researcher) -> Response:
    """The registry."""
    return await _policies_page(request, session, reader)


@router.post("/admin/policies")
async def register(request: Request, session: Session, admin: Admin) -> Response:
    """Register a policy from the form."""
    form = await request.form()
    names = ("name", "backend", "model", "base_url", "api_key_variable")
    values = {name: str(form.get(name) or "").strip() or None for name in names}
    try:
        with from_pydantic():
            wanted = PolicyIn.model_validate({k: v for k, v in values.items() if v})
        await check_base_url(wanted.base_url, request.app.state.settings.policy_private_hosts)
        await service.register_policy(session, wanted, actor=admin.id)
    except PlackettError as error:
        return await _policies_page(request, session, admin, values=values, error=error)
    await session.commit()
    return see_other(request, "/admin/policies", notice=f"{wanted.name} is registered.")


@router.post("/admin/policies/retire")
async def retire(
    request: Request, session: Session, admin: Admin, name: Annotated[str, Form()]
) -> Response:
    """Take a policy out of service."""
    policy = await service.get_policy(session, name)
    await service.retire_policy(session, policy, actor=admin.id)
    await session.commit()
    return see_other(request, "/admin/policies", notice=f"{name} is retired.")
