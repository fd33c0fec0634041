"""Tasks, leases and rankings: who gets what next, and what is kept of what they say.

The states and their transitions are in `app.rating.models`; the database's constraints hold them.
"""

import asyncio
import json
import random
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

from sqlalchemy import Row
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import User
from app.db.types import utc_now, uuid7
from app.errors import Conflict, InvalidInput, NotFound, Unavailable
from app.projects.models import Project
from app.prompts.models import Prompt, PromptState
from app.rating import queries, slots
from app.rating.models import AssignmentState, Comparison, Ranking, Task
from app.rating.schemas import (
    DraftIn,
    Lease,
    OwnRanking,
    Progress,
    RankingIn,
    RankingOut,
    Shown,
)

LETTERS = "ABCDEFGHI"
# A lease that finds every open task locked by others looks again, for about four seconds in all.
LEASE_TRIES = 40
SHORTEST_WAIT = 0.005  # seconds: about what a lease takes from its lock to its commit
LONGEST_WAIT = 0.1
# Assignments that may still be answered.
OPEN = (AssignmentState.LEASED, AssignmentState.EXPIRED)


async def open_task(session: AsyncSession, prompt_id: uuid.UUID) -> None:
    """Let raters have a prompt that has its candidates. Doing it twice changes nothing."""
    prompt = await session.get_one(Prompt, prompt_id)
    project = await session.get_one(Project, prompt.project_id)
    await session.execute(
        insert(Task)
        .values(
            project_id=project.id,
            prompt_id=prompt.id,
            priority=prompt.priority,
            overlap=project.overlap,
            open_slots=project.overlap,
        )
        .on_conflict_do_nothing(index_elements=[Task.prompt_id])
    )


async def lease_next_task(session: AsyncSession, project: Project, rater: User) -> Lease | None:
    """The rater's next task, or the one they hold already; None when nothing is left for them.

    A paused project gives nothing new; who holds a task of it may finish that. Raises Unavailable where
    what is left stays locked: that is not the same as nothing being left.
    """
    for attempt in range(LEASE_TRIES):
        if attempt:
            # Whoever was quicker is about to commit; half the wait is drawn, so that the many who
            # wait for one task do not come back all at once.
            pause = min(SHORTEST_WAIT * 2**attempt, LONGEST_WAIT)
            await asyncio.sleep(pause * (1 + random.random()) / 2)  # noqa: S311 - no secret
        found = await slots.find_held_or_lapsed(session, project.id, rater.id)
        if found.held is not None:
            held = await _get_held(session, found.held, project, rater)
            if held is None:
                continue
            return held
        if project.paused:
            return None
        # Locks that a sweep took must not be kept while waiting for others'.
        savepoint = await session.begin_nested() if found.lapsed else None
        if savepoint is not None:
            await slots.free_lapsed_skip_locked(session, project.id)
        task = await slots.lock_next_task_skip_locked(session, project.id, rater.id)
        if task is not None:
            lease = await _take(session, task, project, rater)
            if lease is not None:
                if savepoint is not None:
                    await savepoint.commit()
                return lease
        elif not await slots.has_open_task(session, project.id, rater.id):
            if savepoint is not None:
                await savepoint.commit()
            return None
        if savepoint is not None:
            await savepoint.rollback()
    raise Unavailable(
        "Every open task is being handed out at this moment; try again", place="tasks"
    )


async def _get_held(
    session: AsyncSession, assignment_id: uuid.UUID, project: Project, rater: User
) -> Lease | None:
    """The lease that a rater holds; one past its time is renewed, or None if its slot just went."""
    row = await slots.find_contents(session, assignment_id, rater.id)
    if row is None or row.state not in OPEN:
        return None
    lease = _lease_of(row)
    if not lease.expired:
        return lease
    end = await slots.renew(session, assignment_id, project.lease_seconds)
    return None if end is None else replace(lease, expires_at=end, expired=False)


