"""The API of rating: tasks out, rankings in, counts out."""

import uuid

from fastapi import APIRouter, Response

from app.accounts.guards import AnyUser, Rater, Session
from app.projects.service import get_project_for
from app.rating import assign, history
from app.rating.schemas import DraftIn, LeaseOut, Progress, RankingIn, RankingOut, SkipIn
from app.rating.submit import submit_ranking

api = APIRouter(prefix="/api/v1", tags=["rating"])


@api.post(
    "/projects/{slug}/assignments",
    status_code=201,
    response_model=LeaseOut,
    responses={204: {"description": "Nothing is left for this rater."}},
)
async def lease(slug: str, session: Session, rater: Rater) -> LeaseOut | Response:
    """Lease the caller's next task; the same one again while they hold it."""
    project = await get_project_for(session, rater, slug)
    found = await assign.lease_next_task(session, project, rater)
    await session.commit()
    return LeaseOut.of(found) if found else Response(status_code=204)


@api.put("/assignments/{assignment_id}/ranking")
async def submit(
    assignment_id: uuid.UUID, given: RankingIn, session: Session, rater: Rater
) -> RankingOut:
    """Record a ranking. Repeating it changes nothing and answers the same."""
    stored = await submit_ranking(session, assignment_id, rater, given)
    await session.commit()
    return stored


@api.post("/assignments/{assignment_id}/skip", status_code=204)
async def skip(assignment_id: uuid.UUID, given: SkipIn, session: Session, rater: Rater) -> Response:
    """Give a task back."""
    await assign.skip(session, assignment_id, rater, given.reason)
    await session.commit()
    return Response(status_code=204)


@api.put("/assignments/{assignment_id}/draft", status_code=204)
async def save_draft(
    assignment_id: uuid.UUID, draft: DraftIn, session: Session, rater: Rater
) -> Response:
    """Keep a draft, and the lease with it."""
    await assign.save_draft(session, assignment_id, rater, draft)
    await session.commit()
    return Response(status_code=204)


@api.get("/projects/{slug}/progress")
async def progress(slug: str, session: Session, user: AnyUser) -> Progress:
    """Counts of the project."""
    project = await get_project_for(session, user, slug)
    counts = await history.get_progress(session, project)
    await session.commit()
    return counts
