"""Training runs: starting one, following its curves, reading its result."""

import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse

from app.accounts.guards import Researcher, Session, start_over
from app.accounts.models import User
from app.datasets.models import Export, ExportState
from app.datasets.queries import list_exports
from app.datasets.service import get_export, get_export_for
from app.errors import NotFound, PlackettError
from app.policies.models import Backend, Policy
from app.policies.queries import get_policy_by_id, list_policies_for
from app.projects.models import Project
from app.projects.queries import get_project_by_id, list_projects_for
from app.projects.service import get_project_for
from app.training import queries, service
from app.training.catalogue import Catalogue, CommonFlag, list_common_flags, list_stages
from app.training.models import REWARD, CurveEntry, Run, RunState
from app.training.schemas import LineNumber, RunIn
from app.web.errors import from_pydantic
from app.web.frame import enter
from app.web.pages import PageNumber, PageOf, see_other
from app.web.templates import PageContext, render

router = APIRouter(include_in_schema=False)

LOG_LINES = 40

Figure = int | float | str | bool


@dataclass(frozen=True, kw_only=True)
class RunsPage(PageContext):
    """All runs, and the form for another."""

    runs: PageOf[tuple[Run, Project]]
    # The project whose runs alone are listed, if it is one's.
    only: Project | None
    projects: Sequence[Project]
    exports: Sequence[tuple[Export, Project]]
    policies: Sequence[Policy]
    rewards: Sequence[tuple[Run, Project]]
    stages: Catalogue
    common_flags: Sequence[CommonFlag]
    # Titles of the stages that need a reward model.
    need_reward: Sequence[str]
    writes: Mapping[str, str]
    values: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class RunPage(PageContext):
    """One run."""

    run: Run
    project: Project
    export: Export
    base: Policy
    policy: Policy | None
    log: str
    live: bool
    figures: Sequence[tuple[str, Figure]]
    slices: Sequence[tuple[str, dict[str, object]]]
    curves: Sequence[CurveEntry]
    report: bool  # whether the trainer's own can be shown
    settings: Sequence[tuple[str, str]]
    # Names of those that were chosen for this run.
    chosen: Collection[str]
    writes: str


async def _runs_page(
    request: Request,
    session: Session,
    viewer: User,
    *,
    only: Project | None = None,
    page: int = 1,
    values: Mapping[str, str] | None = None,
    error: PlackettError | None = None,
) -> Response:
    stages = await list_stages()
    rows = await queries.list_runs(
        session, viewer, project_id=only.id if only else None, limit=25, offset=(page - 1) * 25
    )
    exports = await list_exports(session, viewer, limit=100)
    context = RunsPage(
        title="Runs",
        runs=PageOf(
            [(run, project) for run, project in rows],
            page,
            await queries.count_runs_for(session, viewer, only.id if only else None),
            25,
        ),
        only=only,
        projects=await list_projects_for(session, viewer),
        exports=[(export, each) for export, each in exports if export.state is ExportState.READY],
        policies=[
            policy
            for policy in await list_policies_for(session, viewer)
            if policy.backend is Backend.TRANSFORMERS and policy.retired_at is None
        ],
        rewards=[
            (run, project) for run, project in await queries.list_reward_runs(session, viewer)
        ],
        stages=stages,
        common_flags=list_common_flags(stages),
        need_reward=[stage.title for stage in stages.values() if REWARD in stage.needs],
        writes=WRITES,
        values=values or {},
        error=error,
    )
    return render(request, "training/runs.html", context, status=error.status if error else 200)


@router.get("/research/runs")
async def runs_page(
    request: Request,
    session: Session,
    researcher: Researcher,
    page: PageNumber = 1,
    export: str = "",
    project: str = "",
) -> Response:
    """The list, of one project or of all; the form is filled in for an export that a link names."""
    only = await get_project_for(session, researcher, project) if project else None
    values = {"project": only.slug} if only else None
    if export:
        values = await _values_for(session, researcher, export)
    return await _runs_page(request, session, researcher, only=only, page=page, values=values)


async def _values_for(session: Session, viewer: User, export: str) -> dict[str, str]:
    """An export and its project, for the form. Raises NotFound."""
    try:
        chosen = await get_export_for(session, viewer, uuid.UUID(export))
    except ValueError:
        raise NotFound("There is no such export", field="export") from None
    project = await get_project_by_id(session, chosen.project_id)
    return {"export": str(chosen.id), "project": project.slug, "writes": "beside"}


@router.post("/research/runs")
async def start_from_form(request: Request, session: Session, researcher: Researcher) -> Response:
    """Start a run from the form's fields; empty ones are left to the trainer."""
    form = {name: str(value) for name, value in (await request.form()).items()}
    try:
        wanted = _from_form(form, await list_stages())
        project = await get_project_for(session, researcher, form.get("project", ""))
        run = await service.start_run(
            session, project, wanted, actor=researcher.id, viewer=researcher
        )
    except PlackettError as error:
        await start_over(session, researcher)
        return await _runs_page(request, session, researcher, values=form, error=error)
    await session.commit()
    return see_other(request, f"/research/runs/{run.id}")


