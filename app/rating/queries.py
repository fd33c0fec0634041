"""Selects of the rating room; what takes locks is in `app.rating.slots`."""

import uuid
from collections.abc import Sequence
from datetime import date, datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, Row, and_, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from app.accounts.models import User
from app.projects.models import Project
from app.projects.queries import visible_to
from app.prompts.models import Candidate, Prompt, PromptState
from app.rating.models import (
    Assignment,
    AssignmentState,
    Comparison,
    Qualification,
    Ranking,
    Task,
)


async def count_prompts(session: AsyncSession, project_id: uuid.UUID) -> dict[PromptState, int]:
    """How many prompts stand where."""
    rows = await session.execute(
        select(Prompt.state, func.count())
        .where(Prompt.project_id == project_id)
        .group_by(Prompt.state)
    )
    return dict(rows.all())


def enough_gold() -> ColumnElement[bool]:
    """A gold task that as many raters have had as other tasks get. Join Project."""
    return and_(Task.gold, Task.overlap - Task.open_slots >= Project.overlap)


def by_people(ranking: type[Ranking] = Ranking) -> ColumnElement[bool]:
    """A ranking of a person, here or imported. A model's came by no assignment, and fills no slot."""
    return or_(ranking.assignment_id.is_not(None), ranking.imported)


async def count_tasks(session: AsyncSession, project_id: uuid.UUID) -> tuple[int, int]:
    """(tasks with a free slot, tasks with all their rankings)."""
    filled = (
        select(func.count())
        .select_from(Ranking)
        .where(Ranking.task_id == Task.id, Ranking.surplus.is_(False), by_people())
        .scalar_subquery()
    )
    row = (
        await session.execute(
            select(
                func.count().filter(Task.open_slots > 0, Task.retired_at.is_(None), ~enough_gold()),
                func.count().filter(
                    or_(
                        and_(Task.gold, filled >= Project.overlap),
                        and_(~Task.gold, Task.open_slots == 0, filled >= Task.overlap),
                    )
                ),
            )
            .join(Project, Project.id == Task.project_id)
            .where(Task.project_id == project_id)
        )
    ).one()
    return row[0], row[1]


async def count_assignments(
    session: AsyncSession, project_id: uuid.UUID, now: datetime
) -> tuple[int, int]:
    """(leases that somebody holds now, skips)."""
    row = (
        await session.execute(
            select(
                func.count().filter(
                    Assignment.state == AssignmentState.LEASED, Assignment.expires_at > now
                ),
                func.count().filter(Assignment.state == AssignmentState.SKIPPED),
            ).where(Assignment.project_id == project_id)
        )
    ).one()
    return row[0], row[1]


async def count_rankings(session: AsyncSession, project_id: uuid.UUID) -> int:
    """All of people's rankings of a project."""
    return (
        await session.scalar(
            select(func.count())
            .select_from(Ranking)
            .where(Ranking.project_id == project_id, by_people())
        )
    ) or 0


async def list_own_rankings(
    session: AsyncSession, rater: User, *, limit: int, offset: int
) -> Sequence[Row[Ranking, Prompt, Project, bool]]:
    """A rater's rankings with their prompts and projects, the newest first; and whether they were asked
    for here and outside a qualification, so that they may be changed."""
    rows = await session.execute(
        select(Ranking, Prompt, Project, func.coalesce(~Assignment.qualification, False))
        .join(Task, Task.id == Ranking.task_id)
        .join(Prompt, Prompt.id == Task.prompt_id)
        .join(Project, Project.id == Ranking.project_id)
        .outerjoin(Assignment, Assignment.id == Ranking.assignment_id)
        .where(Ranking.rater_id == rater.id, visible_to(rater))
        .order_by(Ranking.id.desc())
        .limit(limit)
        .offset(offset)
    )
    return rows.all()


async def get_own_ranking(
    session: AsyncSession, rater: User, ranking_id: uuid.UUID
) -> Row[Ranking, Prompt, Project, bool] | None:
    """One ranking of this rater's."""
    rows = await session.execute(
        select(Ranking, Prompt, Project, func.coalesce(~Assignment.qualification, False))
        .join(Task, Task.id == Ranking.task_id)
        .join(Prompt, Prompt.id == Task.prompt_id)
        .join(Project, Project.id == Ranking.project_id)
        .outerjoin(Assignment, Assignment.id == Ranking.assignment_id)
        .where(Ranking.rater_id == rater.id, Ranking.id == ranking_id, visible_to(rater))
    )
    return rows.one_or_none()


