"""The rater's pages: where to rate, the ranking page, guidelines, and one's own work."""

import asyncio
import csv
import io
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse

from app.accounts.guards import Exporter, Rater, Session
from app.accounts.models import User
from app.errors import Conflict, InvalidInput, NotAllowed, Unavailable
from app.projects.models import Guideline, Project
from app.projects.queries import get_guideline
from app.projects.service import get_project_for
from app.rating import assign, history, notes, qualification, queries
from app.rating.difference import mark_differences
from app.rating.forms import (
    describe_strength,
    list_note_kinds,
    list_roles,
    list_skip_reasons,
    list_steps,
    list_words,
    read_form,
    restore_line_ends,
)
from app.rating.judgement import LETTERS, NONE_IS_GOOD
from app.rating.schemas import Feedback, Lease, OwnRanking, RankingOut, hash_questions
from app.rating.submit import get_answered, revise_ranking, submit_ranking
from app.web.language import gettext as _
from app.web.markdown import Views, view_texts
from app.web.pages import PageNumber, PageOf, see_other
from app.web.templates import PageContext, render

router = APIRouter(include_in_schema=False)

# A page that must not act: it loads its styles, and nothing of it runs or is sent.
ONLY_TO_LOOK_AT = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
LONGEST_COMPARED = 100_000  # characters


@dataclass(frozen=True, kw_only=True)
class HomePage(PageContext):
    """Where there is work."""

    rows: Sequence[queries.ProjectWork]
    # By the project's id: how long what is left takes this rater.
    minutes_left: Mapping[uuid.UUID, int | None]


@dataclass(frozen=True, kw_only=True)
class TaskPage(PageContext):
    """The ranking page: a task, a button that takes one, rules to read first, or that nothing is left."""

    project: Project
    lease: Lease | None
    # Where no task is on the page: whether there is one to take.
    more: bool
    # The rules, where this version has not been read; the version that was.
    unread: Guideline | None
    version_read: int
    failed: bool
    guideline: Guideline | None
    # The ranking that is being changed, if it is not a new one.
    changing: OwnRanking | None
    letters: str
    # Of every text on the page.
    views: Views
    none_is_good: str
    skip_reasons: Sequence[str]
    # What is the matter with a task, for the admins: its name and what it says.
    note_kinds: Mapping[str, str]
    # The scale between two: preference, its sign on a phone, what it says.
    steps: Sequence[tuple[int, str, str]]
    # Who says a message.
    roles: Mapping[str, str]
    words: Mapping[str, str]
    today: int
    # What a rater would see, shown to somebody who does not rate here: it holds no task and stores nothing.
    preview: bool


@dataclass(frozen=True, kw_only=True)
class FeedbackFragment(PageContext):
    """What a rater is told after an answer of the qualification."""

    feedback: Feedback


@dataclass(frozen=True, kw_only=True)
class GuidelinesPage(PageContext):
    """A project's guidelines, for reading at length."""

    project: Project
    guideline: Guideline | None
    views: Views


@dataclass(frozen=True, kw_only=True)
class HistoryPage(PageContext):
    """A rater's own work."""

    rankings: PageOf[OwnRanking]
    figures: history.OwnFigures
    # Where the project lets raters know: how their answers to its gold tasks came out.
    gold: Sequence[history.OwnGold]


@dataclass(frozen=True, kw_only=True)
class OwnRankingPage(PageContext):
    """One ranking of one's own."""

    ranking: OwnRanking
    strength: str | None
    roles: Mapping[str, str]
    first_view: str
    views: Views


@router.get("/rate")
async def home(request: Request, session: Session, rater: Rater) -> Response:
    """Choose a project; straight on where there is only one with work."""
    rows = await queries.list_projects_with_work(session, rater)
    with_work = [row for row in rows if row.left or row.held]
    if len(with_work) == 1:
        return RedirectResponse(f"/rate/{with_work[0].project.slug}", status_code=303)
    minutes_left = {row.project.id: queries.estimate_minutes(row) for row in rows}
    return render(
        request, "rating/home.html", HomePage(title=_("Rate"), rows=rows, minutes_left=minutes_left)
    )


@router.get("/rate/history")
async def own_work(
    request: Request, session: Session, rater: Rater, page: PageNumber = 1
) -> Response:
    """One's own rankings, the newest first, and what they add up to."""
    size = 20
    figures = await history.get_own_figures(session, rater)
    rows = await history.list_own_rankings(session, rater, limit=size, offset=(page - 1) * size)
    context = HistoryPage(
        title=_("My work"),
        rankings=PageOf(rows, page, figures.listed, size),
        figures=figures,
        gold=await history.list_own_gold(session, rater),
    )
    return render(request, "rating/history.html", context)


