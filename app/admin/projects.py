"""All projects, a new one, one at a look, and its settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Form, Request, Response
from starlette.datastructures import FormData

from app.accounts.guards import Admin, Researcher, Session, start_over
from app.accounts.models import User
from app.admin.tabs import TABS, ProjectPage
from app.errors import InvalidInput, PlackettError
from app.generation.service import enqueue_waiting
from app.policies import queries as policy_queries
from app.policies import service as policies
from app.policies.models import Backend, Policy
from app.projects import queries, service
from app.projects.models import Guideline, Project
from app.projects.schemas import ProjectIn
from app.rating import history, upkeep
from app.rating.schemas import Progress
from app.web.errors import from_pydantic
from app.web.markdown import Views, view_texts
from app.web.pages import is_htmx, see_other
from app.web.templates import PageContext, render

router = APIRouter(include_in_schema=False)

# Empty rows that the settings' form offers beyond those that are filled.
SPARE_ROWS = 3


@dataclass(frozen=True, kw_only=True)
class ProjectsPage(PageContext):
    """All projects with their counts."""

    rows: Sequence[tuple[Project, Progress]]


@dataclass(frozen=True, kw_only=True)
class OverviewPage(ProjectPage):
    """One project at a look."""

    progress: Progress
    left_over: upkeep.LeftOver
    skip_reasons: Sequence[upkeep.Count]
    flag_counts: Sequence[upkeep.Count]


@dataclass(frozen=True, kw_only=True)
class SettingsPage(PageContext):
    """The form of a new project, or of one's settings."""

    project: Project | None
    tab: str
    tabs: Mapping[str, str]
    values: Mapping[str, object]
    policies: Sequence[Policy]
    spare: int
    guidelines: Sequence[Guideline]
    overlaps: upkeep.OtherOverlaps
    views: Views


@router.get("/admin/projects")
async def projects_page(request: Request, session: Session, reader: Researcher) -> Response:
    """The projects that the reader sees."""
    listed = await queries.list_projects_for(session, reader)
    rows = [(project, await history.get_progress(session, project)) for project in listed]
    await session.commit()
    return render(request, "projects/list.html", ProjectsPage(title="Projects", rows=rows))


@router.get("/admin/projects/new")
async def new_project(request: Request, session: Session, admin: Admin) -> Response:
    """The form of a new project."""
    blank = ProjectIn(slug="new", name="New").model_dump() | {
        "slug": "",
        "name": "",
        "members_only": True,
    }
    return await _settings_page(request, session, admin, None, blank)


@router.post("/admin/projects/new")
async def create(request: Request, session: Session, admin: Admin) -> Response:
    """Make a project from the form."""
    values = read_settings(await request.form())
    try:
        wanted = read_wanted(values)
        project = await service.create_project(session, wanted, actor=admin.id)
        await policies.set_policies_by_name(session, project, wanted.policies, actor=admin.id)
    except PlackettError as error:
        await start_over(session, admin)
        return await _settings_page(request, session, admin, None, values, error=error)
    await session.commit()
    return see_other(
        request, f"/admin/projects/{project.slug}/prompts", notice="The project is there."
    )


@router.get("/admin/projects/{slug}")
async def overview(request: Request, slug: str, session: Session, reader: Researcher) -> Response:
    """One project; htmx asks again for the counts alone."""
    project = await service.get_project_for(session, reader, slug)
    page = OverviewPage(
        title=project.name,
        project=project,
        tab="overview",
        progress=await history.get_progress(session, project),
        left_over=await upkeep.count_left_over(session, project.id),
        skip_reasons=await upkeep.list_skip_reasons(session, project.id),
        flag_counts=await upkeep.list_flag_counts(session, project.id),
    )
    await session.commit()
    name = "counts" if is_htmx(request) else "overview"
    return render(request, f"projects/{name}.html", page)


@router.post("/admin/projects/{slug}/pause")
async def pause(
    request: Request, slug: str, session: Session, admin: Admin, paused: Annotated[bool, Form()]
) -> Response:
    """Stop handing out tasks and writing candidates, or go on."""
    project = await service.get_project(session, slug)
    await service.set_paused(session, project, paused, actor=admin.id)
    if not paused:
        await enqueue_waiting(session, project.id)
    await session.commit()
    notice = "The project is paused." if paused else "The project goes on."
    return see_other(request, f"/admin/projects/{slug}", notice=notice)


@router.post("/admin/projects/{slug}/skipped")
async def act_on_skipped(
    request: Request,
    slug: str,
    session: Session,
    admin: Admin,
    action: Annotated[Literal["retire", "reopen"], Form()],
) -> Response:
    """Retire the tasks that every rater has skipped, or offer them to everybody again."""
    project = await service.get_project(session, slug)
    act = upkeep.retire_skipped if action == "retire" else upkeep.reopen_skipped
    tasks = await act(session, project, actor=admin.id)
    await session.commit()
    done = "retired" if action == "retire" else "offered again"
    notice = f"{tasks:,} task{'' if tasks == 1 else 's'} {done}."
    return see_other(request, f"/admin/projects/{slug}", notice=notice)


@router.post("/admin/projects/{slug}/overlap")
async def raise_overlap(request: Request, slug: str, session: Session, admin: Admin) -> Response:
    """Let the tasks that there are ask as many raters as the settings say now."""
    project = await service.get_project(session, slug)
    tasks = await upkeep.raise_overlap(session, project, actor=admin.id)
    await session.commit()
    notice = f"{tasks:,} task{'' if tasks == 1 else 's'} raised to {project.overlap} raters."
    return see_other(request, f"/admin/projects/{slug}/settings", notice=notice)


