"""A run of AI feedback over a project: what one judgement is, stands in `service`.

It opens its own sessions and commits each judgement by itself, so that a run that is stopped keeps what it
has. What is done is not done again; the database's one ranking for each task and rater settles what two
runs at once would do twice.
"""

import asyncio
from collections.abc import Callable

from app.accounts.service import get_or_create_ai_rater, record
from app.db.engine import SessionMaker
from app.errors import InvalidInput, PlackettError
from app.feedback import queries
from app.feedback.principles import Principles
from app.feedback.service import Judge, Report, store
from app.generation.backends.base import GenerationError
from app.generation.backends.opening import open_backend
from app.policies.models import Backend as BackendKind
from app.policies.service import get_policy
from app.projects.models import Project
from app.projects.schemas import Sampling
from app.settings import Settings

# Tasks in flight at once: enough to fill a back end's batch.
BATCH = 8
# After so many tasks in a row without a usable answer, something is wrong with the policy.
MOST_FAILURES = 10


class TooManyFailures(PlackettError):  # noqa: N818
    """The policy does not answer what it is asked."""

    status = 502
    code = "policy-does-not-answer"


async def give_feedback(
    sessions: SessionMaker,
    settings: Settings,
    project: Project,
    policy_name: str,
    principles: Principles,
    *,
    seed: int = 0,
    limit: int | None = None,
    revise: bool = False,
    rounds: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Rank every task that this policy by these principles has not ranked; with `revise`, also rewrite.

    Raises NotFound for an unknown policy, InvalidInput for one that cannot speak or principles that miss
    what is asked for, TooManyFailures where nothing usable comes. What was stored until then stays.
    """
    by = principles.to_rank_by()
    after_that = principles.to_revise_by() if revise else []
    async with sessions() as session:
        policy = await get_policy(session, policy_name)
        if policy.backend is BackendKind.IMPORTED:
            raise InvalidInput(f"{policy.name!r} cannot be asked anything", field="policy")
        name = f"{policy.name}, principles {principles.version}"
        rater = await get_or_create_ai_rater(session, name)
        await record(session, None, "feedback.start", project.slug, policy=policy.name, seed=seed)
        total = await queries.count_tasks(session, project.id, rater.id, revise=revise)
        await session.commit()
    judge = Judge(
        open_backend(policy, settings),
        Sampling.model_validate(project.sampling),
        by,
        after_that,
        rounds,
        seed,
    )
    report = Report(rater.name)
    total = min(total, limit) if limit is not None else total
    done, in_a_row, last = 0, 0, None
    while done < total:
        async with sessions() as session:
            works = await queries.list_tasks(
                session,
                project.id,
                rater.id,
                revise=revise,
                after=last,
                limit=min(BATCH, total - done),
            )
        if not works:
            break
        last = works[-1].task_id
        for judgement in await asyncio.gather(*(judge.judge(work) for work in works)):
            done += 1
            if isinstance(judgement, GenerationError):
                in_a_row += 1
                report.failed += 1
                report.failures[str(judgement)] = report.failures.get(str(judgement), 0) + 1
                continue
            in_a_row = 0
            async with sessions() as session:
                await store(session, project, rater, judgement, report)
                await session.commit()
        progress(done, total)
        if in_a_row >= MOST_FAILURES:
            reason = max(report.failures, key=lambda each: report.failures[each])
            raise TooManyFailures(
                f"{in_a_row} tasks in a row had no usable answer: {reason}", field="policy"
            )
    return report
