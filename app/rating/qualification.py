"""Who may rate: the qualification on gold tasks, an admin's word over it, guidelines that were read."""

import uuid
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import delete, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import User
from app.accounts.service import record
from app.projects.models import Project
from app.rating.judgement import LETTERS, count_right
from app.rating.models import Assignment, GuidelineReading, Qualification, QualificationState
from app.rating.schemas import Feedback, in_letters


class Answer(NamedTuple):
    """An assignment's ranks beside the gold ones."""

    id: uuid.UUID
    gold_ranks: dict[str, int] | None
    ranks: dict[str, int]


_ANSWERS = text("""
    SELECT assignment.id, task.gold_ranks, ranking.ranks
    FROM assignments AS assignment
    JOIN tasks AS task ON task.id = assignment.task_id
    JOIN rankings AS ranking ON ranking.assignment_id = assignment.id
    WHERE assignment.project_id = :project_id AND assignment.rater_id = :rater_id
      AND assignment.qualification
    ORDER BY ranking.id
""")


async def list_qualification_answers(
    session: AsyncSession, project_id: uuid.UUID, rater_id: uuid.UUID
) -> Sequence[Answer]:
    """A rater's answers of a qualification, in its order."""
    values = {"project_id": project_id, "rater_id": rater_id}
    return [Answer(**row._asdict()) for row in await session.execute(_ANSWERS, values)]


def compute_accuracy(answers: Sequence[Answer]) -> float:
    """The share of gold pairs that a qualification's answers put right; 1 where gold orders nothing."""
    counts = [count_right(answer.ranks, answer.gold_ranks or {}) for answer in answers]
    judged = sum(pairs for _, pairs in counts)
    return sum(right for right, _ in counts) / judged if judged else 1.0


async def decide_qualification(
    session: AsyncSession, project_id: uuid.UUID, rater_id: uuid.UUID, *, tasks: int, needed: float
) -> bool:
    """Decide a rater's qualification once it has its tasks; whether it is decided."""
    answers = await list_qualification_answers(session, project_id, rater_id)
    if not answers or len(answers) < tasks:
        return False
    accuracy = compute_accuracy(answers)
    passed = accuracy >= needed
    await session.execute(
        insert(Qualification)
        .values(
            project_id=project_id,
            rater_id=rater_id,
            state=QualificationState.PASSED if passed else QualificationState.FAILED,
            accuracy=accuracy,
        )
        .on_conflict_do_nothing()
    )
    return True


async def end_qualification(session: AsyncSession, project: Project, rater: User) -> bool:
    """Decide one that has no further gold task by the answers there are; whether there are any."""
    return await decide_qualification(
        session, project.id, rater.id, tasks=1, needed=project.qualification_accuracy
    )


async def get_feedback(
    session: AsyncSession, project: Project, rater: User, assignment_id: uuid.UUID
) -> Feedback | None:
    """How a submitted answer of the qualification compares with the gold one; None for any other task's."""
    answers = await list_qualification_answers(session, project.id, rater.id)
    answer = next((each for each in answers if each.id == assignment_id), None)
    if answer is None:
        return None
    gold_ranks = answer.gold_ranks or {}
    assignment = await session.get_one(Assignment, assignment_id)
    letters = {
        str(each): letter for each, letter in zip(assignment.presented, LETTERS, strict=False)
    }
    right, pairs = count_right(answer.ranks, gold_ranks)
    decided = await session.get(Qualification, (project.id, rater.id))
    return Feedback(
        own=in_letters(sorted((rank, letters[each]) for each, rank in answer.ranks.items())),
        gold=in_letters(sorted((rank, letters[each]) for each, rank in gold_ranks.items())),
        right=right,
        pairs=pairs,
        done=len(answers),
        tasks=project.qualification_tasks,
        passed=decided.state is QualificationState.PASSED if decided else None,
        accuracy=decided.accuracy if decided else None,
        needed=project.qualification_accuracy,
    )


async def set_qualification(
    session: AsyncSession,
    project: Project,
    rater_id: uuid.UUID,
    state: QualificationState | None,
    *,
    actor: uuid.UUID,
) -> None:
    """An admin's word over it: passed, failed, or (None) to be done anew with the tasks left."""
    await session.execute(
        delete(Qualification).where(
            Qualification.project_id == project.id, Qualification.rater_id == rater_id
        )
    )
    if state is None:
        await session.execute(
            update(Assignment)
            .where(
                Assignment.project_id == project.id,
                Assignment.rater_id == rater_id,
                Assignment.qualification.is_(True),
            )
            .values(qualification=False)
        )
    else:
        session.add(Qualification(project_id=project.id, rater_id=rater_id, state=state))
    await record(
        session,
        actor,
        "qualification.set",
        project.slug,
        rater=str(rater_id),
        state=state.value if state else "again",
    )
    await session.flush()


async def read_guidelines(
    session: AsyncSession, project: Project, rater: User, version: int
) -> None:
    """Note that a rater has read a version of the guidelines; an older one than noted changes nothing."""
    reading = insert(GuidelineReading).values(
        project_id=project.id, rater_id=rater.id, version=min(version, project.guideline_version)
    )
    await session.execute(
        reading.on_conflict_do_update(
            index_elements=[GuidelineReading.project_id, GuidelineReading.rater_id],
            set_={"version": reading.excluded.version, "read_at": reading.excluded.read_at},
            where=GuidelineReading.version < reading.excluded.version,
        )
    )


async def get_version_read(session: AsyncSession, project: Project, rater: User) -> int:
    """The newest version of the guidelines that the rater says they have read; 0 for none."""
    reading = await session.get(GuidelineReading, (project.id, rater.id))
    return reading.version if reading else 0