async def _settings_page(
    request: Request,
    session: Session,
    viewer: User,
    project: Project | None,
    values: Mapping[str, object],
    *,
    error: PlackettError | None = None,
) -> Response:
    guidelines = await queries.list_guidelines(session, project.id) if project else []
    page = SettingsPage(
        title=project.name if project else "New project",
        project=project,
        tab="settings",
        tabs=TABS,
        values=values,
        policies=[
            policy
            for policy in await policy_queries.list_policies_for(session, viewer)
            if policy.backend is not Backend.IMPORTED and policy.retired_at is None
        ],
        spare=SPARE_ROWS,
        guidelines=guidelines,
        overlaps=await upkeep.count_other_overlaps(session, project.id)
        if project
        else upkeep.OtherOverlaps(0, 0),
        views=await view_texts(old.text for old in guidelines[1:]),
        error=error,
    )
    return render(request, "projects/settings.html", page, status=error.status if error else 200)


@router.get("/admin/projects/{slug}/settings")
async def settings(request: Request, slug: str, session: Session, admin: Admin) -> Response:
    """A project's settings."""
    project = await service.get_project(session, slug)
    serving = await policy_queries.list_project_policies(session, project.id)
    newest = await queries.get_guideline(session, project.id, project.guideline_version)
    values = {name: getattr(project, name) for name in service.CHANGEABLE} | {
        "slug": project.slug,
        "policies": [policy.name for policy in serving],
        "guidelines": newest.text if newest else "",
    }
    return await _settings_page(request, session, admin, project, values)


@router.post("/admin/projects/{slug}/settings")
async def change(request: Request, slug: str, session: Session, admin: Admin) -> Response:
    """Change a project's settings; new guidelines become a new version."""
    project = await service.get_project(session, slug)
    values = read_settings(await request.form()) | {"slug": slug}
    try:
        wanted = read_wanted(values)
        await service.update_project(session, project, wanted, actor=admin.id)
        chosen = [await policies.get_policy(session, name) for name in wanted.policies]
        serving = await policy_queries.list_project_policies(session, project.id)
        if {policy.id for policy in chosen} != {policy.id for policy in serving}:
            await policies.set_project_policies(session, project, chosen, actor=admin.id)
            await enqueue_waiting(session, project.id)  # prompts may have waited for a policy
    except PlackettError as error:
        await start_over(session, admin)
        project = await service.get_project(session, slug)
        return await _settings_page(request, session, admin, project, values, error=error)
    await session.commit()
    return see_other(request, f"/admin/projects/{slug}/settings", notice="The settings are saved.")


# What the form asks for in other units than it is stored in.
UNITS = {
    "lease_seconds": "must be between 1 second and 10,080 minutes (a week)",
    "edit_seconds": "must be between 0 and 10,080 minutes (a week)",
    "gold_rate": "must be between 0 and 100 %",
    "qualification_accuracy": "must be between 0 and 100 %",
}


def read_wanted(values: Mapping[str, object]) -> ProjectIn:
    """The settings that the form asks for. Raises InvalidInput, in the form's units."""
    try:
        with from_pydantic():
            return ProjectIn.model_validate(values)
    except InvalidInput as error:
        if error.field in UNITS:
            raise InvalidInput(UNITS[error.field], field=error.field) from None
        raise


def read_settings(form: FormData) -> dict[str, object]:
    """The form's fields in the shape of `ProjectIn`; empty rows of axes and flags are left out."""
    axes = [
        {"name": name, "question": question, "min": low or 1, "max": high or 5, "per": per}
        for name, question, low, high, per in zip(
            *(form.getlist(f"axis_{part}") for part in ("name", "question", "min", "max", "per")),
            strict=True,
        )
        if name
    ]
    flags = [
        {"name": name, "label": label}
        for name, label in zip(form.getlist("flag_name"), form.getlist("flag_label"), strict=True)
        if name
    ]
    return {
        "slug": str(form.get("slug") or ""),
        "name": str(form.get("name") or ""),
        "description": str(form.get("description") or "").replace("\r\n", "\n"),
        "candidates_per_task": form.get("candidates_per_task"),
        "overlap": form.get("overlap"),
        "lease_seconds": _seconds(form.get("lease_minutes") or "30"),
        "edit_seconds": _seconds(form.get("edit_minutes") or "0"),
        "gold_rate": _share(form.get("gold_percent") or "0"),
        "qualification_tasks": form.get("qualification_tasks") or 0,
        "qualification_accuracy": _share(form.get("qualification_percent") or "0"),
        "first_view": form.get("first_view") or "rendered",
        "require_seen": "require_seen" in form,
        "show_gold_results": "show_gold_results" in form,
        "axes": axes,
        "flags": flags,
        "sampling": {name: form.get(name) for name in ("temperature", "top_p", "max_new_tokens")},
        "guidelines": str(form.get("guidelines") or "").replace("\r\n", "\n").strip() or None,
        "members_only": form.get("members_only") == "true",
        "policies": [str(name) for name in form.getlist("policies")],
    }


def _seconds(minutes: object) -> object:
    return round(float(str(minutes)) * 60) if _is_number(str(minutes)) else minutes


def _share(percent: object) -> object:
    return float(str(percent)) / 100 if _is_number(str(percent)) else percent


def _is_number(text: str) -> bool:
    try:
        return 0 <= float(text) < 1e6
    except ValueError:
        return False