@router.get("/rate/history/time-sheet/csv")
async def time_sheet(session: Session, rater: Rater) -> Response:
    """A rater's days in each project, for their own books. Days are UTC's."""
    rows = await queries.list_own_days(session, rater.id)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("day", "project", "rankings", "minutes", "rankings_without_time"))
    for row in rows:
        # A ranking that came without its time is counted, and nothing is made up for it.
        minutes = round(row.seconds / 60, 2)
        writer.writerow((row.day.isoformat(), row.slug, row.rankings, minutes, row.untimed))
    headers = {"Content-Disposition": 'attachment; filename="time-sheet.csv"'}
    return Response(text.getvalue(), media_type="text/csv; charset=utf-8", headers=headers)


@router.get("/rate/history/{ranking_id}")
async def own_ranking(
    request: Request, ranking_id: uuid.UUID, session: Session, rater: Rater
) -> Response:
    """One ranking, as it was given."""
    ranking = await history.get_own_ranking(session, rater, ranking_id)
    project = await get_project_for(session, rater, ranking.project_slug)
    texts = [message["content"] for message in ranking.messages]
    texts += [text for _rank, _letter, text in ranking.ranked] + [ranking.rewrite or ""]
    page = OwnRankingPage(
        title=_("My ranking"),
        ranking=ranking,
        first_view=project.first_view,
        views=await view_texts(texts),
        strength=describe_strength(ranking.strength),
        roles=list_roles(),
    )
    return render(request, "rating/own_ranking.html", page)


@router.get("/rate/history/{ranking_id}/change")
async def change(
    request: Request, ranking_id: uuid.UUID, session: Session, rater: Rater
) -> Response:
    """The ranking page with a stored ranking, to be changed."""
    ranking = await history.get_own_ranking(session, rater, ranking_id)
    if ranking.open_until is None:
        raise Conflict(_("This ranking can no longer be changed"), field="ranking")
    project = await get_project_for(session, rater, ranking.project_slug)
    lease = await get_answered(session, ranking_id, rater)
    page = await _task_page(session, project, rater, lease=lease, changing=ranking)
    return render(request, "rating/task.html", page)


@router.post("/rate/history/{ranking_id}/change")
async def store_change(
    request: Request, ranking_id: uuid.UUID, session: Session, rater: Rater
) -> Response:
    """Store what the ranking says now; what it said before is kept."""
    given = read_form(await request.form())
    if given.rewrite:
        own = await history.get_own_ranking(session, rater, ranking_id)
        given = restore_line_ends(given, [text for _rank, _letter, text in own.ranked])
    stored = await revise_ranking(session, ranking_id, rater, given)
    await session.commit()
    return await _stored(request, session, rater, stored)


@router.get("/rate/{slug}")
async def task(request: Request, slug: str, session: Session, rater: Rater) -> Response:
    """The task that the rater holds; where they hold none, a button that takes one.

    To look takes nothing: previews of links and browsers that fetch pages in advance come here too.
    """
    project = await get_project_for(session, rater, slug)
    version_read = await qualification.get_version_read(session, project, rater)
    lease, more, failed = None, True, False
    if version_read >= project.guideline_version:
        try:
            standing = await assign.get_standing(session, project, rater)
            lease, more = standing.lease, standing.more
        except NotAllowed:
            failed = True
    page = await _task_page(
        session, project, rater, lease=lease, more=more, failed=failed, version_read=version_read
    )
    return render(request, "rating/task.html", page)


@router.post("/rate/{slug}")
async def take_task(request: Request, slug: str, session: Session, rater: Rater) -> Response:
    """Take the next task, and go on to its page."""
    project = await get_project_for(session, rater, slug)
    page = await _take_next(session, project, rater)
    if page.lease or page.unread or page.failed:
        return see_other(request, f"/rate/{slug}")
    return render(request, "rating/task.html", page)  # nothing is left: that is known only now


@router.post("/rate/{slug}/next")
async def next_task(request: Request, slug: str, session: Session, rater: Rater) -> Response:
    """The same without the page around it, for a page that is there already."""
    project = await get_project_for(session, rater, slug)
    page = await _take_next(session, project, rater)
    return render(request, "rating/workspace.html", page)


