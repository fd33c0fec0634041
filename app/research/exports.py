"""Exports: asking for one, following it, downloading its files."""

import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, TypedDict

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import FileResponse

from app.accounts.guards import Exporter, Researcher, Session, start_over
from app.accounts.models import Kind, User
from app.datasets import queries, service
from app.datasets.models import Export, ExportState
from app.datasets.schemas import SPLITS, ExportIn
from app.errors import InvalidInput, NotFound, PlackettError
from app.projects.models import Project
from app.projects.queries import get_project_by_id, list_projects_for
from app.projects.service import get_project_for
from app.web.errors import from_pydantic
from app.web.frame import enter
from app.web.markdown import View, view_texts
from app.web.pages import PageNumber, PageOf, see_other
from app.web.templates import PageContext, render

router = APIRouter(include_in_schema=False)

# Whose rankings, as the form calls them, and the shares that it begins with, in per cent.
KINDS = {Kind.PERSON: "Human", Kind.IMPORTED: "Imported", Kind.AI: "AI"}
SHARES = dict(zip(SPLITS, (80, 10, 10), strict=True))


class ExportForm(TypedDict):
    """The form as it was sent; shares are in per cent."""

    project: str
    name: str
    kinds: list[str]
    min_rankings: str
    train: str
    validation: str
    test: str
    seed: str
    extra: bool
    gold: bool


@dataclass(frozen=True, kw_only=True)
class ExportsPage(PageContext):
    """All exports, and the form for another."""

    exports: PageOf[tuple[Export, Project]]
    # The project whose exports alone are listed, if it is one's.
    only: Project | None
    projects: Sequence[Project]
    kinds: Mapping[Kind, str]
    shares: Mapping[str, int]
    values: Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class ExportPage(PageContext):
    """One export."""

    export: Export
    project: Project
    splits: Sequence[str]
    datasheet: View | None
    pending: bool


async def _exports_page(
    request: Request,
    session: Session,
    viewer: User,
    *,
    only: Project | None = None,
    page: int = 1,
    values: Mapping[str, object] | None = None,
    error: PlackettError | None = None,
) -> Response:
    rows = await queries.list_exports(
        session, viewer, project_id=only.id if only else None, limit=25, offset=(page - 1) * 25
    )
    context = ExportsPage(
        title="Exports",
        exports=PageOf(
            [(export, project) for export, project in rows],
            page,
            await queries.count_exports(session, viewer, only.id if only else None),
            25,
        ),
        only=only,
        projects=await list_projects_for(session, viewer),
        kinds=KINDS,
        shares=SHARES,
        values=values or {},
        error=error,
    )
    return render(request, "datasets/exports.html", context, status=error.status if error else 200)


@router.get("/research/exports")
async def exports_page(
    request: Request,
    session: Session,
    researcher: Researcher,
    page: PageNumber = 1,
    project: str = "",
) -> Response:
    """The list, of one project or of all."""
    only = await get_project_for(session, researcher, project) if project else None
    values = {"project": only.slug} if only else None
    return await _exports_page(request, session, researcher, only=only, page=page, values=values)


@router.post("/research/exports")
async def create_from_form(
    request: Request,
    session: Session,
    researcher: Researcher,
    project: Annotated[str, Form()],
    name: Annotated[str, Form()] = "export",
    kinds: Annotated[list[Kind] | None, Form()] = None,
    min_rankings: Annotated[str, Form()] = "1",
    train: Annotated[str, Form()] = "80",
    validation: Annotated[str, Form()] = "10",
    test: Annotated[str, Form()] = "10",
    seed: Annotated[str, Form()] = "0",
    extra: Annotated[bool, Form()] = False,
    gold: Annotated[bool, Form()] = False,
) -> Response:
    """Make an export from the form's fields; shares are in per cent."""
    values: ExportForm = {
        "project": project,
        "name": name,
        "kinds": [kind.value for kind in kinds or ()],
        "min_rankings": min_rankings,
        "train": train,
        "validation": validation,
        "test": test,
        "seed": seed,
        "extra": extra,
        "gold": gold,
    }
    try:
        wanted = _from_form(values)
        exported = await get_project_for(session, researcher, project)
        export = await service.request_export(session, exported, wanted, actor=researcher.id)
    except PlackettError as error:
        await start_over(session, researcher)
        return await _exports_page(request, session, researcher, values=values, error=error)
    await session.commit()
    return see_other(request, f"/research/exports/{export.id}")


def read_shares(percents: Sequence[str]) -> list[float]:
    """Shares that add up to 1, from per cents: 66.7, 16.7 and 16.7 are two thirds and two sixths.

    Raises ValueError for what is no number, and InvalidInput for a sum further from 100 than rounding to
    the digits given explains.
    """
    given = [float(percent) for percent in percents]
    total = sum(given)
    decimals = max(len(percent.strip().partition(".")[2]) for percent in percents)
    # Whole numbers were not rounded from anything: those add up.
    allowed = 0.5 * len(given) * 10.0**-decimals if decimals else 0.0
    if not abs(total - 100) <= allowed + 1e-9:
        raise InvalidInput(f"must add up to 100 %, and come to {total:g} %", field="split")
    return [share / total for share in given]


def _from_form(values: ExportForm) -> ExportIn:
    try:
        shares = read_shares([values["train"], values["validation"], values["test"]])
    except ValueError:
        raise InvalidInput("must be numbers, in per cent", field="split") from None
    filters = {
        "kinds": values["kinds"],
        "min_rankings": values["min_rankings"],
        "extra": values["extra"],
        "gold": values["gold"],
    }
    with from_pydantic():
        return ExportIn.model_validate(
            {
                "name": values["name"],
                "filters": filters,
                "split": {**dict(zip(SPLITS, shares, strict=True)), "seed": values["seed"]},
            }
        )


@router.get("/research/exports/{export_id}")
async def export_page(
    request: Request, export_id: uuid.UUID, session: Session, researcher: Researcher
) -> Response:
    """One export; while it is pending the page asks again."""
    export = await service.get_export_for(session, researcher, export_id)
    project = await get_project_by_id(session, export.project_id)
    enter(request, project.slug, project.name)
    sheet = None
    if export.state is ExportState.READY:
        with suppress(NotFound):
            text = service.find_file(export, "datasheet.md").read_text()
            sheet = (await view_texts([text]))[text]
    context = ExportPage(
        title=export.name,
        export=export,
        project=project,
        splits=SPLITS,
        datasheet=sheet,
        pending=export.state is ExportState.PENDING,
    )
    return render(request, "datasets/export.html", context)


@router.get("/research/exports/{export_id}/files/{name}")
async def download(
    export_id: uuid.UUID, name: str, session: Session, exporter: Exporter
) -> FileResponse:
    """A file, for a signed-in browser."""
    export = await service.get_export_for(session, exporter, export_id)
    path = service.find_file(export, name)
    return FileResponse(path, filename=f"{export.name}-{name}")
