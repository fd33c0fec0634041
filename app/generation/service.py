"""Queueing prompts for the worker, and telling how generation stands."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from math import ceil

from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.service import record
from app.db.queue import defer
from app.db.types import utc_now
from app.generation import queries
from app.generation.models import GenerationFailure
from app.policies.queries import list_project_policies
from app.projects.models import Project
from app.prompts.models import Prompt, PromptState
from app.settings import get_settings

# More tickets than this at once help nobody: each ticket that did its work queues the next.
MOST_TICKETS = 16


async def enqueue(
    session: AsyncSession,
    project_id: uuid.UUID,
    prompts: int,
    *,
    not_before: datetime | None = None,
) -> None:
    """Tell the workers that this many prompts wait, in the session's own transaction.

    A ticket names only the project: whoever takes it claims the prompts that are most urgent then.
    """
    for _ in range(min(MOST_TICKETS, ceil(prompts / get_settings().generation_batch))):
        await defer(
            session,
            "generation:generate",
            queue="generation",
            arguments={"project_id": str(project_id)},
            not_before=not_before,
        )


async def enqueue_waiting(session: AsyncSession, project_id: uuid.UUID) -> None:
    """Tickets for whatever waits: after a pause, a new policy, or a retry."""
    due = await queries.count_due(session, project_id, utc_now())
    if due and not await queries.count_waiting_tickets(session, project_id):
        await enqueue(session, project_id, due)


async def retry_failed(
    session: AsyncSession, project: Project, *, actor: uuid.UUID | None = None
) -> int:
    """Try every failed prompt of the project again; how many there were."""
    count = await queries.requeue_failed(session, project.id)
    if count:
        await record(session, actor, "generation.retry", project.slug, count=count)
        await enqueue_waiting(session, project.id)
    return count


@dataclass(frozen=True)
class Status:
    """How a project's generation stands, and why it stands still where it does."""

    queued: int
    generating: int
    ready: int
    failed: int
    # Candidates written in the last five minutes.
    recent: int
    waiting_because: str | None
    retry_at: datetime | None
    failures: list[tuple[GenerationFailure, Prompt]]

    @property
    def total(self) -> int:
        """All prompts."""
        return self.queued + self.generating + self.ready + self.failed


async def get_status(session: AsyncSession, project: Project) -> Status:
    """Counts, pace, the reason for standing still, and the latest failures."""
    now = utc_now()
    states = await queries.count_states(session, project.id)
    queued = states.get(PromptState.QUEUED, 0)
    policies = await list_project_policies(session, project.id)
    due = await queries.count_due(session, project.id, now)
    because = None
    retry_at = None
    if queued:
        if project.paused:
            because = "The project is paused."
        elif not policies and due:
            because = "No policy writes for this project: choose one in the settings."
        elif not due:
            retry_at = await queries.next_due_at(session, project.id, now)
            because = "Every waiting prompt failed lately and is tried again later."
        elif not await queries.count_live_workers(session):
            because = "No worker runs: start one with `plackett worker`."
    failures = await queries.list_failures(session, project.id, limit=50)
    return Status(
        queued=queued,
        generating=states.get(PromptState.GENERATING, 0),
        ready=states.get(PromptState.READY, 0),
        failed=states.get(PromptState.FAILED, 0),
        recent=await queries.count_recent_candidates(session, project.id, minutes=5, now=now),
        waiting_because=because,
        retry_at=retry_at,
        failures=[(failure, prompt) for failure, prompt in failures],
    )
