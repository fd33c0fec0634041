"""The one writer of rankings and their comparisons: for people, for imports and for models alike.

A ranking and its pairs come in one statement, so that no reader ever sees the one without the others, and a
column that is added is added here alone.
"""

# ruff: noqa: S608 - the statements are put together from this file's own constants alone

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.types import uuid7
from app.projects.queries import RATER_SEES_PROJECT
from app.rating.judgement import compare
from app.rating.schemas import KnownFlag, Scale

# Of each axis: one score of the best response, or one for each response by its id.
Scores = Mapping[str, float | Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a ranking says, and what its rater may change for a while."""

    ranks: Mapping[uuid.UUID, int]
    strength: int | None = None
    axes: Scores = field(default_factory=dict)
    flags: Sequence[str] = ()
    rationale: str | None = None
    rewrite: str | None = None
    seconds: float | None = None
    # Margins are by the ranks as they were given, not by dense ones: where an import asks for it.
    keep_gaps: bool = False


@dataclass(frozen=True, kw_only=True)
class NewRanking:
    """A ranking to be written: whose it is, of which task, and what it says."""

    id: uuid.UUID = field(default_factory=uuid7)
    project_id: uuid.UUID
    task_id: uuid.UUID
    rater_id: uuid.UUID
    # Of those who were asked here; imports and models have none.
    assignment_id: uuid.UUID | None = None
    # How it came about: what is not known stays None, and nothing is claimed of it.
    presented: Sequence[uuid.UUID] | None = None
    # Those whose end was on the screen.
    seen: Sequence[uuid.UUID] | None = None
    blind: bool | None = None
    timed: bool = False
    # When it was judged, where that was elsewhere and is known; else it is now.
    at: datetime | None = None
    content: Content
    guideline_version: int = 0
    surplus: bool = False
    imported: bool = False


class StoredRanking(NamedTuple):
    """A ranking as it stands in the table."""

    id: uuid.UUID
    assignment_id: uuid.UUID | None
    task_id: uuid.UUID
    ranks: dict[str, int]
    strength: int | None
    axes: dict[str, float | dict[str, float]]
    flags: list[str]
    rationale: str | None
    rewrite: str | None
    seconds: float | None
    surplus: bool
    created_at: datetime
    revised_at: datetime | None


class LockedRanking(NamedTuple):
    """A rater's own ranking, with what a change of it is held against."""

    id: uuid.UUID
    presented: list[uuid.UUID]
    ranks: dict[str, int]
    strength: int | None
    axes: dict[str, float | dict[str, float]]
    flags: list[str]
    rationale: str | None
    rewrite: str | None
    scales: list[Scale]
    known_flags: list[KnownFlag]
    newest_version: int
    qualification: bool
    open: bool


_STORED = ", ".join(StoredRanking._fields)
_CONTENT = {
    "ranks": "jsonb",
    "strength": "int",
    "axes": "jsonb",
    "flags": "varchar[]",
    "rationale": "text",
    "rewrite": "text",
    "seconds": "double precision",
    "keep_gaps": "boolean",
}
_COLUMNS = _CONTENT | {
    "id": "uuid",
    "project_id": "uuid",
    "task_id": "uuid",
    "rater_id": "uuid",
    "assignment_id": "uuid",
    "presented": "uuid[]",
    "seen": "uuid[]",
    "blind": "boolean",
    "timed": "boolean",
    "guideline_version": "int",
    "surplus": "boolean",
    "imported": "boolean",
}


def _given(columns: Mapping[str, str]) -> str:
    shape = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    return f"json_to_recordset(CAST(:rankings AS json)) AS given ({shape})"


_COMPARE = """
    INSERT INTO comparisons (ranking_id, better_id, worse_id, margin)
    SELECT ranking.id, pair.better, pair.worse, pair.margin
    FROM unnest(CAST(:ranking_ids AS uuid[]), CAST(:better AS uuid[]), CAST(:worse AS uuid[]),
                CAST(:margins AS int[])) AS pair (ranking_id, better, worse, margin)
    JOIN ranking ON ranking.id = pair.ranking_id
"""

_RECORD = text(f"""
    WITH ranking AS (
        INSERT INTO rankings ({", ".join(_COLUMNS)}, created_at)
        SELECT {", ".join(_COLUMNS)}, COALESCE(at, statement_timestamp())
        FROM {_given(_COLUMNS | {"at": "timestamptz"})}
        ON CONFLICT DO NOTHING
        RETURNING {_STORED}
    ), compared AS ({_COMPARE})
    SELECT {_STORED} FROM ranking
""")

# The ranking is locked before (lock_own_ranking), so its pairs are this statement's alone.
_FORGET_PAIRS = text("DELETE FROM comparisons WHERE ranking_id = :id")

_REVISE = text(f"""
    WITH kept AS (
        INSERT INTO ranking_revisions (id, ranking_id, content, replaced_at)
        SELECT :revision_id, id,
               jsonb_build_object({", ".join(f"'{name}', {name}" for name in _CONTENT)}),
               statement_timestamp()
        FROM rankings WHERE id = :id
    ), ranking AS (
        UPDATE rankings
        SET {", ".join(f"{name} = given.{name}" for name in _CONTENT)},
            revised_at = statement_timestamp()
        FROM {_given(_CONTENT)}
        WHERE rankings.id = :id
        RETURNING rankings.id
    )
    {_COMPARE}
""")

_LOCK_OWN = text(f"""
    SELECT ranking.id, ranking.presented, ranking.ranks, ranking.strength, ranking.axes,
           ranking.flags, ranking.rationale, ranking.rewrite,
           project.axes AS scales, project.flags AS known_flags,
           project.guideline_version AS newest_version,
           assignment.qualification,
           ranking.created_at + make_interval(secs => project.edit_seconds)
               > statement_timestamp() AS open
    FROM rankings AS ranking
    JOIN projects AS project ON project.id = ranking.project_id
    JOIN assignments AS assignment ON assignment.id = ranking.assignment_id
    WHERE ranking.id = :id AND ranking.rater_id = :rater_id AND {RATER_SEES_PROJECT}
    FOR UPDATE OF ranking
""")

_FIND = text(f"SELECT {_STORED} FROM rankings WHERE assignment_id = :id")


async def record_rankings(
    session: AsyncSession, rankings: Sequence[NewRanking]
) -> list[StoredRanking]:
    """Write these rankings with their comparisons; those stored.

    One whose rater has a ranking of the task already (or whose assignment has one) is passed over. A few
    hundred at a time are one statement's worth.
    """
    if not rankings:
        return []
    values = {
        "rankings": json.dumps([_row(each) for each in rankings], default=str),
        **_pairs({each.id: each.content for each in rankings}),
    }
    return [StoredRanking._make(row) for row in await session.execute(_RECORD, values)]


async def record_ranking(session: AsyncSession, ranking: NewRanking) -> StoredRanking | None:
    """The same for one: as it is stored, or None where there is one already."""
    stored = await record_rankings(session, [ranking])
    return stored[0] if stored else None


async def revise_locked_ranking(
    session: AsyncSession, ranking_id: uuid.UUID, content: Content
) -> None:
    """Let a ranking (lock it first) say something else, with its comparisons; what it said is kept."""
    await session.execute(_FORGET_PAIRS, {"id": ranking_id})
    values = {
        "id": ranking_id,
        "revision_id": uuid7(),
        "rankings": json.dumps([_plain(content)], default=str),
        **_pairs({ranking_id: content}),
    }
    await session.execute(_REVISE, values)


async def lock_own_ranking(
    session: AsyncSession, ranking_id: uuid.UUID, rater_id: uuid.UUID
) -> LockedRanking | None:
    """A rater's own ranking of a task that they were asked for here, locked."""
    values = {"id": ranking_id, "rater_id": rater_id}
    row = (await session.execute(_LOCK_OWN, values)).one_or_none()
    return LockedRanking(**row._asdict()) if row else None


async def find_ranking(session: AsyncSession, assignment_id: uuid.UUID) -> StoredRanking | None:
    """The ranking that answered an assignment."""
    row = (await session.execute(_FIND, {"id": assignment_id})).one_or_none()
    return StoredRanking._make(row) if row else None


def _row(ranking: NewRanking) -> dict[str, object]:
    own = {name: value for name, value in vars(ranking).items() if name != "content"}
    return own | _plain(ranking.content)


def _plain(content: Content) -> dict[str, object]:
    return vars(content) | {"ranks": {str(each): rank for each, rank in content.ranks.items()}}


def _pairs(rankings: Mapping[uuid.UUID, Content]) -> dict[str, list[uuid.UUID] | list[int]]:
    # By id: which of two tied candidates stands as the better one is the same for every rater.
    pairs = [
        (ranking_id, pair)
        for ranking_id, each in rankings.items()
        for pair in compare(
            {key: each.ranks[key] for key in sorted(each.ranks)},
            each.strength,
            keep_gaps=each.keep_gaps,
        )
    ]
    return {
        "ranking_ids": [ranking_id for ranking_id, _ in pairs],
        "better": [pair.better for _, pair in pairs],
        "worse": [pair.worse for _, pair in pairs],
        "margins": [pair.margin for _, pair in pairs],
    }