@router.post("/rate/{slug}/prefetch")
async def prefetch(
    request: Request,
    slug: str,
    session: Session,
    rater: Rater,
    current: Annotated[uuid.UUID, Form()],
    guideline_version: Annotated[int | None, Form(ge=0, le=1_000_000)] = None,
    questions: Annotated[str | None, Form(max_length=64)] = None,
) -> Response:
    """The task after the one that is on the page, held for when that is done; 204 where there is none.

    The one on the page may have been prefetched itself, under other rules. Where something has come before
    it since (new guidelines, other questions, a pause, the test), the answer is what the page has to show
    in its stead, and says so by a header. A task in hand is finished under what was on the screen.
    """
    project = await get_project_for(session, rater, slug)
    unread = (
        await qualification.get_version_read(session, project, rater) < project.guideline_version
    )
    if await assign.is_waiting(session, project, current, rater):
        outdated = (
            unread
            or guideline_version not in (None, project.guideline_version)
            or questions not in (None, hash_questions(project.axes, project.flags))
        )
        # One that waits on has another task in hand before it: in another window, or refused.
        if outdated or not (
            await assign.promote(session, current, rater)
            or await assign.is_waiting(session, project, current, rater)
        ):
            page = await _take_next(session, project, rater)
            answer = render(request, "rating/workspace.html", page)
            answer.headers["Plackett-Replaces"] = str(current)
            return answer
    if unread:
        await session.commit()
        return Response(status_code=204)  # the new rules come first
    lease = await assign.lease_next_task(session, project, rater, prefetch=True)
    await session.commit()
    if lease is None or lease.assignment_id == current:
        return Response(status_code=204)
    page = await _task_page(session, project, rater, lease=lease)
    return render(request, "rating/workspace.html", page)


@router.get("/rate/{slug}/preview")
async def preview(
    request: Request,
    slug: str,
    session: Session,
    reader: Exporter,
    prompt: uuid.UUID | None = None,
) -> Response:
    """The ranking page as a rater sees it, of a task that nobody is handed: no script, and no form goes."""
    project = await get_project_for(session, reader, slug)
    lease = await assign.show_task(session, project, prompt)
    page = await _task_page(session, project, reader, lease=lease, preview=True)
    headers = {"Content-Security-Policy": ONLY_TO_LOOK_AT}
    return render(request, "rating/task.html", page, headers=headers)


@router.get("/rate/{slug}/guidelines")
async def guidelines(request: Request, slug: str, session: Session, rater: Rater) -> Response:
    """The newest guidelines."""
    project = await get_project_for(session, rater, slug)
    guideline = await get_guideline(session, project.id, project.guideline_version)
    page = GuidelinesPage(
        title=_("Guidelines"),
        project=project,
        guideline=guideline,
        views=await view_texts([guideline.text] if guideline else []),
    )
    return render(request, "rating/guidelines.html", page)


@router.post("/rate/{slug}/guidelines")
async def read_guidelines(
    request: Request,
    slug: str,
    session: Session,
    rater: Rater,
    version: Annotated[int, Form(ge=1, le=1_000_000)],
) -> Response:
    """Note that the rater has read this version."""
    project = await get_project_for(session, rater, slug)
    await qualification.read_guidelines(session, project, rater, version)
    await session.commit()
    return await _go_on(request, session, project, rater)


@router.post("/rate/assignments/{assignment_id}")
async def submit(
    request: Request, assignment_id: uuid.UUID, session: Session, rater: Rater
) -> Response:
    """Store the form's ranking."""
    given = read_form(await request.form())
    if given.rewrite:
        texts = await assign.get_texts(session, assignment_id, rater)
        given = restore_line_ends(given, texts.values())
    stored = await submit_ranking(session, assignment_id, rater, given)
    await session.commit()
    return await _stored(request, session, rater, stored)


async def _stored(request: Request, session: Session, rater: User, stored: RankingOut) -> Response:
    own = await history.get_own_ranking(session, rater, stored.id)
    project = await get_project_for(session, rater, own.project_slug)
    feedback = None
    if project.qualification_tasks and stored.assignment_id is not None:
        feedback = await qualification.get_feedback(session, project, rater, stored.assignment_id)
    if not _wants_json(request):
        return await _go_on(request, session, project, rater, _("Your ranking is stored."))
    feedback_html = None
    if feedback is not None:
        fragment = FeedbackFragment(title=_("Test"), feedback=feedback)
        feedback_html = bytes(render(request, "rating/feedback.html", fragment).body).decode()
    return JSONResponse(
        {
            "id": str(own.id),
            "order": own.recap,
            "changeable": own.open_until is not None,
            "feedback": feedback_html,
        }
    )


@router.post("/rate/assignments/{assignment_id}/skip")
async def skip(
    request: Request,
    assignment_id: uuid.UUID,
    session: Session,
    rater: Rater,
    reason: Annotated[str, Form()] = "",
    other: Annotated[str, Form()] = "",
) -> Response:
    """Give the task back."""
    slug = await assign.skip(session, assignment_id, rater, other.strip() or reason)
    await session.commit()
    if _wants_json(request):
        return JSONResponse({"skipped": True})
    project = await get_project_for(session, rater, slug)
    return await _go_on(request, session, project, rater, _("The task was skipped."))


