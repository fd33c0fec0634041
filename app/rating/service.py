"""Tasks, leases and rankings: who gets what next, and what is kept of what they say.

The states and their transitions are in `app.rating.models`; the database's constraints hold them.
"""

import asyncio
import random
import secrets
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import User
from app.db.types import utc_now, uuid7
from app.errors import Conflict, InvalidInput, NotFound
from app.projects.models import Project
from app.prompts.models import Prompt, PromptState
from app.rating import queries
from app.rating.models import Assignment, AssignmentState, Comparison, Ranking, Task
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
# Two requests of one rater at the same moment race for the rater's one lease; the loser looks again.
LEASE_TRIES = 6


class LostRace(Exception):  # noqa: N818
    """Another request took this task a moment ago, or holds the last ones locked at this moment."""


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

    A paused project gives nothing new.
    """
    for attempt in range(LEASE_TRIES):
        now = utc_now()
        await queries.free_expired_slots(session, project.id, now)
        held = await queries.find_held_assignment(session, project.id, rater.id)
        if held is not None:
            return await _lease_of(session, held, project)
        if project.paused:
            return None
        try:
            async with session.begin_nested():
                task = await queries.lease_next_task_for_update(session, project.id, rater.id)
                if task is None and await queries.has_open_task(session, project.id, rater.id):
                    raise LostRace
                if task is None:
                    return None
                assignment = await _take_slot(session, task, project, rater, now)
        except (IntegrityError, LostRace):
            # Whoever was quicker is about to commit; what is left then, the next look tells.
            await asyncio.sleep(0.01 * 2**attempt)
            continue
        return await _lease_of(session, assignment, project)
    return None


async def _take_slot(
    session: AsyncSession, task: Task, project: Project, rater: User, now: datetime
) -> Assignment:
    """Put the rater on the lowest free slot of a locked task."""
    taken = await queries.list_held_slots(session, task.id)
    slot = next(number for number in range(1, task.overlap + 1) if number not in taken)
    candidates = await queries.list_candidates(session, task.prompt_id)
    seed = secrets.randbits(62)
    presented = [candidate.id for candidate in candidates]
    random.Random(seed).shuffle(presented)  # noqa: S311 - fairness, recorded; not a secret
    values = {
        "state": AssignmentState.LEASED,
        "slot": slot,
        "leased_at": now,
        "expires_at": now + timedelta(seconds=project.lease_seconds),
        "guideline_version": project.guideline_version,
    }
    statement = (
        insert(Assignment)
        .values(
            id=uuid7(),
            task_id=task.id,
            project_id=project.id,
            rater_id=rater.id,
            presented=presented,
            seed=seed,
            **values,
        )
        # Only an expired one can be here: the rater sees the same order, and their draft, again.
        .on_conflict_do_update(
            index_elements=["task_id", "rater_id"],
            set_=values,
            where=Assignment.state == AssignmentState.EXPIRED,
        )
        .returning(Assignment)
    )
    task.open_slots -= 1
    await session.flush()
    rows = await session.scalars(statement, execution_options={"populate_existing": True})
    assignment = rows.one_or_none()
    if assignment is None:
        raise LostRace
    return assignment


async def _lease_of(session: AsyncSession, assignment: Assignment, project: Project) -> Lease:
    task = await session.get_one(Task, assignment.task_id)
    prompt = await session.get_one(Prompt, task.prompt_id)
    texts = await queries.list_texts(session, assignment.presented)
    return Lease(
        assignment_id=assignment.id,
        task_id=assignment.task_id,
        project_slug=project.slug,
        expires_at=assignment.expires_at,
        messages=prompt.messages,
        candidates=[Shown(each, texts[each]) for each in assignment.presented],
        axes=project.axes,
        flags=project.flags,
        draft=assignment.draft,
        guideline_version=assignment.guideline_version,
        expired=assignment.state is AssignmentState.EXPIRED or assignment.expires_at <= utc_now(),
    )


async def _own_assignment(
    session: AsyncSession, assignment_id: uuid.UUID, rater: User
) -> Assignment:
    assignment = await session.get(Assignment, assignment_id)
    if assignment is None or assignment.rater_id != rater.id:
        raise NotFound("You have no such assignment", place="assignment")
    return assignment


async def get_lease(session: AsyncSession, assignment_id: uuid.UUID, rater: User) -> Lease:
    """An assignment of this rater's, held or expired. Raises NotFound, Conflict when it is done."""
    assignment = await _own_assignment(session, assignment_id, rater)
    if assignment.state not in (AssignmentState.LEASED, AssignmentState.EXPIRED):
        raise Conflict(f"This assignment is {assignment.state.value}", place="assignment")
    project = await session.get_one(Project, assignment.project_id)
    return await _lease_of(session, assignment, project)


