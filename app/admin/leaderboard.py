"""A project's leaderboard: how its policies compare, by its people's judgement."""

from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from app.accounts.guards import Researcher, Session
from app.admin.tabs import ProjectPage
from app.projects.service import get_project_for
from app.quality import service
from app.quality.schemas import LeaderboardOut
from app.web.templates import render

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, kw_only=True)
class LeaderboardPage(ProjectPage):
    """The policies' places."""

    leaderboard: LeaderboardOut


@router.get("/admin/projects/{slug}/leaderboard")
async def leaderboard(
    request: Request, slug: str, session: Session, reader: Researcher
) -> Response:
    """The leaderboard."""
    project = await get_project_for(session, reader, slug)
    page = LeaderboardPage(
        title=f"{project.name}: leaderboard",
        project=project,
        tab="leaderboard",
        leaderboard=await service.get_leaderboard(session, project),
    )
    return render(request, "quality/leaderboard.html", page)
