"""The worker's part: claim prompts, have their candidates written, hand them on to raters.

A ticket (one job) claims a batch of prompts, the most urgent first, and lets go of the database while
the models write. Each prompt is finished in a transaction of its own, which first makes sure that the
claim is still this worker's. Claims are short, and renewed while the models write: those of a worker that
died run out before a minute is over, and its ticket is given back to the queue.
"""

import asyncio
import hashlib
import random
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from procrastinate import Blueprint
from prometheus_client import Counter
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from app import stopping
from app.db.engine import SessionMaker
from app.db.types import utc_now
from app.generation import queries
from app.generation.backends.base import GenerationError, Outcome, Request, Response
from app.generation.backends.opening import open_backend
from app.generation.models import GenerationFailure
from app.generation.service import enqueue
from app.inputs import storable
from app.policies.models import Backend as BackendKind
from app.policies.models import Policy
from app.policies.queries import list_project_policies
from app.projects.models import Project
from app.projects.schemas import Sampling
from app.prompts.models import Candidate, Prompt, PromptState
from app.settings import Settings

log = structlog.get_logger(__name__)

Deliver = Callable[[AsyncSession, uuid.UUID], Awaitable[None]]

# The first try and as many again, with new seeds, where two candidates of a prompt say the same.
RESAMPLES = 3
LONGEST_BACK_OFF = timedelta(hours=1)

CANDIDATES = Counter("plackett_candidates_total", "Candidates written", ["policy"])
FAILURES = Counter("plackett_generation_failures_total", "Failed tries", ["policy"])
TOKENS = Counter("plackett_completion_tokens_total", "Tokens written", ["policy"])


@dataclass
class Slot:
    """One candidate to be written: whose, where, and what came of it."""

    policy: Policy
    position: int
    seed: int = 0
    outcome: Outcome | None = None
    duplicate_of: int | None = None


@dataclass
class Work:
    """A claimed prompt, with its candidates to be."""

    prompt_id: uuid.UUID
    messages: list[dict[str, str]]
    attempt: int
    claim: datetime
    sampling: Sampling
    slots: list[Slot] = field(default_factory=list)


def create_jobs(*, sessions: SessionMaker, settings: Settings, deliver: Deliver) -> Blueprint:
    """The generation room's jobs. `deliver` opens a prompt to raters, in the same transaction."""
    blueprint = Blueprint()

    @blueprint.task(name="generate", queue="generation")
    async def generate(project_id: str) -> None:
        """One ticket: a batch of prompts of the project."""
        worker = Worker(sessions, settings, deliver)
        await worker.run_ticket(uuid.UUID(project_id))

    # Every 20 seconds: what a dead worker held is written again before a minute is over.
    @blueprint.periodic(cron="* * * * * */20")
    @blueprint.task(name="sweep", queue="generation", queueing_lock="generation-sweep")
    async def sweep(timestamp: int) -> None:
        """Tickets for prompts that wait and for which none is queued: nothing stays behind."""
        async with sessions() as session:
            for project_id, due in await queries.list_projects_with_due_prompts(session, utc_now()):
                if not await queries.count_waiting_tickets(session, project_id):
                    await enqueue(session, project_id, due)
            await session.commit()

    return blueprint