async def save_draft(
    session: AsyncSession, assignment_id: uuid.UUID, rater: User, draft: DraftIn
) -> datetime:
    """Keep what the rater has put down so far, and renew the lease: they are at work.

    Returns when the lease runs out. An expired one keeps its draft too, but not the slot.
    """
    await _own_assignment(session, assignment_id, rater)
    assignment = await queries.get_assignment_for_update(session, assignment_id)
    assert assignment is not None
    if assignment.state not in (AssignmentState.LEASED, AssignmentState.EXPIRED):
        raise Conflict(f"This assignment is {assignment.state.value} already", place="assignment")
    assignment.draft = draft.model_dump()
    now = utc_now()
    if assignment.state is AssignmentState.LEASED and assignment.expires_at > now:
        project = await session.get_one(Project, assignment.project_id)
        assignment.expires_at = now + timedelta(seconds=project.lease_seconds)
    await session.flush()
    return assignment.expires_at


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
    seen = await _own_assignment(session, assignment_id, rater)
    project = await session.get_one(Project, seen.project_id)
    check_ranking(given, seen.presented, project)
    task = await queries.get_task_for_update(session, seen.task_id)
    assignment = await queries.get_assignment_for_update(session, assignment_id)
    assert assignment is not None
    if assignment.state is AssignmentState.SKIPPED:
        raise Conflict("This assignment was skipped", place="assignment")
    stored = await queries.find_ranking(session, task.id, rater.id)
    if stored is not None:
        if _says_the_same(stored, given):
            return RankingOut.model_validate(stored)
        raise Conflict("Another ranking of this assignment is already stored", place="ranks")
    if assignment.state is AssignmentState.EXPIRED and task.open_slots > 0:
        taken = await queries.list_held_slots(session, task.id)
        assignment.slot = next(n for n in range(1, task.overlap + 1) if n not in taken)
        task.open_slots -= 1
        assignment.state = AssignmentState.SUBMITTED
    elif assignment.state is AssignmentState.EXPIRED:
        assignment.state = AssignmentState.EXTRA
    else:  # leased; even past its time, as long as nobody has been given the slot
        assignment.state = AssignmentState.SUBMITTED
    assignment.finished_at = utc_now()
    assignment.draft = None
    ranking = Ranking(
        id=uuid7(),
        project_id=task.project_id,
        task_id=task.id,
        assignment_id=assignment.id,
        rater_id=rater.id,
        ranks={str(candidate): given.ranks[candidate] for candidate in assignment.presented},
        presented=assignment.presented,
        axes=given.axes,
        flags=sorted(set(given.flags)),
        rationale=given.rationale or None,
        rewrite=given.rewrite or None,
        seconds=given.seconds,
        guideline_version=assignment.guideline_version,
        extra=assignment.state is AssignmentState.EXTRA,
        created_at=utc_now(),
    )
    session.add(ranking)
    await session.flush()
    await store_comparisons(session, {ranking.id: given.ranks})
    return RankingOut.model_validate(ranking)


def check_ranking(given: RankingIn, candidates: Sequence[uuid.UUID], project: Project) -> None:
    """Hold a ranking against its task and project. Raises InvalidInput naming the first fault."""
    check_ranks(given.ranks, candidates)
    scales = {axis["name"]: axis for axis in project.axes}
    for name, score in given.axes.items():
        scale = scales.get(name)
        if scale is None:
            raise InvalidInput(f"the project has no axis {name!r}", place=f"axes.{name}")
        if not scale["min"] <= score <= scale["max"]:
            raise InvalidInput(
                f"is {score:g}; the scale goes from {scale['min']} to {scale['max']}",
                place=f"axes.{name}",
            )
    known = {flag["name"] for flag in project.flags}
    for flag in given.flags:
        if flag not in known:
            raise InvalidInput(f"the project has no flag {flag!r}", place="flags")
    for field in ("rationale", "rewrite"):
        if "\x00" in (getattr(given, field) or ""):
            raise InvalidInput("contains the character NUL", place=field)


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


def _says_the_same(stored: Ranking, given: RankingIn) -> bool:
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
    seen = await _own_assignment(session, assignment_id, rater)
    reason = reason.strip()
    if not reason or "\x00" in reason:
        raise InvalidInput("say why the task is skipped", place="reason")
    task = await queries.get_task_for_update(session, seen.task_id)
    assignment = await queries.get_assignment_for_update(session, assignment_id)
    assert assignment is not None
    if assignment.state is AssignmentState.SKIPPED:
        return
    if assignment.state in (AssignmentState.SUBMITTED, AssignmentState.EXTRA):
        raise Conflict("This assignment was ranked already", place="assignment")
    if assignment.state is AssignmentState.LEASED:
        task.open_slots += 1
    assignment.state = AssignmentState.SKIPPED
    assignment.slot = None
    assignment.skip_reason = reason[:2000]
    assignment.finished_at = utc_now()
    await session.flush()


async def get_progress(session: AsyncSession, project: Project) -> Progress:
    """Counts of a project, as they stand now."""
    now = utc_now()
    await queries.free_expired_slots(session, project.id, now)
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
