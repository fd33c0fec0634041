"""The API of rating: prompts in, tasks out, rankings in, counts out."""

import asyncio
import io
import uuid
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app.accounts.guards import Admin, AnyUser, Rater, Session
from app.errors import InvalidInput
from app.projects.service import get_project
from app.prompts.parse import PromptRow, RowError, read_json, read_lines
from app.prompts.schemas import ImportReport
from app.rating import history, service
from app.rating.intake import import_prompts
from app.rating.schemas import DraftIn, LeaseOut, Progress, RankingIn, RankingOut, SkipIn
from app.settings import Settings

api = APIRouter(prefix="/api/v1", tags=["rating"])

NDJSON = ("application/x-ndjson", "application/jsonl", "application/x-jsonlines")
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "array", "items": {"type": "object"}}},
            "application/x-ndjson": {"schema": {"type": "string"}},
        },
    }
}


@api.post("/projects/{slug}/prompts", status_code=201, openapi_extra=BODY)
async def add_prompts(
    slug: str,
    request: Request,
    session: Session,
    admin: Admin,
    generate: Annotated[int | None, Query(ge=2, le=9)] = None,
    policy: Annotated[list[str] | None, Query()] = None,
) -> ImportReport:
    """Queue prompts, from a JSON list or from JSON Lines."""
    settings: Settings = request.app.state.settings
    project = await get_project(session, slug)
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    body = await request.body()

    def parse() -> list[PromptRow | RowError]:
        limit = settings.max_prompt_bytes
        if kind in NDJSON:
            return list(read_lines(io.BytesIO(body), max_bytes=limit))
        return list(read_json(body, max_bytes=limit))

    if kind not in (*NDJSON, "application/json"):
        raise InvalidInput(
            "send a JSON list (application/json) or JSON Lines (application/x-ndjson)",
            place="content-type",
        )
    # A large file takes seconds to check; other requests go on meanwhile.
    rows = await asyncio.to_thread(parse)
    report = await import_prompts(
        session,
        project,
        rows,
        source="API",
        actor=admin.id,
        wanted=generate,
        policies=policy or (),
    )
    await session.commit()
    return report


@api.post(
    "/projects/{slug}/assignments",
    status_code=201,
    response_model=LeaseOut,
    responses={204: {"description": "Nothing is left for this rater."}},
)
async def lease(slug: str, session: Session, rater: Rater) -> LeaseOut | Response:
    """Lease the caller's next task; the same one again while they hold it."""
    project = await get_project(session, slug)
    found = await service.lease_next_task(session, project, rater)
    await session.commit()
    return LeaseOut.of(found) if found else Response(status_code=204)


@api.put("/assignments/{assignment_id}/ranking")
async def submit(
    assignment_id: uuid.UUID, given: RankingIn, session: Session, rater: Rater
) -> RankingOut:
    """Record a ranking. Repeating it changes nothing and answers the same."""
    stored = await service.submit_ranking(session, assignment_id, rater, given)
    await session.commit()
    return stored


@api.post("/assignments/{assignment_id}/skip", status_code=204)
async def skip(assignment_id: uuid.UUID, given: SkipIn, session: Session, rater: Rater) -> Response:
    """Give a task back."""
    await service.skip(session, assignment_id, rater, given.reason)
    await session.commit()
    return Response(status_code=204)


@api.put("/assignments/{assignment_id}/draft", status_code=204)
async def save_draft(
    assignment_id: uuid.UUID, draft: DraftIn, session: Session, rater: Rater
) -> Response:
    """Keep a draft, and the lease with it."""
    await service.save_draft(session, assignment_id, rater, draft)
    await session.commit()
    return Response(status_code=204)


@api.get("/projects/{slug}/progress")
async def progress(slug: str, session: Session, _: AnyUser) -> Progress:
    """Counts of the project."""
    project = await get_project(session, slug)
    counts = await history.get_progress(session, project)
    await session.commit()
    return counts
