"""The rater's pages: where to rate, the ranking page, guidelines, and one's own work."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse
from starlette.datastructures import FormData

from app.accounts.guards import Rater, Session
from app.accounts.models import User
from app.errors import InvalidInput
from app.projects.models import Guideline, Project
from app.projects.queries import get_guideline
from app.projects.service import get_project
from app.rating import history, queries, service
from app.rating.judgement import LETTERS
from app.rating.models import Assignment
from app.rating.schemas import Lease, OwnRanking, RankingIn
from app.web.errors import from_pydantic
from app.web.pages import PageNumber, PageOf, is_htmx, see_other
from app.web.templates import PageContext, render

router = APIRouter(include_in_schema=False)

RANKS = frozenset("123456789")
SKIP_REASONS = (
    "I cannot judge this subject",
    "It is not in a language that I read",
    "The responses cannot be compared",
    "It disturbs me",
)


@dataclass(frozen=True, kw_only=True)
class HomePage(PageContext):
    """Where there is work: (project, tasks left, own rankings, whether a task is held)."""

    rows: Sequence[Any]


@dataclass(frozen=True, kw_only=True)
class TaskPage(PageContext):
    """The ranking page: a task, or the news that none is left."""

    project: Project
    lease: Lease | None
    letters: str
    guideline: Guideline | None
    skip_reasons: Sequence[str]
    # What was stored a moment ago, in letters.
    recap: str | None
    recap_id: uuid.UUID | None
    today: int
    fragment: bool


@dataclass(frozen=True, kw_only=True)
class GuidelinesPage(PageContext):
    """A project's guidelines, for reading at length."""

    project: Project
    guideline: Guideline | None


@dataclass(frozen=True, kw_only=True)
class HistoryPage(PageContext):
    """A rater's own work."""

    rankings: PageOf[OwnRanking]
    total: int
    today: int
    minutes_today: float


@dataclass(frozen=True, kw_only=True)
class OwnRankingPage(PageContext):
    """One ranking of one's own."""

    ranking: OwnRanking


@router.get("/rate")
async def home(request: Request, session: Session, rater: Rater) -> Response:
    """Choose a project; straight on where there is only one with work."""
    rows = await queries.list_projects_with_work(session, rater.id)
    with_work = [row for row in rows if row.left or row.held]
    if len(with_work) == 1:
        return RedirectResponse(f"/rate/{with_work[0].Project.slug}", status_code=303)
    return render(request, "rating/home.html", HomePage(title="Rate", rows=rows))


@router.get("/rate/history")
async def own_work(
    request: Request, session: Session, rater: Rater, page: PageNumber = 1
) -> Response:
    """One's own rankings, the newest first."""
    size = 20
    total, today, seconds = await history.get_totals(session, rater)
    rows = await history.list_own_rankings(session, rater, limit=size, offset=(page - 1) * size)
    context = HistoryPage(
        title="My work",
        rankings=PageOf(rows, page, total, size),
        total=total,
        today=today,
        minutes_today=seconds / 60,
    )
    return render(request, "rating/history.html", context)


@router.get("/rate/history/{ranking_id}")
async def own_ranking_page(
    request: Request, ranking_id: uuid.UUID, session: Session, rater: Rater
) -> Response:
    """One ranking, as it was given."""
    ranking = await history.get_own_ranking(session, rater, ranking_id)
    page = OwnRankingPage(title="My ranking", ranking=ranking)
    return render(request, "rating/own_ranking.html", page)


@router.get("/rate/{slug}")
async def task(request: Request, slug: str, session: Session, rater: Rater) -> Response:
    """The rater's task in a project."""
    project = await get_project(session, slug)
    return await _next_task(request, session, project, rater)


@router.get("/rate/{slug}/guidelines")
async def guidelines(request: Request, slug: str, session: Session, _: Rater) -> Response:
    """The newest guidelines."""
    project = await get_project(session, slug)
    page = GuidelinesPage(
        title="Guidelines",
        project=project,
        guideline=await get_guideline(session, project.id, project.guideline_version),
    )
    return render(request, "rating/guidelines.html", page)


@router.post("/rate/assignments/{assignment_id}")
async def submit(
    request: Request, assignment_id: uuid.UUID, session: Session, rater: Rater
) -> Response:
    """Store the form's ranking, and go on to the next task."""
    given = read_form(await request.form())
    stored = await service.submit_ranking(session, assignment_id, rater, given)
    await session.commit()
    assignment = await session.get_one(Assignment, assignment_id)
    project = await session.get_one(Project, assignment.project_id)
    if not is_htmx(request):
        return see_other(request, f"/rate/{project.slug}", notice="Your ranking is stored.")
    own = await history.get_own_ranking(session, rater, stored.id)
    return await _next_task(request, session, project, rater, recap=own)


@router.post("/rate/assignments/{assignment_id}/skip")
async def skip(
    request: Request,
    assignment_id: uuid.UUID,
    session: Session,
    rater: Rater,
    reason: Annotated[str, Form()] = "",
    other: Annotated[str, Form()] = "",
) -> Response:
    """Give the task back, and go on to the next one."""
    await service.skip(session, assignment_id, rater, other.strip() or reason)
    await session.commit()
    assignment = await session.get_one(Assignment, assignment_id)
    project = await session.get_one(Project, assignment.project_id)
    if not is_htmx(request):
        return see_other(request, f"/rate/{project.slug}", notice="The task was skipped.")
    return await _next_task(request, session, project, rater)


async def _next_task(
    request: Request,
    session: Session,
    project: Project,
    rater: User,
    *,
    recap: OwnRanking | None = None,
) -> Response:
    lease = await service.lease_next_task(session, project, rater)
    await session.commit()
    _, today, _ = await history.get_totals(session, rater)
    page = TaskPage(
        title=project.name,
        project=project,
        lease=lease,
        letters=LETTERS,
        guideline=await get_guideline(session, project.id, project.guideline_version),
        skip_reasons=SKIP_REASONS,
        recap=recap.recap if recap else None,
        recap_id=recap.id if recap else None,
        today=today,
        fragment=is_htmx(request),
    )
    name = "rating/workspace.html" if is_htmx(request) else "rating/task.html"
    return render(request, name, page)


def read_form(form: FormData) -> RankingIn:
    """The ranking in a form: rank-ID, axis-NAME, flags, rationale, rewrite, seconds.

    Raises InvalidInput for a card without a rank, or anything that is no number.
    """
    ranks: dict[str, Any] = {}
    axes: dict[str, Any] = {}
    for name, value in form.items():
        if name.startswith("rank-"):
            # Nine candidates at most: one digit of the ten, not what else Unicode calls a digit.
            if value not in RANKS:
                raise InvalidInput("Every response needs a place before you submit", place="ranks")
            ranks[name.removeprefix("rank-")] = int(str(value))
        elif name.startswith("axis-") and value != "":
            axes[name.removeprefix("axis-")] = value
    used = sorted(set(ranks.values()))
    with from_pydantic():
        return RankingIn.model_validate(
            {
                # Places without a gap: 1, 3, 3 is 1, 2, 2.
                "ranks": {each: used.index(rank) + 1 for each, rank in ranks.items()},
                "axes": axes,
                "flags": [str(flag) for flag in form.getlist("flags")],
                "rationale": _text(form.get("rationale")),
                "rewrite": _text(form.get("rewrite")),
                "seconds": form.get("seconds") or None,
            }
        )


def _text(value: Any) -> str | None:
    # Browsers send CRLF for a line's end.
    return str(value).replace("\r\n", "\n").strip() or None if value else None