class Worker:
    """One ticket's way from claim to delivery."""

    def __init__(self, sessions: SessionMaker, settings: Settings, deliver: Deliver) -> None:
        self.sessions = sessions
        self.settings = settings
        self.deliver = deliver
        # A claim outlasts the silence after which a worker is taken for dead, and is renewed often enough
        # for a database that is slow or away for some seconds to cost none.
        self.claim = timedelta(seconds=settings.worker_silence_seconds * 4 / 3)
        self.renew_seconds = settings.worker_silence_seconds / 4
        # A claim is told by its end: it must not be renewed while a prompt is finished under it.
        self.renewing = asyncio.Lock()

    async def run_ticket(self, project_id: uuid.UUID) -> None:
        """Claim a batch, write its candidates, store them, and queue the next ticket."""
        claimed = await self._claim(project_id)
        if not claimed:
            return
        renewals = asyncio.create_task(self._renew(claimed))
        try:
            await self._write(claimed)
            for work in claimed:
                async with self.renewing:
                    await self._finish(project_id, work)
        finally:
            await stopping.call_off(renewals)
        async with self.sessions() as session:
            if await queries.count_due(session, project_id, utc_now()):
                await enqueue(session, project_id, 1)
            await session.commit()

    async def _claim(self, project_id: uuid.UUID) -> list[Work]:
        async with self.sessions() as session:
            project = await session.get(Project, project_id)
            if project is None or project.paused:
                return []
            now = utc_now()
            own = [each.id for each in await list_project_policies(session, project.id)]
            sampling = Sampling.model_validate(project.sampling)
            claim = now + self.claim
            claimed = []
            for prompt in await queries.claim_prompts_for_update(
                session, project.id, limit=self.settings.generation_batch, now=now
            ):
                policies = [
                    policy
                    for policy in await queries.list_policies(session, prompt.policy_ids or own)
                    if policy.backend is not BackendKind.IMPORTED
                ]
                if not policies:
                    continue  # it waits, and the progress page says for what
                prompt.state = PromptState.GENERATING
                prompt.claimed_until = claim
                prompt.attempts += 1
                work = Work(prompt.id, prompt.messages, prompt.attempts, claim, sampling)
                wanted = prompt.wanted or project.candidates_per_task
                work.slots = [Slot(policies[n % len(policies)], n) for n in range(wanted)]
                claimed.append(work)
            await session.commit()
            return claimed

    async def _renew(self, claimed: Sequence[Work]) -> None:
        """Renew the claims again and again; one that was lost stays lost, and its work is thrown away."""
        while True:
            await asyncio.sleep(self.renew_seconds)
            try:
                async with self.renewing, self.sessions() as session:
                    claim = utc_now() + self.claim
                    renewed = await queries.renew_claims(
                        session, {work.prompt_id: work.claim for work in claimed}, claim
                    )
                    await session.commit()
                    for work in claimed:
                        if work.prompt_id in renewed:
                            work.claim = claim
            except SQLAlchemyError as error:
                log.warning("claims could not be renewed", error=str(error).split("\n", 1)[0])

    async def _write(self, claimed: Sequence[Work]) -> None:
        """Sample every slot; sample again where a prompt's candidates are identical or empty."""
        waiting = [(work, slot) for work in claimed for slot in work.slots]
        for round_ in range(RESAMPLES + 1):
            by_policy: dict[uuid.UUID, list[tuple[Work, Slot]]] = defaultdict(list)
            for work, slot in waiting:
                slot.seed = draw_seed(work.prompt_id, slot.position, work.attempt, round_)
                by_policy[slot.policy.id].append((work, slot))
            await asyncio.gather(*(self._ask(pairs) for pairs in by_policy.values()))
            waiting = [(work, slot) for work in claimed for slot in find_repeats(work.slots)]
            if not waiting:
                return

    async def _ask(self, pairs: Sequence[tuple[Work, Slot]]) -> None:
        policy = pairs[0][1].policy
        requests = [
            Request(
                messages=work.messages,
                seed=slot.seed,
                temperature=work.sampling.temperature,
                top_p=work.sampling.top_p,
                max_new_tokens=work.sampling.max_new_tokens,
            )
            for work, slot in pairs
        ]
        outcomes = await open_backend(policy, self.settings).generate(requests)
        for (_, slot), outcome in zip(pairs, outcomes, strict=True):
            slot.outcome = outcome

    async def _finish(self, project_id: uuid.UUID, work: Work) -> None:
        async with self.sessions() as session:
            prompt = await queries.get_claimed_prompt_for_update(
                session, work.prompt_id, work.claim
            )
            if prompt is None:
                log.warning("a claim ran out before its work was done", prompt=work.prompt_id)
                return
            failed = [slot for slot in work.slots if not isinstance(slot.outcome, Response)]
            if failed:
                await self._fail(session, project_id, prompt, work, failed)
            else:
                store(session, work)
                prompt.state = PromptState.READY
                prompt.claimed_until = prompt.due_at = prompt.failure = None
                await session.flush()
                await self.deliver(session, prompt.id)
            await session.commit()

    async def _fail(
        self,
        session: AsyncSession,
        project_id: uuid.UUID,
        prompt: Prompt,
        work: Work,
        failed: Sequence[Slot],
    ) -> None:
        """Record why, and try again later, each time later than before, until it is enough."""
        messages: dict[str, str] = {}
        for slot in failed:
            messages.setdefault(slot.policy.name, storable(str(slot.outcome)))
        for policy, message in messages.items():
            FAILURES.labels(policy).inc()
            session.add(
                GenerationFailure(
                    prompt_id=prompt.id,
                    project_id=project_id,
                    policy_name=policy,
                    attempt=work.attempt,
                    message=message[:2000],
                )
            )
        prompt.failure = next(iter(messages.values()))[:2000]
        prompt.claimed_until = None
        if work.attempt >= self.settings.generation_attempts:
            prompt.state = PromptState.FAILED
            return
        asked = [
            slot.outcome.retry_after
            for slot in failed
            if isinstance(slot.outcome, GenerationError) and slot.outcome.retry_after
        ]
        prompt.state = PromptState.QUEUED
        prompt.due_at = utc_now() + back_off(work.attempt, at_least=max(asked, default=0.0))
        await enqueue(session, project_id, 1, not_before=prompt.due_at)


