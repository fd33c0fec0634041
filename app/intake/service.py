"""Intake: rows of the import format become prompts, tasks, imported rankings and jobs for the worker.

A row's way depends on what it brings: without candidates it is queued for the worker; with candidates it
is a task at once; with a rater's ranks it carries an imported ranking as well, which counts as one
rater's and fills one of the task's slots (a task whose overlap is filled by imported rankings asks
nobody); with `gold: true` its ranks are the right answer, hidden from raters. A row whose `id` is there
already adds its rater's ranking to that task, and nothing else (`app.intake.joining`).
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import User
from app.accounts.service import get_or_create_imported_rater, record
from app.db.types import uuid7s
from app.errors import InvalidInput
from app.generation.service import enqueue
from app.intake.joining import Further, make_ranking, record_further
from app.policies.service import get_policy
from app.projects.models import Project
from app.prompts import service as prompts
from app.prompts.parse import PromptRow, RowError
from app.prompts.queries import list_known
from app.prompts.schemas import ImportReport, RowErrorOut
from app.rating.judgement import check_ranking
from app.rating.models import GOLD_SLOTS, Task
from app.rating.rankings import record_rankings
from app.rating.schemas import RankingIn

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
    bringing = _Import(session, project, batch.id, wanted, [policy.id for policy in chosen])
    report = bringing.report
    for row in rows:
        await bringing.take(row)
    await bringing.flush()
    report.rejected.sort(key=lambda each: each.line)
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
    if bringing.queued:
        await enqueue(session, project.id, bringing.queued)
    await session.flush()
    return report


class _Import:
    """An import under way: its rows go in by batches, and each is counted once."""

    def __init__(
        self,
        session: AsyncSession,
        project: Project,
        import_id: uuid.UUID,
        wanted: int | None,
        policy_ids: Sequence[uuid.UUID],
    ) -> None:
        self.session = session
        self.project = project
        self.import_id = import_id
        self.wanted = wanted
        self.policy_ids = policy_ids
        self.report = ImportReport()
        # Prompts without candidates, for the worker.
        self.queued = 0
        self._waiting: list[PromptRow] = []
        self._raters: dict[str, User] = {}
        # By their ids, the lines of this import's rows that others may rank too.
        self._lines: dict[str, int] = {}

    async def take(self, row: PromptRow | RowError) -> None:
        """One more row."""
        if isinstance(row, RowError):
            self._reject(row.line, row.field, row.message)
            return
        try:
            check_judgment(row, self.project)
        except InvalidInput as error:
            self._reject(row.line, error.field or "ranks", error.message)
            return
        self._waiting.append(row)
        if len(self._waiting) >= BATCH:
            await self.flush()

    def _reject(self, line: int, field: str, message: str) -> None:
        self.report.rejected.append(RowErrorOut(line=line, field=field, message=message))

    async def flush(self) -> None:
        """Store the rows that wait."""
        rows, self._waiting = self._waiting, []
        added = await prompts.add_prompts(
            self.session,
            self.project,
            rows,
            import_id=self.import_id,
            wanted=self.wanted,
            policy_ids=self.policy_ids,
        )
        self.report.accepted += len(added)
        self.queued += sum(not ids for _, _, ids in added)
        await self._open_tasks([each for each in added if each[2]])
        # By what they are: one record may make several rows, of one line.
        new = {id(row) for row, _, _ in added}
        self._lines |= {
            row.external_id: row.line for row, _, _ in added if row.rater and row.external_id
        }
        await self._rank_further([row for row in rows if id(row) not in new])

    async def _open_tasks(
        self, added: Sequence[tuple[PromptRow, uuid.UUID, list[uuid.UUID]]]
    ) -> None:
        if not added:
            return
        tasks, rankings = [], []
        # In the order of the rows: of equally urgent tasks, raters get the older ones first.
        numbers = uuid7s(len(added)), uuid7s(len(added))
        for task_id, ranking_id, (row, prompt_id, ids) in zip(*numbers, added, strict=True):
            overlap = GOLD_SLOTS if row.gold else self.project.overlap
            gold_ranks = (
                dict(zip(map(str, ids), row.ranks or (), strict=True)) if row.gold else None
            )
            tasks.append(
                {
                    "id": task_id,
                    "project_id": self.project.id,
                    "prompt_id": prompt_id,
                    "priority": row.priority,
                    "overlap": overlap,
                    "open_slots": max(0, overlap - (row.rater is not None)),
                    "gold": row.gold,
                    "gold_ranks": gold_ranks,
                }
            )
            if row.rater is not None:
                rater = await self._rater(row.rater)
                rankings.append(
                    make_ranking(
                        row, ids, self.project.id, task_id, rater.id, ranking_id=ranking_id
                    )
                )
        await self.session.execute(insert(Task), tasks)
        await record_rankings(self.session, rankings)

    async def _rank_further(self, rows: Sequence[PromptRow]) -> None:
        """Rows whose ids were there: a rater's ranks are one more ranking, all else is a duplicate."""
        ids = [row.external_id for row in rows if row.rater and row.external_id]
        known = await list_known(self.session, self.project.id, ids) if ids else {}
        further = []
        for row in rows:
            if row.rater is None or row.external_id is None or row.external_id not in known:
                continue
            found = known[row.external_id]
            if found.import_id == self.import_id:
                line = self._lines.get(row.external_id)
                found = replace(found, origin=f"line {line}" if line else "an earlier line")
            rater = await self._rater(row.rater)
            further.append((Further(row, found), rater.id))
        stored, refused = await record_further(self.session, self.project.id, further)
        for row, error in refused:
            self._reject(row.line, error.field, error.message)
        self.report.accepted += stored
        self.report.duplicates += len(rows) - stored - len(refused)

    async def _rater(self, name: str) -> User:
        if name not in self._raters:
            self._raters[name] = await get_or_create_imported_rater(self.session, name)
        return self._raters[name]


def check_judgment(row: PromptRow, project: Project) -> None:
    """Hold what a row's ranking says beside the order against the project. Raises InvalidInput."""
    if row.ranks is None or not (row.strength or row.axes or row.flags):
        return
    # The candidates have no ids before they are stored: their places stand in for them.
    places = [uuid.UUID(int=place) for place in range(len(row.ranks))]
    ranking = make_ranking(row, places, project.id, project.id, project.id)
    given = RankingIn.model_construct(
        ranks=dict(ranking.content.ranks),
        strength=row.strength,
        axes={
            name: {uuid.UUID(one): score for one, score in scores.items()}
            if isinstance(scores, Mapping)
            else scores
            for name, scores in ranking.content.axes.items()
        },
        flags=row.flags,
    )
    try:
        check_ranking(given, places, project.axes, project.flags)
    except InvalidInput as error:
        error.field = ".".join((error.field or "ranks").split(".")[:2])
        raise
