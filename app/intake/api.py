"""The API of intake: prompts in."""

import asyncio
import io
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request

from app.accounts.guards import Admin, Session
from app.errors import InvalidInput
from app.intake.service import import_prompts
from app.projects.service import get_project_for
from app.prompts.files import read_json, read_lines
from app.prompts.limits import Limits
from app.prompts.parse import PromptRow, RowError
from app.prompts.reading import Reading, read_rows
from app.prompts.schemas import ImportReport
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


@api.post(
    "/projects/{slug}/prompts",
    status_code=201,
    openapi_extra=BODY,
    response_model_exclude_none=True,
)
async def add_prompts(
    slug: str,
    request: Request,
    session: Session,
    admin: Admin,
    generate: Annotated[int | None, Query(ge=2, le=9)] = None,
    policy: Annotated[list[str] | None, Query()] = None,
    layout: Annotated[str | None, Query(max_length=64)] = None,
    extra: Annotated[Literal["keep", "refuse"], Query()] = "refuse",
    rank_by: Annotated[str | None, Query(max_length=64)] = None,
) -> ImportReport:
    """Queue prompts, from a JSON list or from JSON Lines.

    A public layout is recognised by its columns, or named by `layout`; columns that it does not have are
    refused, or kept as metadata with `extra=keep`; `rank_by` names the score that ranks, where a layout
    brings scores.
    """
    settings: Settings = request.app.state.settings
    limits = Limits.of(settings, upload=True)
    reading = Reading(limits=limits, layout=layout, keep_extra=extra == "keep", rank_by=rank_by)
    project = await get_project_for(session, admin, slug)
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    body = await request.body()

    def parse() -> list[PromptRow | RowError]:
        if kind in NDJSON:
            return list(read_rows(limits.count_rows(read_lines(io.BytesIO(body), limits)), reading))
        return list(read_rows(limits.count_rows(read_json(body)), reading))

    if kind not in (*NDJSON, "application/json"):
        raise InvalidInput(
            "send a JSON list (application/json) or JSON Lines (application/x-ndjson)",
            field="content-type",
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
    report.notes = reading.notes or None
    await session.commit()
    return report
