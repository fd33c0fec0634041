"""Importing files, from the command line."""

from collections.abc import Iterable
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import InvalidInput
from app.prompts.files import list_files
from app.prompts.limits import Limits
from app.prompts.mapping import load_mapping
from app.prompts.parse import PromptRow, RowError
from app.prompts.reading import Reading, count_like, read_file
from app.prompts.schemas import ImportReport, RowErrorOut
from app.settings import get_settings
from app.terminal import Json, Slug, say, with_session

SHOWN_ROWS = 3
SHOWN_LINES = 5


def import_files(
    slug: Slug,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="JSONL, JSON, CSV, TSV or Parquet, packed by gzip or zstd or not; a folder of them.",
        ),
    ],
    generate: Annotated[
        int | None, typer.Option(min=2, max=9, help="Candidates to write for each prompt.")
    ] = None,
    policy: Annotated[
        list[str] | None, typer.Option(help="A policy to write them, once for each.")
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="The files' layout; else it is recognised by its columns.")
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="A TOML file that says which columns are what.")
    ] = None,
    extra: Annotated[
        Literal["keep", "refuse"],
        typer.Option(
            help="What to do with columns of no layout: keep them as metadata, or refuse."
        ),
    ] = "refuse",
    rank_by: Annotated[
        str | None, typer.Option(help="The score that ranks, of a layout that brings scores.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the first rows and count the rest; store nothing."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring prompts, candidates and rankings into a project, each file as an import of its own.

    Example: plackett import stories prompts.jsonl --generate 4
    """
    limits = Limits.of(get_settings())
    if mapping is not None and layout is not None:
        raise InvalidInput("does not go together with --layout", field="--mapping")
    read_as = load_mapping(mapping) if mapping is not None else layout
    paths = [path for each in files for path in list_files(each)]
    readings = [
        Reading(limits=limits, layout=read_as, keep_extra=extra == "keep", rank_by=rank_by)
        for _ in paths
    ]
    if dry_run:
        for path, reading in zip(paths, readings, strict=True):
            _show(path, reading, as_json)
        return
    reports = []
    for path, reading in zip(paths, readings, strict=True):
        report = _bring_in(slug, path, reading, generate, tuple(policy or ()))
        reports.append(report)
        say("\n".join(_tell(path, report)), report.model_dump(exclude_none=True), as_json)
    _complain(list(zip(paths, reports, strict=True)))


def _bring_in(
    slug: str, path: Path, reading: Reading, generate: int | None, policies: tuple[str, ...]
) -> ImportReport:
    from app.intake.service import import_prompts
    from app.projects.service import get_project

    async def work(session: AsyncSession) -> ImportReport:
        project = await get_project(session, slug)
        rows = read_file(path, reading)
        return await import_prompts(
            session,
            project,
            rows,
            source=path.name,
            actor=None,
            wanted=generate,
            policies=policies,
        )

    report = with_session(work)
    report.notes = reading.notes or None
    return report


def _tell(path: Path, report: ImportReport) -> list[str]:
    return [
        *(f"{path.name}: {note}." for note in report.notes or ()),
        f"{report.accepted} accepted, {report.duplicates} there already, "
        f"{len(report.rejected)} rejected.",
        *_tell_wrong(report.rejected),
    ]


def _tell_wrong(wrong: Iterable[RowErrorOut | RowError]) -> list[str]:
    told = []
    for field, message, lines in count_like(wrong):
        where = ", ".join(str(line) for line in lines[:SHOWN_LINES])
        where += ", …" if len(lines) > SHOWN_LINES else ""
        rows = f"line {where}" if len(lines) == 1 else f"{len(lines)} rows (lines {where})"
        told.append(f"{rows}, {field}: {message}")
    return told


def _complain(reports: list[tuple[Path, ImportReport]]) -> None:
    """End in an error where rows stayed out, which names the first."""
    wrong = [(path, each) for path, report in reports for each in report.rejected]
    if not wrong:
        return
    total = sum(report.accepted + report.duplicates + len(report.rejected) for _, report in reports)
    path, first = wrong[0]
    raise InvalidInput(
        f"{len(wrong)} of {total} rows were not imported; the first: {first.field}: {first.message}",
        field=f"{path}:{first.line}",
    )


def _show(path: Path, reading: Reading, as_json: bool) -> None:
    """What an import of this file would store: its first rows, and how many there are of each kind."""
    rows = read_file(path, reading)
    first: list[PromptRow] = []
    wrong: list[RowError] = []
    right = ranked = 0
    for row in rows:
        if isinstance(row, RowError):
            wrong.append(row)
            continue
        right += 1
        ranked += row.ranks is not None
        if len(first) < SHOWN_ROWS:
            first.append(row)
    shown = [
        {name: value for name, value in asdict(row).items() if value not in (None, [], {})}
        for row in islice(first, SHOWN_ROWS)
    ]
    lines = [
        *(f"{path.name}: {note}." for note in reading.notes),
        *(f"line {row['line']}: {row}" for row in shown),
        f"{right} rows could be imported, {ranked} of them with ranks; {len(wrong)} could not. "
        "Nothing was stored.",
        *_tell_wrong(wrong),
    ]
    report = {
        "rows": right,
        "ranked": ranked,
        "rejected": [asdict(each) for each in wrong],
        "first": shown,
        "notes": reading.notes,
    }
    say("\n".join(lines), report, as_json)
