"""Rankings come in, and may be changed for a while: each checked, and written with its comparisons."""

import uuid
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import User
from app.errors import Conflict, NotFound
from app.rating import assignments, qualification, slots
from app.rating.assign import OPEN, lease_of, no_such_assignment
from app.rating.judgement import check_ranking, check_screen, check_seen
from app.rating.models import AssignmentState, Ranking
from app.rating.rankings import (
    Content,
    LockedRanking,
    NewRanking,
    StoredRanking,
    find_ranking,
    lock_own_ranking,
    record_ranking,
    revise_locked_ranking,
)
from app.rating.schemas import Lease, RankingIn, RankingOut


async def get_answered(session: AsyncSession, ranking_id: uuid.UUID, rater: User) -> Lease:
    """The assignment that a ranking answered, with the ranking as its draft. Raises NotFound."""
    ranking = await session.get(Ranking, ranking_id)
    if ranking is None or ranking.rater_id != rater.id or ranking.assignment_id is None:
        raise NotFound("You have no such ranking", field="ranking")
    row = await assignments.find_contents(session, ranking.assignment_id, rater.id)
    if row is None:
        raise no_such_assignment()
    one, other = (ranking.ranks[str(each)] for each in ranking.candidate_ids[:2])
    sign = (one < other) - (one > other)
    draft = {
        "ranks": ranking.ranks,
        "preference": sign * (ranking.strength or 2) if sign else 0,
        "axes": ranking.axes,
        "flags": ranking.flags,
        "rationale": ranking.rationale or "",
        "rewrite": ranking.rewrite or "",
        "seconds": ranking.seconds or 0,
    }
    return replace(lease_of(row), draft=draft, expired=False)


async def submit_ranking(
    session: AsyncSession,
    assignment_id: uuid.UUID,
    rater: User,
    given: RankingIn,
) -> RankingOut:
    """Store a ranking and its comparisons. The same again changes nothing and answers the same.

    Raises NotFound for somebody else's assignment, InvalidInput naming what is wrong, Conflict where
    another ranking of this assignment is stored, it was skipped, or the project's questions are others than
    those that were on the screen. A ranking that comes after its
    lease ran out takes a free slot, or is kept as a surplus one: never dropped.
    """
    assignment = await assignments.find_assignment(session, assignment_id, rater.id)
    if assignment is None:
        raise no_such_assignment()
    surplus = None
    if assignment.state in OPEN:
        check_screen(given, assignment.axes, assignment.flags, assignment.newest_version)
        check_ranking(given, assignment.presented, assignment.axes, assignment.flags)
        check_seen(given.seen, assignment.presented, required=assignment.require_seen)
        surplus = await _finish(session, assignment_id, assignment.task_id)
    if surplus is None:
        return await _answer_again(session, assignment_id, given)
    stored = await record_ranking(
        session,
        NewRanking(
            project_id=assignment.project_id,
            task_id=assignment.task_id,
            assignment_id=assignment_id,
            rater_id=rater.id,
            presented=assignment.presented,
            seen=given.seen,
            blind=True,
            timed=True,
            guideline_version=assignment.guideline_version
            if given.guideline_version is None
            else given.guideline_version,
            surplus=surplus,
            content=_content(given),
        ),
    )
    if stored is None:
        raise Conflict("Another ranking of this assignment is already stored", field="ranks")
    if assignment.qualification:
        await qualification.decide_qualification(
            session,
            assignment.project_id,
            rater.id,
            tasks=assignment.qualification_tasks,
            needed=assignment.qualification_accuracy,
        )
    return RankingOut.model_validate(stored)


def _content(given: RankingIn) -> Content:
    return Content(
        ranks=given.ranks,
        strength=given.strength,
        axes=_plain_axes(given),
        flags=sorted(set(given.flags)),
        rationale=given.rationale or None,
        rewrite=given.rewrite or None,
        seconds=given.seconds,
    )


def _plain_axes(given: RankingIn) -> dict[str, float | dict[str, float]]:
    return {
        name: {str(each): value for each, value in score.items()}
        if isinstance(score, dict)
        else score
        for name, score in given.axes.items()
    }


async def revise_ranking(
    session: AsyncSession, ranking_id: uuid.UUID, rater: User, given: RankingIn
) -> RankingOut:
    """Change one of the rater's own rankings; what it said before is kept as a revision.

    The same again changes nothing. Raises NotFound, InvalidInput naming what is wrong, and Conflict once
    the project's time for changes is over, or for an answer of a qualification, whose solution was shown.
    """
    own = await lock_own_ranking(session, ranking_id, rater.id)
    if own is None:
        raise NotFound("You have no such ranking", field="ranking")
    if not own.open or own.qualification:
        raise Conflict("This ranking can no longer be changed", field="ranking")
    check_screen(given, own.scales, own.known_flags, own.newest_version)
    check_ranking(given, own.presented, own.scales, own.known_flags)
    if not _says_the_same(own, given):
        await revise_locked_ranking(session, ranking_id, _content(given))
    return RankingOut.model_validate(await session.get_one(Ranking, ranking_id))


async def _finish(
    session: AsyncSession, assignment_id: uuid.UUID, task_id: uuid.UUID
) -> bool | None:
    """Close an assignment for its ranking: whether that is a surplus one; None if it is closed already.

    A lease past its time still has its slot, as long as nobody has been given it.
    """
    if await slots.finish_lease(session, assignment_id):
        return False
    state, overlap, open_slots = await slots.lock_task_and_assignment(
        session, task_id, assignment_id
    )
    if state == AssignmentState.LEASED:  # leased again a moment ago, in another window
        return not await slots.finish_lease(session, assignment_id)
    if state != AssignmentState.EXPIRED:
        return None
    if open_slots > 0:
        await slots.finish_late(session, assignment_id, task_id, overlap)
        return False
    await slots.finish_surplus(session, assignment_id)
    return True


async def _answer_again(
    session: AsyncSession, assignment_id: uuid.UUID, given: RankingIn
) -> RankingOut:
    stored = await find_ranking(session, assignment_id)
    if stored is None:
        raise Conflict("This assignment was skipped", field="assignment")
    if not _says_the_same(stored, given):
        raise Conflict("Another ranking of this assignment is already stored", field="ranks")
    return RankingOut.model_validate(stored)


def _says_the_same(stored: StoredRanking | LockedRanking, given: RankingIn) -> bool:
    return (
        stored.ranks == {str(candidate): rank for candidate, rank in given.ranks.items()}
        and stored.strength == given.strength
        and stored.axes == _plain_axes(given)
        and set(stored.flags) == set(given.flags)
        and (stored.rationale or "") == (given.rationale or "")
        and (stored.rewrite or "") == (given.rewrite or "")
    )