async def count_own_since(session: AsyncSession, rater_id: uuid.UUID, since: datetime) -> int:
    """How many rankings the rater has given since then."""
    return (
        await session.scalar(
            select(func.count())
            .select_from(Ranking)
            .where(Ranking.rater_id == rater_id, Ranking.created_at >= since)
        )
    ) or 0


async def count_own_listed(session: AsyncSession, rater: User) -> int:
    """How many of a rater's rankings are of projects that they see."""
    return (
        await session.scalar(
            select(func.count())
            .select_from(Ranking)
            .join(Project, Project.id == Ranking.project_id)
            .where(Ranking.rater_id == rater.id, visible_to(rater))
        )
    ) or 0


class OwnTotals(NamedTuple):
    """Everything that a rater did."""

    total: int
    median_seconds: float | None
    skipped: int
    # Put off, and still to be had.
    put_off: int


async def get_own_totals(session: AsyncSession, rater_id: uuid.UUID) -> OwnTotals:
    """A rater's rankings, their time and their skips."""
    skipped = (
        select(func.count())
        .select_from(Assignment)
        .where(Assignment.rater_id == rater_id, Assignment.state == AssignmentState.SKIPPED)
        .scalar_subquery()
    )
    put_off = (
        select(func.count())
        .select_from(Assignment)
        .join(Task, Task.id == Assignment.task_id)
        .where(
            Assignment.rater_id == rater_id,
            Assignment.state == AssignmentState.EXPIRED,
            Assignment.deferred_at.is_not(None),
            Task.open_slots > 0,
            Task.retired_at.is_(None),
        )
        .scalar_subquery()
    )
    median = func.percentile_cont(0.5).within_group(Ranking.seconds)
    rows = await session.execute(
        select(
            func.count().label("total"),
            median.label("median_seconds"),
            skipped.label("skipped"),
            put_off.label("put_off"),
        ).where(Ranking.rater_id == rater_id)
    )
    return OwnTotals(**rows.one()._asdict())


async def count_own_by_day(
    session: AsyncSession, rater_id: uuid.UUID, since: datetime
) -> dict[date, tuple[int, float]]:
    """Day (UTC) to (rankings, seconds) of a rater."""
    day = func.date(func.timezone("UTC", Ranking.created_at))
    rows = await session.execute(
        select(day, func.count(), func.coalesce(func.sum(Ranking.seconds), 0.0))
        .where(Ranking.rater_id == rater_id, Ranking.created_at >= since)
        .group_by(day)
    )
    return {each: (count, float(seconds)) for each, count, seconds in rows}


class OwnDay(NamedTuple):
    """A rater's day in one project; rankings that came without their time are counted apart."""

    day: date
    slug: str
    rankings: int
    seconds: float
    untimed: int


async def list_own_days(session: AsyncSession, rater_id: uuid.UUID) -> Sequence[OwnDay]:
    """Every day (UTC) of a rater in every project, the newest first; what they ranked here alone."""
    day = func.date(func.timezone("UTC", Ranking.created_at))
    rows = await session.execute(
        select(
            day,
            Project.slug,
            func.count(),
            func.coalesce(func.sum(Ranking.seconds), 0.0),
            func.count().filter(Ranking.seconds.is_(None)),
        )
        .join(Project, Project.id == Ranking.project_id)
        .where(Ranking.rater_id == rater_id, Ranking.assignment_id.is_not(None))
        .group_by(day, Project.slug)
        .order_by(day.desc(), Project.slug)
    )
    return [OwnDay._make(row) for row in rows]


async def list_own_gold(
    session: AsyncSession, rater: User
) -> Sequence[Row[str, dict[str, int], dict[str, int] | None]]:
    """(project's name, ranks, gold ranks) of a rater's answers, where the project lets them know."""
    rows = await session.execute(
        select(Project.name, Ranking.ranks, Task.gold_ranks)
        .join(Task, Task.id == Ranking.task_id)
        .join(Project, Project.id == Ranking.project_id)
        .where(
            Ranking.rater_id == rater.id,
            Ranking.assignment_id.is_not(None),
            visible_to(rater),
            Project.show_gold_results,
            Task.gold_ranks.is_not(None),
        )
        .order_by(Project.name)
    )
    return rows.all()


