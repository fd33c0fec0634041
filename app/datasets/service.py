"""Exports: asking for one, building its directory, reading it back."""

import asyncio
import hashlib
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import User
from app.accounts.service import record
from app.datasets import queries
from app.datasets.datasheet import Tally, write_datasheet
from app.datasets.files import SCHEMA, ExportFiles, describe, encode
from app.datasets.format import Manifest
from app.datasets.models import Export, ExportState
from app.datasets.rows import (
    Candidates,
    assign_split,
    comparison_lines,
    demonstration_lines,
    hh_line,
    ranking_line,
)
from app.datasets.schemas import SPLITS, ExportIn, Filters, Split
from app.db.queue import defer
from app.errors import Conflict, NotFound
from app.projects.models import Guideline, Project
from app.projects.queries import sees_project
from app.prompts.models import Prompt
from app.rating.models import Ranking

FORMAT_VERSION = 1
SPLIT_RULE = (
    "first 8 bytes, big-endian, of SHA-256(prompt hash + seed as 8 bytes) / 2^64, against the running "
    "sum of the shares; the prompt hash is SHA-256 of its messages as canonical JSON"
)
MARGIN_RULE = (
    "the strength of a preference where one was given, else by how many dense ranks the two are apart "
    "(1, 3, 1 counts as 1, 2, 1); rankings with keep_gaps: by how many of the ranks as given"
)


async def request_export(
    session: AsyncSession, project: Project, wanted: ExportIn, *, actor: uuid.UUID | None
) -> Export:
    """A pending export, and the job that makes it."""
    export = Export(
        project_id=project.id,
        name=wanted.name,
        filters=wanted.filters.model_dump(mode="json"),
        split=wanted.split.model_dump(),
        created_by=actor,
    )
    session.add(export)
    await session.flush()
    await record(session, actor, "export.create", project.slug, name=wanted.name)
    await defer(
        session, "datasets:export", queue="datasets", arguments={"export_id": str(export.id)}
    )
    return export


async def get_export(session: AsyncSession, export_id: uuid.UUID) -> Export:
    """The export. Raises NotFound."""
    export = await session.get(Export, export_id)
    if export is None:
        raise NotFound("There is no such export", field="export")
    return export


async def get_export_for(session: AsyncSession, viewer: User, export_id: uuid.UUID) -> Export:
    """The export, for somebody who sees its project. Raises NotFound."""
    export = await get_export(session, export_id)
    if not await sees_project(session, viewer, export.project_id):
        raise NotFound("There is no such export", field="export")
    return export


def find_file(export: Export, name: str) -> Path:
    """One of an export's files, by a name from its manifest. Raises NotFound, Conflict if pending."""
    if export.state is not ExportState.READY or export.path is None or export.manifest is None:
        raise Conflict(f"The export is {export.state.value}", field="export")
    if name != "manifest.json" and name not in export.manifest["files"]:
        raise NotFound(f"The export has no file {name!r}", field="name")
    path = Path(export.path) / name
    if not path.is_file():
        raise NotFound(f"The file {name!r} is not on this machine", field="name")
    return path


async def build_export(
    session: AsyncSession,
    project: Project,
    filters: Filters,
    split: Split,
    out: Path,
    name: str,
) -> Manifest:
    """Write the export's directory and return its manifest.

    `out` must not exist, or be empty. It is written beside its place and renamed, so that there is never
    half an export; the session (a fresh one) reads one snapshot of the database. The same filters on the
    same data give the same bytes in every file but the manifest, which holds the name, and the same
    content hash. Raises Conflict where `out` holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Conflict("is there already and not empty", field=str(out))
    await session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
    project = await session.get_one(Project, project.id)
    guidelines = await queries.list_guidelines(session, project.id)
    raters = await queries.count_raters_by_kind(session, project.id, filters)
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.name}.{os.getpid()}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    try:
        files = ExportFiles(fresh)
        tally = Tally()
        async for batch in queries.stream_prompts(session, project.id, filters):
            await asyncio.to_thread(
                _write_batch, files, tally, batch, split, project.pseudonym_salt
            )
        manifest = _finish(fresh, files, tally, project, guidelines, raters, filters, split, name)
        if out.exists():
            out.rmdir()
        fresh.rename(out)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return manifest


def _write_batch(
    files: ExportFiles,
    tally: Tally,
    batch: Sequence[tuple[Prompt, Candidates, Sequence[Ranking]]],
    split: Split,
    salt: bytes,
) -> None:
    rows: dict[tuple[str, str], list[Mapping[str, object]]] = {key: [] for key in files.lines}
    for prompt, candidates, rankings in batch:
        where = assign_split(prompt.content_hash, split)
        line = ranking_line(prompt, candidates, rankings, salt)
        tally.add(where, line)
        comparisons = comparison_lines(line)
        rows["rankings", where].append(line)
        rows["comparisons", where] += comparisons
        rows["hh", where] += [hh_line(row) for row in comparisons]
        rows["demonstrations", where] += demonstration_lines(
            line, [ranking.rewrite for ranking in rankings]
        )
    for key, lines in rows.items():
        files.lines[key].write(lines)
    for where in SPLITS:
        files.parquet[where].write(rows["comparisons", where])


def _finish(
    folder: Path,
    files: ExportFiles,
    tally: Tally,
    project: Project,
    guidelines: Sequence[Guideline],
    raters: dict[str, int],
    filters: Filters,
    split: Split,
    name: str,
) -> Manifest:
    """Close the files, and write the datasheet and the manifest beside them."""
    entries = files.close()
    digest = hashlib.sha256()
    for file, entry in entries.items():
        digest.update(f"{file} {entry['sha256']}\n".encode())
    content_hash = digest.hexdigest()
    sheet = write_datasheet(project, name, tally, guidelines, raters, content_hash=content_hash)
    (folder / "datasheet.md").write_text(sheet)
    entries["datasheet.md"] = {"rows": None, **describe(folder / "datasheet.md")}
    manifest: Manifest = {
        "format": "plackett-export",
        "format_version": FORMAT_VERSION,
        "name": name,
        "project": {"slug": project.slug, "name": project.name},
        "filters": filters.model_dump(mode="json"),
        "split": {**split.model_dump(), "rule": SPLIT_RULE},
        "guideline_version": project.guideline_version,
        "counts": {
            where: {
                "prompts": tally.prompts[where],
                "rankings": tally.rankings[where],
                "comparisons": files.lines["comparisons", where].rows,
                "demonstrations": files.lines["demonstrations", where].rows,
            }
            for where in SPLITS
        },
        "ties": tally.ties,
        "margins": {"rule": MARGIN_RULE, "keep_gaps": tally.keep_gaps},
        "raters": {"count": len(tally.raters), "kinds": raters},
        "schema": SCHEMA,
        "files": entries,
        "content_hash": content_hash,
    }
    (folder / "manifest.json").write_bytes(encode(manifest))
    return manifest