async def _take(
    session: AsyncSession, task: Row[Any], project: Project, rater: User
) -> Lease | None:
    """Put the rater on the lowest free slot of a locked task; None where they hold another by now."""
    texts = {uuid.UUID(each["id"]): each["text"] for each in task.candidates}
    presented = task.presented
    values = {
        "id": task.own_id or uuid7(),
        "task_id": task.task_id,
        "overlap": task.overlap,
        "guideline_version": project.guideline_version,
        "lease_seconds": project.lease_seconds,
    }
    if task.own_id is not None:  # it ran out: the same order, and the draft, again
        try:
            async with session.begin_nested():
                expires_at = await slots.take_slot_again(session, **values)
        except IntegrityError:
            return None
    else:
        seed = secrets.randbits(62)
        presented = list(texts)
        random.Random(seed).shuffle(presented)  # noqa: S311 - fairness, recorded; not a secret
        expires_at = await slots.take_slot(
            session,
            **values,
            project_id=project.id,
            rater_id=rater.id,
            presented=presented,
            seed=seed,
        )
    if expires_at is None:
        return None
    return Lease(
        assignment_id=values["id"],
        task_id=task.task_id,
        project_slug=project.slug,
        expires_at=expires_at,
        messages=task.messages,
        candidates=[Shown(each, texts[each]) for each in presented],
        axes=project.axes,
        flags=project.flags,
        draft=task.draft,
        guideline_version=project.guideline_version,
    )


def _no_such_assignment() -> NotFound:
    return NotFound("You have no such assignment", place="assignment")


async def get_lease(session: AsyncSession, assignment_id: uuid.UUID, rater: User) -> Lease:
    """An assignment of this rater's, held or expired. Raises NotFound, Conflict when it is done."""
    row = await slots.find_contents(session, assignment_id, rater.id)
    if row is None:
        raise _no_such_assignment()
    if row.state not in OPEN:
        raise Conflict(f"This assignment is {row.state}", place="assignment")
    return _lease_of(row)


def _lease_of(row: Row[Any]) -> Lease:
    texts = {uuid.UUID(each["id"]): each["text"] for each in row.candidates}
    return Lease(
        assignment_id=row.id,
        task_id=row.task_id,
        project_slug=row.slug,
        expires_at=row.expires_at,
        messages=row.messages,
        candidates=[Shown(each, texts[each]) for each in row.presented],
        axes=row.axes,
        flags=row.flags,
        draft=row.draft,
        guideline_version=row.guideline_version,
        expired=row.state == AssignmentState.EXPIRED or row.lapsed,
    )


async def save_draft(
    session: AsyncSession, assignment_id: uuid.UUID, rater: User, draft: DraftIn
) -> datetime:
    """Keep what the rater has put down so far, and renew the lease: they are at work.

    Returns when the lease runs out. One whose slot has gone keeps its draft too, but not the slot.
    Raises NotFound, Conflict when the assignment is done.
    """
    written = draft.model_dump_json()
    end: datetime | None = await slots.save_draft(session, assignment_id, rater.id, written)
    if end is None:
        found = await slots.find_assignment(session, assignment_id, rater.id)
        if found is None:
            raise _no_such_assignment()
        raise Conflict(f"This assignment is {found.state} already", place="assignment")
    return end


async def submit_ranking(
    session: AsyncSession,
    assignment_id: uuid.UUID,
    rater: User,
    given: RankingIn,
) -> RankingOut:
    """Store a ranking and its comparisons. The same again changes nothing and answers the same.

    Raises NotFound for somebody else's assignment, InvalidInput naming what is wrong, Conflict where
    another ranking of this assignment is stored or it was skipped. A ranking that comes after its
    lease ran out takes a free slot, or is kept as an extra one: never dropped.
    """
    found = await slots.find_assignment(session, assignment_id, rater.id)
    if found is None:
        raise _no_such_assignment()
    extra = None
    if found.state in OPEN:
        check_ranking(given, found.presented, found.axes, found.flags)
        extra = await _finish(session, assignment_id, found.task_id)
    if extra is None:
        return await _answer_again(session, assignment_id, given)
    stored = await slots.store_ranking(
        session,
        compare(given.ranks),
        id=uuid7(),
        project_id=found.project_id,
        task_id=found.task_id,
        assignment_id=assignment_id,
        rater_id=rater.id,
        ranks=json.dumps({str(each): given.ranks[each] for each in found.presented}),
        presented=found.presented,
        axes=json.dumps(given.axes),
        flags=sorted(set(given.flags)),
        rationale=given.rationale or None,
        rewrite=given.rewrite or None,
        seconds=given.seconds,
        guideline_version=found.guideline_version,
        extra=extra,
    )
    return RankingOut.model_validate(stored)


