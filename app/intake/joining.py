"""Further judgments of prompts that are there already: several people's rankings of one task.

A row whose `id` the project has (from this import or an earlier one) adds its rater's ranking to that
prompt's task. Its candidates may stand in any order, and are told by their texts; where both sides name a
policy, by that too. What differs is an error that names the other row: nothing is matched by likeness.
"""

import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.types import uuid7
from app.prompts.parse import FieldError, PromptRow
from app.prompts.queries import Known
from app.rating.rankings import Content, NewRanking, record_rankings

# A further ranking takes one of the task's slots; where none is open, the task gets one more and it takes
# that. So what a task has taken is what it was ranked, also when the project's overlap is raised later.
_TAKE = text("""
    UPDATE tasks
    SET overlap = task.overlap + GREATEST(0, given.rankings - task.open_slots),
        open_slots = GREATEST(0, task.open_slots - given.rankings)
    FROM unnest(CAST(:ids AS uuid[]), CAST(:counts AS int[])) AS given (id, rankings)
    JOIN tasks AS task ON task.id = given.id
    WHERE tasks.id = given.id
""")

# Locked in one order, so that two who add to the same tasks wait instead of blocking each other.
_LOCK_TASKS = text("""
    SELECT prompt_id, id, gold FROM tasks WHERE prompt_id = ANY(:prompt_ids)
    ORDER BY id FOR NO KEY UPDATE
""")


@dataclass(frozen=True)
class Further:
    """A row that ranks a known prompt's candidates."""

    row: PromptRow
    known: Known


async def record_further(
    session: AsyncSession,
    project_id: uuid.UUID,
    further: Sequence[tuple[Further, uuid.UUID]],
) -> tuple[int, list[tuple[PromptRow, FieldError]]]:
    """Add rankings (each with its rater's id) to their tasks: how many were new, and the refused rows."""
    ids = list({each.known.prompt_id for each, _ in further})
    locked = await session.execute(_LOCK_TASKS, {"prompt_ids": ids})
    tasks = {prompt_id: (task_id, gold) for prompt_id, task_id, gold in locked}
    rankings: list[NewRanking] = []
    refused: list[tuple[PromptRow, FieldError]] = []
    for each, rater_id in further:
        try:
            places = match_candidates(each.row, each.known)
            if each.known.prompt_id not in tasks:
                raise FieldError("id", f"names a prompt that is no task yet ({each.known.origin})")
            task_id, gold = tasks[each.known.prompt_id]
            if gold:
                raise FieldError("id", f"names a gold task ({each.known.origin})")
        except FieldError as error:
            refused.append((each.row, error))
            continue
        rankings.append(make_ranking(each.row, places, project_id, task_id, rater_id))
    stored = await record_rankings(session, rankings)
    counts: dict[uuid.UUID, int] = defaultdict(int)
    for ranking in stored:
        counts[ranking.task_id] += 1
    if counts:
        await session.execute(_TAKE, {"ids": list(counts), "counts": list(counts.values())})
    return len(stored), refused


def match_candidates(row: PromptRow, known: Known) -> list[uuid.UUID]:
    """The stored candidate of each of the row's. Raises FieldError where they are not the same ones."""
    if row.messages != known.messages:
        raise FieldError("prompt", f"differs from that of the same id ({known.origin})")
    left = list(known.candidates)
    found: dict[int, uuid.UUID] = {}
    # Those that name their policy first: one that names none takes what is left.
    for index, wanted in sorted(enumerate(row.candidates), key=lambda each: not each[1].policy):
        fits = [
            each
            for each in left
            if each.text == wanted.text
            and (each.policy is None or wanted.policy is None or each.policy == wanted.policy)
        ]
        if not fits:
            raise FieldError(
                f"candidates.{index}", f"is not among those of the same id ({known.origin})"
            )
        best = next((each for each in fits if each.policy == wanted.policy), fits[0])
        left.remove(best)
        found[index] = best.id
    if left:
        raise FieldError("candidates", f"are fewer than those of the same id ({known.origin})")
    return [found[index] for index in range(len(row.candidates))]


def make_ranking(
    row: PromptRow,
    ids: Sequence[uuid.UUID],
    project_id: uuid.UUID,
    task_id: uuid.UUID,
    rater_id: uuid.UUID,
    *,
    ranking_id: uuid.UUID | None = None,
) -> NewRanking:
    """The ranking that a row brings, of candidates by their ids."""
    assert row.ranks is not None
    ranks: Mapping[uuid.UUID, int] = dict(zip(ids, row.ranks, strict=True))
    return NewRanking(
        id=ranking_id or uuid7(),
        project_id=project_id,
        task_id=task_id,
        rater_id=rater_id,
        content=Content(
            ranks=ranks,
            strength=row.strength,
            axes={name: _scores(given, ids) for name, given in row.axes.items()},
            flags=row.flags,
            rationale=row.rationale,
            seconds=row.seconds,
            keep_gaps=row.keep_gaps,
        ),
        presented=[ids[each] for each in row.presented] if row.presented else None,
        blind=row.blind,
        timed=row.at is not None,
        at=row.at,
        imported=True,
    )


def _scores(
    given: float | Sequence[float | None], ids: Sequence[uuid.UUID]
) -> float | Mapping[str, float]:
    if isinstance(given, float):
        return given
    return {str(one): score for one, score in zip(ids, given, strict=True) if score is not None}