def back_off(attempt: int, *, at_least: float = 0.0) -> timedelta:
    """How long to wait after this many tries: 2, 4, 8 … seconds and up to half as much again.

    The random part keeps a thousand prompts that failed together from coming back together.
    """
    seconds = max(2.0**attempt, at_least) * random.uniform(1.0, 1.5)  # noqa: S311
    return min(timedelta(seconds=seconds), LONGEST_BACK_OFF)


def draw_seed(prompt_id: uuid.UUID, position: int, attempt: int, round_: int) -> int:
    """A sample's seed, the same whenever the same try is made again: 63 bits."""
    text = f"{prompt_id} {position} {attempt} {round_}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def find_repeats(slots: Sequence[Slot]) -> list[Slot]:
    """The slots to sample again: those that say what an earlier one says, or nothing at all.

    Marks what each repeats, so that after the last round the mark is what is stored.
    """
    first: dict[str, int] = {}
    repeats = []
    for slot in slots:
        slot.duplicate_of = None
        if not isinstance(slot.outcome, Response):
            continue
        text = slot.outcome.text.strip()
        if text in first:
            slot.duplicate_of = first[text]
        first.setdefault(text, slot.position)
        if slot.duplicate_of is not None or not text:
            repeats.append(slot)
    return repeats


def store(session: AsyncSession, work: Work) -> None:
    """The candidates of a finished prompt, with all that is known of how they came about."""
    for slot in work.slots:
        assert isinstance(slot.outcome, Response)
        CANDIDATES.labels(slot.policy.name).inc()
        TOKENS.labels(slot.policy.name).inc(slot.outcome.completion_tokens or 0)
        session.add(
            Candidate(
                prompt_id=work.prompt_id,
                position=slot.position,
                text=slot.outcome.text,
                policy_id=slot.policy.id,
                sampling=work.sampling.model_dump(),
                seed=slot.seed,
                finish_reason=slot.outcome.finish_reason,
                prompt_tokens=slot.outcome.prompt_tokens,
                completion_tokens=slot.outcome.completion_tokens,
                duplicate_of=slot.duplicate_of,
            )
        )