async def count_own_agreement(
    session: AsyncSession, rater_id: uuid.UUID, *, newest: int = 500
) -> tuple[int, int]:
    """(pairs that another person put the same way, pairs that another judged too).

    Of the rater's newest rankings. A pair counts once for each other rater; a tie agrees with a tie.
    """
    mine = (
        select(Ranking.id, Ranking.task_id)
        .where(Ranking.rater_id == rater_id)
        .order_by(Ranking.id.desc())
        .limit(newest)
        .subquery()
    )
    other = aliased(Ranking)
    own, theirs = aliased(Comparison), aliased(Comparison)
    same_way = and_(
        theirs.better_id == own.better_id,
        theirs.worse_id == own.worse_id,
        (theirs.margin == 0) == (own.margin == 0),
    )
    either_way = or_(
        and_(theirs.better_id == own.better_id, theirs.worse_id == own.worse_id),
        and_(theirs.better_id == own.worse_id, theirs.worse_id == own.better_id),
    )
    row = (
        await session.execute(
            select(func.count().filter(same_way), func.count())
            .select_from(mine)
            .join(own, own.ranking_id == mine.c.id)
            .join(
                other,
                and_(other.task_id == mine.c.task_id, other.rater_id != rater_id, by_people(other)),
            )
            .join(theirs, and_(theirs.ranking_id == other.id, either_way))
        )
    ).one()
    return row[0], row[1]


async def list_texts(session: AsyncSession, ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, str]:
    """The texts of these candidates."""
    rows = await session.execute(select(Candidate.id, Candidate.text).where(Candidate.id.in_(ids)))
    return dict(rows.all())


COUNTED_TASKS = 1000


class ProjectWork(NamedTuple):
    """A project as a rater finds it: tasks left for them, own rankings, whether they hold a task."""

    project: Project
    left: int
    own: int
    held: bool
    # What the rater takes for a task there, where it is known.
    median_seconds: float | None


def estimate_minutes(work: ProjectWork) -> int | None:
    """What is left at the rater's own pace; None where that is not known, or there is plenty."""
    if work.median_seconds is None or not 0 < work.left < COUNTED_TASKS:
        return None
    return max(1, round(work.left * work.median_seconds / 60))


async def list_projects_with_work(session: AsyncSession, rater: User) -> Sequence[ProjectWork]:
    """What there is to do for a rater in every project that they see and that is not paused.

    Counting stops at COUNTED_TASKS: a rater needs to know that there is plenty, not how much.
    """
    rater_id = rater.id
    had = (
        select(Assignment.id)
        .where(
            Assignment.task_id == Task.id,
            Assignment.rater_id == rater_id,
            Assignment.state != AssignmentState.EXPIRED,
        )
        .exists()
    )
    some = (
        select(Task.id)
        .where(
            Task.project_id == Project.id,
            Task.open_slots > 0,
            Task.retired_at.is_(None),
            ~enough_gold(),
            ~had,
        )
        .limit(COUNTED_TASKS)
        .correlate(Project)
        .subquery()
    )
    left = select(func.count()).select_from(some).scalar_subquery()
    own = (
        select(func.count())
        .select_from(Ranking)
        .where(Ranking.project_id == Project.id, Ranking.rater_id == rater_id)
        .scalar_subquery()
    )
    held = (
        select(Assignment.id)
        .where(
            Assignment.project_id == Project.id,
            Assignment.rater_id == rater_id,
            Assignment.state == AssignmentState.LEASED,
        )
        .exists()
    )
    median = (
        select(func.percentile_cont(0.5).within_group(Ranking.seconds))
        .where(Ranking.project_id == Project.id, Ranking.rater_id == rater_id)
        .scalar_subquery()
    )
    rows = await session.execute(
        select(Project, left, own, held, median)
        .where(Project.paused.is_(False), visible_to(rater))
        .order_by(Project.name)
    )
    return [ProjectWork(*row) for row in rows]


async def set_task_priority(
    session: AsyncSession, prompt_ids: Sequence[uuid.UUID], priority: int
) -> None:
    """Let the tasks of these prompts have their prompts' new priority."""
    await session.execute(
        update(Task).where(Task.prompt_id.in_(prompt_ids)).values(priority=priority)
    )


async def list_rankings_of(
    session: AsyncSession, prompt_id: uuid.UUID
) -> Sequence[tuple[Ranking, str]]:
    """A prompt's rankings with their raters' names, for admins."""
    rows = await session.execute(
        select(Ranking, User)
        .join(Task, Task.id == Ranking.task_id)
        .join(User, User.id == Ranking.rater_id)
        .where(Task.prompt_id == prompt_id)
        .order_by(Ranking.id)
    )
    return [(ranking, user.display_name) for ranking, user in rows]


async def list_qualifications(
    session: AsyncSession, project_id: uuid.UUID
) -> Sequence[tuple[Qualification, str]]:
    """How everybody's qualification came out, with their names, the newest first."""
    rows = await session.execute(
        select(Qualification, User)
        .join(User, User.id == Qualification.rater_id)
        .where(Qualification.project_id == project_id)
        .order_by(Qualification.decided_at.desc())
    )
    return [(each, user.display_name) for each, user in rows]
