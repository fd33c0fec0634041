"""Importing a file, from the command line."""

from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import InvalidInput
from app.prompts.schemas import ImportReport
from app.settings import get_settings
from app.terminal import Json, Slug, say, with_session


def import_file(
    slug: Slug,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSONL, CSV or Parquet.")],
    generate: Annotated[
        int | None, typer.Option(min=2, max=9, help="Candidates to write for each prompt.")
    ] = None,
    policy: Annotated[
        list[str] | None, typer.Option(help="A policy to write them, once for each.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Bring prompts, candidates and rankings into a project.

    Example: plackett import stories prompts.jsonl --generate 4
    """
    from app.intake.service import import_prompts
    from app.projects.service import get_project
    from app.prompts.files import read_file
    from app.prompts.limits import Limits

    settings = get_settings()

    async def work(session: AsyncSession) -> ImportReport:
        project = await get_project(session, slug)
        rows = read_file(file, Limits.of(settings))
        return await import_prompts(
            session,
            project,
            rows,
            source=file.name,
            actor=None,
            wanted=generate,
            policies=tuple(policy or ()),
        )

    report = with_session(work)
    lines = [
        f"{report.accepted} accepted, {report.duplicates} there already, "
        f"{len(report.rejected)} rejected."
    ]
    lines += [f"line {row.line}, {row.field}: {row.message}" for row in report.rejected]
    say("\n".join(lines), report.model_dump(), as_json)
    if report.rejected:
        total = report.accepted + report.duplicates + len(report.rejected)
        first = report.rejected[0]
        raise InvalidInput(
            f"{len(report.rejected)} of {total} rows were not imported; the first: "
            f"{first.field}: {first.message}",
            field=f"{file}:{first.line}",
        )