@router.post("/rate/assignments/{assignment_id}/later")
async def put_off(
    request: Request, assignment_id: uuid.UUID, session: Session, rater: Rater
) -> Response:
    """Give the task back for now, with what was put down: it comes again after some others."""
    slug = await assign.put_off(session, assignment_id, rater)
    await session.commit()
    if _wants_json(request):
        return JSONResponse({"put_off": True})
    project = await get_project_for(session, rater, slug)
    return await _go_on(request, session, project, rater, _("You will get the task again."))


@router.post("/rate/assignments/{assignment_id}/note")
async def note(
    request: Request,
    assignment_id: uuid.UUID,
    session: Session,
    rater: Rater,
    kind: Annotated[str, Form()] = "",
    text: Annotated[str, Form()] = "",
) -> Response:
    """Tell the admins what is the matter with the task; it stays the rater's."""
    slug = await notes.create_note(session, assignment_id, rater, kind, text)
    await session.commit()
    if _wants_json(request):
        return JSONResponse({"noted": True})
    return see_other(request, f"/rate/{slug}", notice=_("The admins have your note."))


@router.get("/rate/assignments/{assignment_id}/difference")
async def difference(
    assignment_id: uuid.UUID,
    session: Session,
    rater: Rater,
    one: Annotated[uuid.UUID, Query()],
    other: Annotated[uuid.UUID, Query()],
) -> Response:
    """The words in which two of the task's responses differ."""
    texts = await assign.get_texts(session, assignment_id, rater)
    for name, candidate in (("one", one), ("other", other)):
        if candidate not in texts:
            raise InvalidInput("is not a candidate of this task", field=name)
    return await _difference(texts[one], texts[other])


@router.post("/rate/assignments/{assignment_id}/difference")
async def difference_of_rewrite(
    assignment_id: uuid.UUID,
    session: Session,
    rater: Rater,
    one: Annotated[uuid.UUID, Form()],
    text: Annotated[str, Form(max_length=LONGEST_COMPARED)] = "",
) -> Response:
    """The words in which the rater's own version differs from a response."""
    texts = await assign.get_texts(session, assignment_id, rater)
    if one not in texts:
        raise InvalidInput("is not a candidate of this task", field="one")
    return await _difference(texts[one], text.replace("\r\n", "\n"))


async def _difference(one: str, other: str) -> Response:
    # Long texts take a while; other requests go on meanwhile.
    return HTMLResponse(await asyncio.to_thread(mark_differences, one, other))


async def _take_next(session: Session, project: Project, rater: User) -> TaskPage:
    version_read = await qualification.get_version_read(session, project, rater)
    lease, failed = None, False
    if version_read >= project.guideline_version:
        try:
            lease = await assign.lease_next_task(session, project, rater)
        except NotAllowed:
            failed = True
        await session.commit()
    return await _task_page(
        session, project, rater, lease=lease, failed=failed, version_read=version_read
    )


async def _go_on(
    request: Request, session: Session, project: Project, rater: User, notice: str | None = None
) -> Response:
    """After a form that was sent without scripts: take the next task, and go on to its page."""
    with suppress(Unavailable):  # what was sent is stored; the page has a button that asks again
        await _take_next(session, project, rater)
    return see_other(request, f"/rate/{project.slug}", notice=notice)


async def _task_page(
    session: Session,
    project: Project,
    rater: User,
    *,
    lease: Lease | None,
    more: bool = False,
    changing: OwnRanking | None = None,
    failed: bool = False,
    version_read: int | None = None,
    preview: bool = False,
) -> TaskPage:
    guideline = await get_guideline(session, project.id, project.guideline_version)
    unread = version_read is not None and version_read < project.guideline_version
    texts = [guideline.text] if guideline else []
    if lease:
        texts += [message["content"] for message in lease.messages]
        texts += [candidate.text for candidate in lease.candidates]
    return TaskPage(
        title=project.name,
        project=project,
        lease=lease,
        more=more,
        unread=guideline if unread else None,
        version_read=version_read or 0,
        failed=failed,
        guideline=guideline,
        changing=changing,
        letters=LETTERS,
        views=await view_texts(texts),
        none_is_good=NONE_IS_GOOD,
        skip_reasons=list_skip_reasons(),
        note_kinds=list_note_kinds(),
        steps=list_steps(),
        roles=list_roles(),
        words=list_words(),
        today=await history.count_today(session, rater),
        preview=preview,
    )


def _wants_json(request: Request) -> bool:
    return request.headers.get("accept", "").startswith("application/json")
