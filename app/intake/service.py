"""Intake: rows of the import format become prompts, tasks, imported rankings and jobs for the worker.

A row's way depends on what it brings: without candidates it is queued for the worker; with candidates it
is a task at once; with a rater's ranks it carries an imported ranking as well, which counts as one
rater's and fills one of the task's slots (a task whose overlap is filled by imported rankings asks
nobody); with `gold: true` its ranks are the right answer, hidden from raters.
"""

import uuid
from collections.abc import Iterable, Sequence

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import User
from app.accounts.service import get_or_create_imported_rater, record
from app.db.types import uuid7s
from app.generation.service import enqueue
from app.policies.service import get_policy
from app.projects.models import Project
from app.prompts import service as prompts
from app.prompts.parse import PromptRow, RowError
from app.prompts.schemas import ImportReport, RowErrorOut
from app.rating.models import GOLD_SLOTS, Task
from app.rating.rankings import Content, NewRanking, record_rankings

# Rows in one statement: enough to make round trips rare, few enough that other requests go on between.
BATCH = 250
# Whatever number, as long as no other lock of the application's has it.
IMPORT_LOCK = 0x706C6B69


async def import_prompts(
    session: AsyncSession,
    project: Project,
    rows: Iterable[PromptRow | RowError],
    *,
    source: str,
    actor: uuid.UUID | None,
    wanted: int | None = None,
    policies: Sequence[str] = (),
) -> ImportReport:
    """Import the right rows and report the wrong ones, in the session's transaction.

    `wanted` candidates (the project's number where None) are written by `policies` (the project's where
    empty) for prompts that bring none. Raises NotFound for an unknown policy.
    """
    # Two imports that name the same ids, raters or policies in another order would wait for each other.
    await session.execute(select(func.pg_advisory_xact_lock(IMPORT_LOCK)))
    chosen = [await get_policy(session, name) for name in policies]
    batch = await prompts.start_import(session, project, source=source, actor=actor)
    report = ImportReport()
    waiting: list[PromptRow] = []
    queued = 0
    raters: dict[str, User] = {}

    async def flush() -> int:
        added = await prompts.add_prompts(
            session,
            project,
            waiting,
            import_id=batch.id,
            wanted=wanted,
            policy_ids=[policy.id for policy in chosen],
        )
        report.accepted += len(added)
        report.duplicates += len(waiting) - len(added)
        waiting.clear()
        await _open_tasks(session, project, [each for each in added if each[2]], raters)
        return sum(not ids for _, _, ids in added)

    for row in rows:
        if isinstance(row, RowError):
            report.rejected.append(RowErrorOut(line=row.line, field=row.field, message=row.message))
            continue
        waiting.append(row)
        if len(waiting) >= BATCH:
            queued += await flush()
    queued += await flush()
    batch.accepted, batch.duplicates = report.accepted, report.duplicates
    batch.rejected = [error.model_dump() for error in report.rejected[:100]]
    batch.rejected_count = len(report.rejected)
    await record(
        session,
        actor,
        "prompts.import",
        project.slug,
        source=source,
        accepted=report.accepted,
        rejected=len(report.rejected),
    )
    if queued:
        await enqueue(session, project.id, queued)
    await session.flush()
    return report


async def _open_tasks(
    session: AsyncSession,
    project: Project,
    added: Sequence[tuple[PromptRow, uuid.UUID, list[uuid.UUID]]],
    raters: dict[str, User],
) -> None:
    if not added:
        return
    tasks, rankings = [], []
    # In the order of the rows: of equally urgent tasks, raters get the older ones first.
    numbers = uuid7s(len(added)), uuid7s(len(added))
    for task_id, ranking_id, (row, prompt_id, ids) in zip(*numbers, added, strict=True):
        ranks = dict(zip(ids, row.ranks, strict=True)) if row.ranks else None
        imported = ranks is not None and not row.gold
        overlap = GOLD_SLOTS if row.gold else project.overlap
        tasks.append(
            {
                "id": task_id,
                "project_id": project.id,
                "prompt_id": prompt_id,
                "priority": row.priority,
                "overlap": overlap,
                "open_slots": max(0, overlap - imported),
                "gold": row.gold,
                "gold_ranks": {str(each): rank for each, rank in ranks.items()}
                if ranks and row.gold
                else None,
            }
        )
        if ranks is None or row.gold:
            continue
        assert row.rater is not None
        if row.rater not in raters:
            raters[row.rater] = await get_or_create_imported_rater(session, row.rater)
        rankings.append(
            NewRanking(
                id=ranking_id,
                project_id=project.id,
                task_id=task_id,
                rater_id=raters[row.rater].id,
                content=Content(ranks=ranks, seconds=row.seconds, keep_gaps=row.keep_gaps),
                presented=[ids[each] for each in row.presented] if row.presented else None,
                blind=row.blind,
                imported=True,
            )
        )
    await session.execute(insert(Task), tasks)
    await record_rankings(session, rankings)
