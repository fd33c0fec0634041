"""Quality figures and the leaderboard, through the API."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.accounts.guards import Researcher, Session
from app.accounts.models import Kind
from app.projects.service import get_project_for
from app.quality import service
from app.quality.schemas import LeaderboardOut, QualityOut

api = APIRouter(prefix="/api/v1", tags=["quality"])

Kinds = Annotated[
    list[Kind] | None, Query(alias="kind", description="Whose judgements count; people by default.")
]


@api.get("/projects/{slug}/quality")
async def get_quality(
    slug: str, session: Session, researcher: Researcher, kinds: Kinds = None
) -> QualityOut:
    """Agreement with intervals, and each rater's figures."""
    project = await get_project_for(session, researcher, slug)
    return await service.get_quality(session, project, kinds=kinds or service.HUMAN)


@api.get("/projects/{slug}/leaderboard")
async def get_leaderboard(
    slug: str, session: Session, researcher: Researcher, kinds: Kinds = None
) -> LeaderboardOut:
    """Policies with Bradley-Terry strengths, intervals and wins."""
    project = await get_project_for(session, researcher, slug)
    return await service.get_leaderboard(session, project, kinds=kinds or service.HUMAN)