async def _finish(
    session: AsyncSession, assignment_id: uuid.UUID, task_id: uuid.UUID
) -> bool | None:
    """Close an assignment for its ranking: whether that is an extra one; None if it is closed already.

    A lease past its time still has its slot, as long as nobody has been given it.
    """
    if await slots.finish_lease(session, assignment_id):
        return False
    state, overlap, open_slots = await slots.lock_both(session, task_id, assignment_id)
    if state == AssignmentState.LEASED:  # leased again a moment ago, in another window
        return not await slots.finish_lease(session, assignment_id)
    if state != AssignmentState.EXPIRED:
        return None
    if open_slots > 0:
        await slots.finish_late(session, assignment_id, task_id, overlap)
        return False
    await slots.finish_extra(session, assignment_id)
    return True


async def _answer_again(
    session: AsyncSession, assignment_id: uuid.UUID, given: RankingIn
) -> RankingOut:
    stored = await slots.find_ranking(session, assignment_id)
    if stored is None:
        raise Conflict("This assignment was skipped", place="assignment")
    if not _says_the_same(stored, given):
        raise Conflict("Another ranking of this assignment is already stored", place="ranks")
    return RankingOut.model_validate(stored)


def check_ranking(
    given: RankingIn,
    candidates: Sequence[uuid.UUID],
    axes: Sequence[Mapping[str, Any]],
    flags: Sequence[Mapping[str, Any]],
) -> None:
    """Hold a ranking against its task and project. Raises InvalidInput naming the first fault."""
    check_ranks(given.ranks, candidates)
    scales = {axis["name"]: axis for axis in axes}
    for name, score in given.axes.items():
        scale = scales.get(name)
        if scale is None:
            raise InvalidInput(f"the project has no axis {name!r}", place=f"axes.{name}")
        if not scale["min"] <= score <= scale["max"]:
            raise InvalidInput(
                f"is {score:g}; the scale goes from {scale['min']} to {scale['max']}",
                place=f"axes.{name}",
            )
    known = {flag["name"] for flag in flags}
    for flag in given.flags:
        if flag not in known:
            raise InvalidInput(f"the project has no flag {flag!r}", place="flags")


def check_ranks(ranks: Mapping[uuid.UUID, int], candidates: Sequence[uuid.UUID]) -> None:
    """Every candidate once, in whole numbers 1 to K, the best of them 1. Raises InvalidInput."""
    for candidate in ranks:
        if candidate not in candidates:
            raise InvalidInput("is not a candidate of this task", place=f"ranks.{candidate}")
    for candidate in candidates:
        if candidate not in ranks:
            raise InvalidInput("has no rank", place=f"ranks.{candidate}")
    for candidate, rank in ranks.items():
        if not 1 <= rank <= len(candidates):
            raise InvalidInput(
                f"the rank {rank} is not between 1 and {len(candidates)}",
                place=f"ranks.{candidate}",
            )
    if min(ranks.values()) != 1:
        raise InvalidInput("no candidate has rank 1, the best", place="ranks")


def _says_the_same(stored: Row[Any], given: RankingIn) -> bool:
    return (
        stored.ranks == {str(candidate): rank for candidate, rank in given.ranks.items()}
        and {name: float(score) for name, score in stored.axes.items()} == given.axes
        and set(stored.flags) == set(given.flags)
        and (stored.rationale or "") == (given.rationale or "")
        and (stored.rewrite or "") == (given.rewrite or "")
    )


