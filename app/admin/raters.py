"""A project's raters: how far they agree, who is careless, who may rate."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Form, Request, Response

from app.accounts.guards import Admin, Researcher, Session
from app.admin.tabs import ProjectPage
from app.projects.service import get_project_for
from app.quality import service
from app.quality.schemas import QualityOut
from app.rating import qualification, queries
from app.rating.models import Qualification, QualificationState
from app.web.pages import see_other
from app.web.templates import render

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, kw_only=True)
class RatersPage(ProjectPage):
    """Agreement, each rater's figures, and how the tests came out."""

    quality: QualityOut
    # Everybody who has taken the test, by id, also those without a ranking outside it.
    tests: Sequence[tuple[Qualification, str]]
    by_rater: Mapping[uuid.UUID, Qualification]


@router.get("/admin/projects/{slug}/raters")
async def raters(request: Request, slug: str, session: Session, reader: Researcher) -> Response:
    """The figures."""
    project = await get_project_for(session, reader, slug)
    tests = await queries.list_qualifications(session, project.id)
    page = RatersPage(
        title=f"{project.name}: raters",
        project=project,
        tab="raters",
        quality=await service.get_quality(session, project),
        tests=tests,
        by_rater={each.rater_id: each for each, _name in tests},
    )
    return render(request, "quality/raters.html", page)


@router.post("/admin/projects/{slug}/raters/{rater_id}/qualification")
async def set_qualification(
    request: Request,
    slug: str,
    rater_id: uuid.UUID,
    session: Session,
    admin: Admin,
    state: Annotated[Literal["passed", "failed", "again"], Form()],
) -> Response:
    """An admin's word over a test."""
    project = await get_project_for(session, admin, slug)
    wanted = None if state == "again" else QualificationState(state)
    await qualification.set_qualification(session, project, rater_id, wanted, actor=admin.id)
    await session.commit()
    outcome = {"passed": "may rate", "failed": "may not rate", "again": "takes the test again"}[
        state
    ]
    return see_other(request, f"/admin/projects/{slug}/raters", notice=f"The rater {outcome}.")
