"""Selects and writes of the feedback room."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.prompts.models import Candidate, Prompt
from app.rating.models import Ranking, Task


@dataclass(frozen=True)
class Work:
    """A task to judge: the prompt, and its candidates in their order."""

    task_id: uuid.UUID
    messages: list[dict[str, str]]
    candidates: list[tuple[uuid.UUID, str]]
    ranks: dict[str, int] | None  # what the rater has said of it already


def _open_tasks(project_id: uuid.UUID, rater_id: uuid.UUID, *, revise: bool) -> ColumnElement[bool]:
    """Tasks that this rater has not ranked; to revise, also those without a revision of its."""
    done = exists().where(Ranking.task_id == Task.id, Ranking.rater_id == rater_id)
    if revise:
        done = done.where(Ranking.rewrite.is_not(None))
    return (Task.project_id == project_id) & ~done


async def count_tasks(
    session: AsyncSession, project_id: uuid.UUID, rater_id: uuid.UUID, *, revise: bool
) -> int:
    """How many tasks are left for this rater."""
    chosen = select(func.count()).select_from(Task)
    return int(
        await session.scalar(chosen.where(_open_tasks(project_id, rater_id, revise=revise))) or 0
    )


async def list_tasks(
    session: AsyncSession,
    project_id: uuid.UUID,
    rater_id: uuid.UUID,
    *,
    revise: bool,
    after: uuid.UUID | None,
    limit: int,
) -> list[Work]:
    """The next tasks that are left, with their candidates."""
    wanted = (
        select(Task.id, Prompt.id, Prompt.messages)
        .join(Prompt, Prompt.id == Task.prompt_id)
        .where(_open_tasks(project_id, rater_id, revise=revise))
        .order_by(Task.id)
        .limit(limit)
    )
    if after is not None:
        wanted = wanted.where(Task.id > after)
    tasks = (await session.execute(wanted)).all()
    texts: dict[uuid.UUID, list[tuple[uuid.UUID, str]]] = {prompt: [] for _, prompt, _ in tasks}
    for prompt_id, candidate_id, text in await session.execute(
        select(Candidate.prompt_id, Candidate.id, Candidate.text)
        .where(Candidate.prompt_id.in_(texts))
        .order_by(Candidate.prompt_id, Candidate.position)
    ):
        texts[prompt_id].append((candidate_id, text))
    rows = await session.execute(
        select(Ranking.task_id, Ranking.ranks).where(
            Ranking.rater_id == rater_id, Ranking.task_id.in_([task for task, _, _ in tasks])
        )
    )
    ranks = dict(rows.all())
    return [
        Work(task, messages, texts[prompt], ranks.get(task)) for task, prompt, messages in tasks
    ]


async def set_rewrite(
    session: AsyncSession, task_ids: Sequence[uuid.UUID], rater_id: uuid.UUID, text: str, why: str
) -> None:
    """Put a revision into the rater's rankings of these tasks, where there is none yet."""
    await session.execute(
        update(Ranking)
        .where(
            Ranking.task_id.in_(task_ids), Ranking.rater_id == rater_id, Ranking.rewrite.is_(None)
        )
        .values(rewrite=text, rationale=func.concat_ws("\n\n", Ranking.rationale, why))
    )