def compare(ranks: Mapping[uuid.UUID, int]) -> list[tuple[uuid.UUID, uuid.UUID, int]]:
    """All K(K-1)/2 pairs of a ranking as (better, worse, margin); ties, with margin 0, by id."""
    pairs = []
    for first, second in combinations(sorted(ranks), 2):
        better, worse = (first, second) if ranks[first] <= ranks[second] else (second, first)
        pairs.append((better, worse, ranks[worse] - ranks[better]))
    return pairs


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


async def skip(session: AsyncSession, assignment_id: uuid.UUID, rater: User, reason: str) -> None:
    """Give a task back, with the reason; somebody else gets it, this rater never again.

    Skipping twice changes nothing. Raises NotFound, InvalidInput without a reason, Conflict when the
    assignment was ranked.
    """
    found = await slots.find_assignment(session, assignment_id, rater.id)
    if found is None:
        raise _no_such_assignment()
    reason = reason.strip()
    if not reason or "\x00" in reason:
        raise InvalidInput("say why the task is skipped", place="reason")
    state, _, _ = await slots.lock_both(session, found.task_id, assignment_id)
    if state == AssignmentState.SKIPPED:
        return
    if state in (AssignmentState.SUBMITTED, AssignmentState.EXTRA):
        raise Conflict("This assignment was ranked already", place="assignment")
    held = 1 if state == AssignmentState.LEASED else 0
    await slots.give_back(session, assignment_id, found.task_id, reason[:2000], held)


async def get_progress(session: AsyncSession, project: Project) -> Progress:
    """Counts of a project, as they stand now."""
    now = utc_now()
    await slots.free_lapsed_skip_locked(session, project.id)
    prompts = await queries.count_prompts(session, project.id)
    ready, rated = await queries.count_tasks(session, project.id)
    leased, skipped = await queries.count_assignments(session, project.id, now)
    return Progress(
        prompts=sum(prompts.values()),
        queued=prompts.get(PromptState.QUEUED, 0),
        generating=prompts.get(PromptState.GENERATING, 0),
        failed=prompts.get(PromptState.FAILED, 0),
        generated=prompts.get(PromptState.READY, 0),
        ready=ready,
        leased=leased,
        rated=rated,
        rankings=await queries.count_rankings(session, project.id),
        skipped=skipped,
    )


async def list_own_rankings(
    session: AsyncSession, rater: User, *, limit: int = 20, offset: int = 0
) -> list[OwnRanking]:
    """A rater's own rankings, the newest first."""
    rows = await queries.list_own_rankings(session, rater.id, limit=limit, offset=offset)
    ids = [candidate for ranking, _, _ in rows for candidate in ranking.presented]
    texts = await queries.list_texts(session, ids)
    return [own_ranking(ranking, prompt, project, texts) for ranking, prompt, project in rows]


async def get_own_ranking(session: AsyncSession, rater: User, ranking_id: uuid.UUID) -> OwnRanking:
    """One of a rater's own rankings. Raises NotFound."""
    row = await queries.get_own_ranking(session, rater.id, ranking_id)
    if row is None:
        raise NotFound("You have no such ranking", place="ranking")
    ranking, prompt, project = row
    texts = await queries.list_texts(session, ranking.presented)
    return own_ranking(ranking, prompt, project, texts)


def own_ranking(
    ranking: Ranking, prompt: Prompt, project: Project, texts: Mapping[uuid.UUID, str]
) -> OwnRanking:
    """A ranking as its rater may see it again."""
    letters = dict(zip(ranking.presented, LETTERS, strict=False))
    placed = sorted(
        (ranking.ranks[str(each)], letters[each], texts[each]) for each in ranking.presented
    )
    facts: dict[str, Any] = {
        name: getattr(ranking, name)
        for name in ("id", "axes", "flags", "rationale", "rewrite", "seconds", "extra")
    }
    return OwnRanking(
        project_slug=project.slug,
        project_name=project.name,
        messages=prompt.messages,
        placed=placed,
        created_at=ranking.created_at,
        **facts,
    )


async def get_totals(session: AsyncSession, rater: User) -> tuple[int, int, float]:
    """(all, today's, seconds today) of a rater's rankings; the day is UTC's."""
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return await queries.count_own_rankings(session, rater.id, midnight)
