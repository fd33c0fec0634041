"""A project's prompt queue: uploads, priorities, and one prompt with all that is known of it."""

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response, UploadFile

from app.accounts.guards import Admin, Exporter, Session, start_over
from app.admin.tabs import ProjectPage
from app.errors import InvalidInput, PlackettError
from app.intake.service import import_prompts
from app.projects import service as projects
from app.projects.models import Project
from app.prompts import queries as prompt_queries
from app.prompts import service as prompts
from app.prompts.layout import Layout
from app.prompts.layouts import LAYOUTS
from app.prompts.limits import Limits
from app.prompts.models import Candidate, Prompt, PromptImport, PromptState
from app.prompts.reading import Reading, count_like, read_stream
from app.prompts.schemas import ImportReport
from app.rating import notes, queries, upkeep
from app.rating.models import Ranking
from app.settings import Settings
from app.web.markdown import Views, view_texts
from app.web.pages import PageNumber, PageOf, see_other
from app.web.templates import render

router = APIRouter(include_in_schema=False)

PAGE_SIZE = 50


@dataclass(frozen=True, kw_only=True)
class PromptsPage(ProjectPage):
    """A project's prompt queue, and what became of an upload."""

    prompts: PageOf[Prompt]
    imports: Sequence[PromptImport]
    state: PromptState | None
    states: Sequence[PromptState]
    words: str
    report: ImportReport | None = None
    # The layouts that an upload may have.
    layouts: Sequence[Layout] = tuple(LAYOUTS.values())
    # Rows that were not imported, those with the same fault together: (field, message, lines).
    wrong: Sequence[tuple[str, str, list[int]]] = ()


@dataclass(frozen=True, kw_only=True)
class PromptPage(ProjectPage):
    """One prompt, with everything that admins may know of its candidates and rankings."""

    prompt: Prompt
    candidates: Sequence[tuple[Candidate, str | None]]
    rankings: Sequence[tuple[Ranking, str]]
    skips: Sequence[upkeep.Skip]
    notes: Sequence[notes.Note]
    views: Views


async def _prompts_page(
    request: Request,
    session: Session,
    project: Project,
    *,
    state: PromptState | None = None,
    words: str = "",
    page: int = 1,
    report: ImportReport | None = None,
    error: PlackettError | None = None,
) -> Response:
    rows = await prompt_queries.list_prompts(
        session,
        project.id,
        state=state,
        words=words,
        limit=PAGE_SIZE,
        offset=(page - 1) * PAGE_SIZE,
    )
    total = await prompt_queries.count_matching(session, project.id, state=state, words=words)
    context = PromptsPage(
        title=f"{project.name}: prompts",
        project=project,
        tab="prompts",
        prompts=PageOf(rows, page, total, PAGE_SIZE),
        imports=await prompt_queries.list_imports(session, project.id, limit=5),
        state=state,
        states=list(PromptState),
        words=words,
        report=report,
        wrong=count_like(report.rejected) if report else (),
        error=error,
    )
    return render(request, "prompts/list.html", context, status=error.status if error else 200)


@router.get("/admin/projects/{slug}/prompts")
async def prompts_page(
    request: Request,
    slug: str,
    session: Session,
    reader: Exporter,
    state: str = "",
    words: str = "",
    page: PageNumber = 1,
) -> Response:
    """The queue, by state and words."""
    project = await projects.get_project_for(session, reader, slug)
    chosen = PromptState(state) if state in set(PromptState) else None
    return await _prompts_page(
        request, session, project, state=chosen, words=words.replace("\x00", ""), page=page
    )


@router.post("/admin/projects/{slug}/prompts")
async def upload(
    request: Request,
    slug: str,
    session: Session,
    admin: Admin,
    file: UploadFile,
    layout: Annotated[str, Form(max_length=64)] = "",
    keep_extra: Annotated[bool, Form()] = False,
) -> Response:
    """Import a file, and say what became of each row."""
    settings: Settings = request.app.state.settings
    project = await projects.get_project_for(session, admin, slug)
    name = file.filename or "upload.jsonl"
    try:
        reading = Reading(
            limits=Limits.of(settings, upload=True), layout=layout or None, keep_extra=keep_extra
        )
        # A large file takes seconds to check; other requests go on meanwhile.
        rows = await asyncio.to_thread(lambda: list(read_stream(file.file, name, reading)))
        report = await import_prompts(session, project, rows, source=name, actor=admin.id)
        report.notes = reading.notes or None
    except PlackettError as error:
        await start_over(session, admin)
        project = await projects.get_project_for(session, admin, slug)
        return await _prompts_page(request, session, project, error=error)
    await session.commit()
    return await _prompts_page(request, session, project, report=report)


@router.post("/admin/projects/{slug}/priority")
async def set_priority(
    request: Request,
    slug: str,
    session: Session,
    admin: Admin,
    priority: Annotated[int, Form(ge=-1_000_000, le=1_000_000)],
    prompt: Annotated[list[uuid.UUID] | None, Form()] = None,
) -> Response:
    """Move the chosen prompts, and their tasks, up or down the queue."""
    project = await projects.get_project_for(session, admin, slug)
    if not prompt:
        raise InvalidInput("Choose at least one prompt", field="prompt")
    moved = await prompts.set_priority(session, project, prompt, priority, actor=admin.id)
    await queries.set_task_priority(session, moved, priority)
    await session.commit()
    notice = f"{len(moved)} moved to priority {priority}."
    return see_other(request, f"/admin/projects/{slug}/prompts", notice=notice)


@router.get("/admin/projects/{slug}/prompts/{prompt_id}")
async def prompt_page(
    request: Request, slug: str, prompt_id: uuid.UUID, session: Session, reader: Exporter
) -> Response:
    """One prompt with its candidates and rankings."""
    project = await projects.get_project_for(session, reader, slug)
    prompt = await prompts.get_prompt(session, project, prompt_id)
    candidates = await prompt_queries.list_candidates_with_policies(session, prompt.id)
    texts = [message["content"] for message in prompt.messages]
    page = PromptPage(
        title="Prompt",
        project=project,
        tab="prompts",
        prompt=prompt,
        candidates=candidates,
        rankings=await queries.list_rankings_of(session, prompt.id),
        skips=await upkeep.list_skips(session, prompt.id),
        notes=await notes.list_notes(session, project, prompt_id=prompt.id),
        views=await view_texts([*texts, *(candidate.text for candidate, _policy in candidates)]),
    )
    return render(request, "prompts/prompt.html", page)