def _from_form(form: dict[str, str], stages: Catalogue) -> RunIn:
    names = {flag.name for flag in list_common_flags(stages)}
    given = {name: form[name] for name in sorted(names) if form.get(name, "").strip()}
    chosen = {name: form[name] for name in ("export", "policy", "reward", "name") if form.get(name)}
    stage = stages.get(form.get("stage", ""))
    if stage is not None and REWARD not in stage.needs:
        chosen.pop("reward", None)  # the form offers one to every stage
    with from_pydantic():
        return RunIn.model_validate(
            {
                **chosen,
                "stage": form.get("stage"),
                "config": given,
                **as_writer(form.get("writes", "")),
            }
        )


# What becomes of the policy that a run makes, as the form says it, and as a run is asked for.
WRITES = {
    "beside": "Writes beside the one it started from: tasks pit the two against each other",
    "instead": "Writes instead of the one it started from",
    "not": "Writes nothing yet: it goes into the registry alone",
}


def as_writer(writes: str) -> dict[str, bool]:
    """The choice of the form, as the run's settings have it."""
    return {"serve": writes != "not", "replace": writes == "instead"}


@router.get("/research/runs/{run_id}")
async def run_page(
    request: Request, run_id: uuid.UUID, session: Session, researcher: Researcher
) -> Response:
    """One run; while it is under way the page follows it."""
    run = await service.get_run_for(session, researcher, run_id)
    project = await get_project_by_id(session, run.project_id)
    enter(request, project.slug, project.name)
    context = RunPage(
        title=f"{run.title} run",
        run=run,
        project=project,
        export=await get_export(session, run.export_id),
        base=await get_policy_by_id(session, run.base_policy_id),
        policy=await get_policy_by_id(session, run.policy_id) if run.policy_id else None,
        log=read_log(run),
        live=run.state in (RunState.QUEUED, RunState.RUNNING),
        figures=list_figures(run.result or {}),
        slices=list_slices(run.result or {}),
        curves=run.catalogue.get("curves") or [],
        report=find_report(run) is not None,
        settings=list_settings(run),
        chosen={name.replace("-", "_") for name in run.config.get("flags", {})},
        writes=tell_writes(run),
    )
    return render(request, "training/run.html", context)


@router.get("/research/runs/{run_id}/report")
async def report_page(run_id: uuid.UUID, session: Session, researcher: Researcher) -> Response:
    """The trainer's own report, as it wrote it: shown apart, where it can reach nothing of ours."""
    report = find_report(await service.get_run_for(session, researcher, run_id))
    if report is None:
        raise NotFound("The run has no report, or not on this machine", field="run")
    policy = "sandbox; default-src 'none'; style-src 'unsafe-inline'"
    return FileResponse(report, media_type="text/html", headers={"Content-Security-Policy": policy})


@router.get("/research/runs/{run_id}/metrics")
async def metrics_for_page(
    run_id: uuid.UUID, session: Session, researcher: Researcher, after: LineNumber = -1
) -> list[dict[str, object]]:
    """The metrics, for a signed-in browser's curves."""
    run = await service.get_run_for(session, researcher, run_id)
    return [metric.data for metric in await service.list_metrics(session, run, after=after)]


@router.post("/research/runs/{run_id}/cancel")
async def cancel_from_form(
    request: Request, run_id: uuid.UUID, session: Session, researcher: Researcher
) -> Response:
    """Ask the run to stop."""
    run = await service.get_run_for(session, researcher, run_id)
    await service.request_cancel(session, run, actor=researcher.id)
    await session.commit()
    return see_other(request, f"/research/runs/{run.id}", notice="The run has been told to stop.")


def list_settings(run: Run) -> list[tuple[str, str]]:
    """The settings in force, by name; before the run has begun, those that were chosen for it."""
    flags = {name.replace("-", "_"): value for name, value in run.config.get("flags", {}).items()}
    return [
        (name, tell(value)) for name, value in sorted(run.config.get("in_force", flags).items())
    ]


def tell(value: object) -> str:
    """A setting's value, for people."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(tell, value)) or "–"
    return json.dumps(value) if isinstance(value, dict) else str(value)


def tell_writes(run: Run) -> str:
    """What becomes of the run's policy, for people; nothing of a reward model."""
    if run.makes_reward_model:
        return ""
    if not run.config.get("serve", True):
        return WRITES["not"]
    return WRITES["instead" if run.config.get("replace", False) else "beside"]


def find_report(run: Run) -> Path | None:
    """The run's report.html, where this machine has it."""
    file = Path(run.path or "") / "report.html"
    return file if run.path and file.is_file() else None


def read_log(run: Run) -> str:
    """The end of the trainer's own log, where this machine has it."""
    path = Path(run.path or "") / "trainer.log"
    if not run.path or not path.is_file():
        return ""
    return "\n".join(path.read_text(errors="replace").splitlines()[-LOG_LINES:])


def list_figures(result: dict[str, object]) -> list[tuple[str, Figure]]:
    """A result's plain figures, flattened: (`test.accuracy`, 0.78)."""
    figures: list[tuple[str, Figure]] = []
    for name, value in result.items():
        if name == "slices":  # tables of their own
            continue
        if isinstance(value, dict):
            figures += [(f"{name}.{inner}", each) for inner, each in list_figures(value)]
        elif isinstance(value, int | float | str | bool):  # None: nothing to measure it on
            figures.append((name, value))
    return figures


def list_slices(result: dict[str, object]) -> list[tuple[str, dict[str, object]]]:
    """A reward model's accuracy on the test split (or validation), by rater, policies, length and axis."""
    figures = result.get("test") or result.get("validation")
    slices = figures.get("slices") if isinstance(figures, dict) else None
    return list(slices.items()) if isinstance(slices, dict) else []
