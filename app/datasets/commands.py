"""Writing an export, from the command line."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from app.accounts.models import Kind
from app.datasets.format import Manifest
from app.db.engine import SessionMaker
from app.terminal import Json, Slug, say, validated, with_sessions


def export(
    slug: Slug,
    out: Annotated[Path, typer.Option(help="The directory to write; it must not exist yet.")],
    name: Annotated[str, typer.Option(help="The export's name.")] = "export",
    kind: Annotated[
        list[Kind] | None, typer.Option(help="Whose rankings [default: person and imported].")
    ] = None,
    since: Annotated[datetime | None, typer.Option(help="Given from this UTC moment on.")] = None,
    before: Annotated[datetime | None, typer.Option(help="Given before this UTC moment.")] = None,
    min_rankings: Annotated[int, typer.Option(min=1, help="Rankings a prompt must have.")] = 1,
    without_flag: Annotated[
        list[str] | None, typer.Option(help="Leave out rankings with this flag.")
    ] = None,
    no_extra: Annotated[
        bool, typer.Option("--no-extra", help="Leave out rankings that came too late.")
    ] = False,
    gold: Annotated[bool, typer.Option("--gold", help="With gold tasks.")] = False,
    validation: Annotated[float, typer.Option(min=0, max=1, help="Share of prompts.")] = 0.1,
    test: Annotated[float, typer.Option(min=0, max=1, help="Share of prompts.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Varies which prompt goes where.")] = 0,
    as_json: Json = False,
) -> None:
    """Write what was collected as a directory of files.

    Example: plackett export stories --out stories-1 --min-rankings 2
    """
    from app.datasets.schemas import ExportIn
    from app.datasets.service import build_export
    from app.projects.service import get_project

    filters: dict[str, object] = {
        "since": _as_utc(since),
        "before": _as_utc(before),
        "min_rankings": min_rankings,
        "without_flags": without_flag or [],
        "extra": not no_extra,
        "gold": gold,
    }
    if kind:
        filters["kinds"] = kind
    split = {"train": 1 - validation - test, "validation": validation, "test": test, "seed": seed}
    wanted = validated(ExportIn, {"name": name, "filters": filters, "split": split})

    async def work(sessions: SessionMaker) -> Manifest:
        async with sessions() as session:
            project = await get_project(session, slug)
        # A session of its own: the export reads one snapshot from its first statement on.
        async with sessions() as session:
            return await build_export(
                session, project, wanted.filters, wanted.split, out.absolute(), wanted.name
            )

    manifest = with_sessions(work)
    counts = manifest["counts"]
    lines = [f"{out}: content hash {manifest['content_hash']}"]
    lines += [
        f"  {where:<11}{count['prompts']:>8} prompts {count['rankings']:>8} rankings "
        f"{count['comparisons']:>8} comparisons"
        for where, count in counts.items()
    ]
    say("\n".join(lines), manifest, as_json)


def _as_utc(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment is not None else None
