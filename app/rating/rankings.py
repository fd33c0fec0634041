"""The statements that write rankings with their comparisons."""

# ruff: noqa: S608 - the statements are put together from this file's own constants alone

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.rating.judgement import compare
from app.rating.models import Comparison

Pairs = Sequence[tuple[uuid.UUID, uuid.UUID, int]]

_RANKING_COLUMNS = """
    id, assignment_id, task_id, ranks, strength, axes, flags, rationale, rewrite, seconds, extra,
    created_at, revised_at
"""
_COMPARED = """
    INSERT INTO comparisons (ranking_id, better_id, worse_id, margin)
    SELECT ranking.id, pair.better, pair.worse, pair.margin
    FROM ranking, unnest(CAST(:better AS uuid[]), CAST(:worse AS uuid[]),
                         CAST(:margins AS int[])) AS pair (better, worse, margin)
"""

_STORE_RANKING = text(f"""
    WITH ranking AS (
        INSERT INTO rankings (id, project_id, task_id, assignment_id, rater_id, ranks, presented,
                              strength, axes, flags, rationale, rewrite, seconds, guideline_version, extra,
                              created_at)
        VALUES (:id, :project_id, :task_id, :assignment_id, :rater_id, CAST(:ranks AS jsonb),
                CAST(:presented AS uuid[]), CAST(:strength AS int), CAST(:axes AS jsonb),
                CAST(:flags AS varchar[]),
                :rationale, :rewrite, CAST(:seconds AS double precision), :guideline_version,
                :extra, statement_timestamp())
        RETURNING {_RANKING_COLUMNS}
    ), compared AS ({_COMPARED})
    SELECT * FROM ranking
""")

# The ranking is locked before (lock_own_ranking), so its pairs are this statement's alone.
_FORGET_PAIRS = text("DELETE FROM comparisons WHERE ranking_id = :id")

_REVISE_RANKING = text(f"""
    WITH kept AS (
        INSERT INTO ranking_revisions (id, ranking_id, content, replaced_at)
        SELECT :revision_id, id,
               jsonb_build_object('ranks', ranks, 'strength', strength, 'axes', axes,
                                  'flags', flags, 'rationale', rationale, 'rewrite', rewrite,
                                  'seconds', seconds),
               statement_timestamp()
        FROM rankings WHERE id = :id
    ), ranking AS (
        UPDATE rankings
        SET ranks = CAST(:ranks AS jsonb), strength = CAST(:strength AS int),
            axes = CAST(:axes AS jsonb), flags = CAST(:flags AS varchar[]),
            rationale = :rationale, rewrite = :rewrite,
            seconds = CAST(:seconds AS double precision), revised_at = statement_timestamp()
        WHERE id = :id
        RETURNING {_RANKING_COLUMNS}
    ), compared AS ({_COMPARED})
    SELECT * FROM ranking
""")

_LOCK_OWN_RANKING = text("""
    SELECT ranking.id, ranking.presented, ranking.ranks, ranking.strength, ranking.axes,
           ranking.flags, ranking.rationale, ranking.rewrite, ranking.seconds,
           project.axes AS scales, project.flags AS known_flags,
           assignment.test,
           ranking.created_at + make_interval(secs => project.edit_seconds)
               > statement_timestamp() AS open
    FROM rankings AS ranking
    JOIN projects AS project ON project.id = ranking.project_id
    JOIN assignments AS assignment ON assignment.id = ranking.assignment_id
    WHERE ranking.id = :id AND ranking.rater_id = :rater_id
    FOR UPDATE OF ranking
""")

_RANKING = text(f"SELECT {_RANKING_COLUMNS} FROM rankings WHERE assignment_id = :id")


async def find_ranking(session: AsyncSession, assignment_id: uuid.UUID) -> Row[Any] | None:
    """The ranking that answered an assignment."""
    return (await session.execute(_RANKING, {"id": assignment_id})).one_or_none()


async def store_ranking(session: AsyncSession, pairs: Pairs, **values: Any) -> Row[Any]:
    """Write a ranking and its comparisons in one statement; the ranking as it is stored."""
    return (await session.execute(_STORE_RANKING, values | _columns(pairs))).one()


async def lock_own_ranking(
    session: AsyncSession, ranking_id: uuid.UUID, rater_id: uuid.UUID
) -> Row[Any] | None:
    """A rater's own ranking, locked, with what a change of it is held against."""
    values = {"id": ranking_id, "rater_id": rater_id}
    return (await session.execute(_LOCK_OWN_RANKING, values)).one_or_none()


async def revise_ranking(session: AsyncSession, pairs: Pairs, **values: Any) -> Row[Any]:
    """Replace a locked ranking and its comparisons, keeping what it said; as it is stored now."""
    await session.execute(_FORGET_PAIRS, {"id": values["id"]})
    return (await session.execute(_REVISE_RANKING, values | _columns(pairs))).one()


def _columns(pairs: Pairs) -> dict[str, Any]:
    return {
        "better": [better for better, _, _ in pairs],
        "worse": [worse for _, worse, _ in pairs],
        "margins": [margin for _, _, margin in pairs],
    }


async def store_comparisons(
    session: AsyncSession, rankings: Mapping[uuid.UUID, Mapping[uuid.UUID, int]]
) -> None:
    """The pairs of these rankings (by ranking id), in one statement for every few thousand."""
    rows = [
        {"ranking_id": ranking_id, "better_id": better, "worse_id": worse, "margin": margin}
        for ranking_id, ranks in rankings.items()
        for better, worse, margin in compare(ranks)
    ]
    for start in range(0, len(rows), 5000):
        await session.execute(insert(Comparison), rows[start : start + 5000])
