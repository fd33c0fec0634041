"""The worker: every room's jobs gathered into one queue application, and the process that runs it."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial

import structlog
from procrastinate import App, JobContext
from procrastinate.worker import Worker
from prometheus_client import Counter

from app import stopping
from app.datasets import jobs as datasets
from app.db.engine import SessionMaker, open_sessions
from app.db.queue import create_job_app, retry_stalled, take_request_id
from app.generation import jobs as generation
from app.logs import name_request
from app.rating.assign import open_task
from app.settings import Settings
from app.training import jobs as training

log = structlog.get_logger(__name__)

JOBS = Counter("plackett_jobs_total", "Jobs carried out", ["task", "outcome"])

QUEUES = ("generation", "training", "datasets")
# The jobs of these write a checkpoint when they are stopped, and go on from it later.
INTERRUPTED_AT_ONCE = ("training",)
RETRY_SECONDS = 2.0
# For the words that a worker says to the database when it ends, and for a pool that is closed.
GOODBYE_SECONDS = 1.0
NO_HURRY = 7 * 24 * 3600.0
# A worker gives so many signs of life in the time after which it is taken for dead.
SIGNS = 3


def create_jobs_app(url: str, sessions: SessionMaker, settings: Settings) -> App:
    """The queue application with every room's jobs, each with what it needs."""
    return create_job_app(
        url,
        {
            "generation": generation.create_jobs(
                sessions=sessions, settings=settings, deliver=open_task
            ),
            "datasets": datasets.create_jobs(sessions=sessions, settings=settings),
            "training": training.create_jobs(sessions=sessions, settings=settings),
        },
    )


async def run_worker(
    url: str,
    settings: Settings,
    *,
    queues: Sequence[str] = QUEUES,
    concurrency: int = 2,
    wait: bool = True,
) -> None:
    """Work on the queues until a signal comes (or, with `wait` false, until they are empty)."""
    # Before torch is imported: its threads would spin while they wait (see docs/lab-notes.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    async with open_sessions(url, pool_size=concurrency + 4) as sessions:
        make = partial(create_jobs_app, url, sessions, settings)
        worker = QueueWorker(make, settings, queues=queues, concurrency=concurrency)
        if not wait:
            await worker.empty()
            return
        stop = asyncio.Event()
        wake = partial(asyncio.get_running_loop().call_soon_threadsafe, stop.set)
        with stopping.calling(wake):
            await worker.run(stop, grace=stopping.JOB_SECONDS)


@asynccontextmanager
async def working_inside(url: str, settings: Settings) -> AsyncIterator[None]:
    """The web process's own worker, for the time of the context: exports need no other process.

    Its connections are its own: an export may take longer than a request is allowed to.
    """
    async with open_sessions(url, pool_size=2) as sessions:
        make = partial(create_jobs_app, url, sessions, settings)
        stop = asyncio.Event()
        # An export that is cut off is put back into its queue.
        task = asyncio.create_task(
            QueueWorker(make, settings, queues=["datasets"]).run(stop, grace=0.0)
        )
        try:
            yield
        finally:
            stop.set()
            await task


class QueueWorker:
    """Procrastinate's worker, started anew when the database went away under it, and stopped in time."""

    def __init__(
        self,
        make: Callable[[], App],
        settings: Settings,
        *,
        queues: Sequence[str],
        concurrency: int = 1,
    ) -> None:
        self.make = make
        self.silence_seconds = settings.worker_silence_seconds
        self.queues = list(queues)
        self.concurrency = concurrency
        self._running: dict[asyncio.Task[object], str] = {}

    async def empty(self) -> None:
        """Work until the queues are empty."""
        jobs = self.make()
        async with jobs.open_async():
            await self._work(jobs, wait=False, grace=NO_HURRY)

    async def run(self, stop: asyncio.Event, *, grace: float) -> None:
        """Work until told to stop; then jobs under way have `grace` seconds to end."""
        ends = asyncio.create_task(stop.wait())
        while not stop.is_set():
            jobs = self.make()
            task = asyncio.create_task(self._attempt(jobs, grace))
            await asyncio.wait({task, ends}, return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set():
                await self._end(jobs, task, grace)
                return
            log.warning("the worker has lost the database; it tries again", error=_reason(task))
            await asyncio.wait({ends}, timeout=RETRY_SECONDS)

    async def _attempt(self, jobs: App, grace: float) -> None:
        try:
            await jobs.open_async()
            log.info("the worker is ready", queues=self.queues, concurrency=self.concurrency)
            await self._work(jobs, wait=True, grace=grace)
        finally:
            await _close(jobs)

    async def _work(self, jobs: App, *, wait: bool, grace: float) -> None:
        sweeps = asyncio.create_task(self._sweep(jobs))
        try:
            await jobs.run_worker_async(
                queues=self.queues,
                concurrency=self.concurrency,
                wait=wait,
                fetch_job_polling_interval=5.0,
                shutdown_graceful_timeout=grace,
                install_signal_handlers=False,
                worker_middleware=[self._note],
                update_heartbeat_interval=self.silence_seconds / SIGNS,
                stalled_worker_timeout=self.silence_seconds,
            )
        finally:
            await stopping.call_off(sweeps)

    async def _sweep(self, jobs: App) -> None:
        """Give the jobs of workers that died back to the queue: whichever worker is left sees to it."""
        while True:
            try:
                for job in await retry_stalled(jobs, seconds=self.silence_seconds):
                    log.warning("the worker of a job died; the job goes on elsewhere", **job)
            except Exception as error:  # the database is away for a moment: look again later
                log.warning("stalled jobs could not be looked for", error=str(error))
            await asyncio.sleep(self.silence_seconds / SIGNS)

    async def _note(
        self, call_next: Callable[[], Awaitable[object]], context: JobContext, _: Worker
    ) -> object:
        """Know each job's task by its queue, log under its request's id, count."""
        task = asyncio.current_task()
        assert task is not None
        self._running[task] = context.job.queue
        # Each job is a task of its own, so what is bound here ends with it.
        name_request(take_request_id(context.job))
        structlog.contextvars.bind_contextvars(job=context.job.id, task=context.job.task_name)
        outcome, began = "failed", time.monotonic()
        try:
            answer = await call_next()
            outcome = "done"
            return answer
        finally:
            del self._running[task]
            JOBS.labels(context.job.task_name, outcome).inc()
            seconds = round(time.monotonic() - began, 2)
            log.info("a job has ended", outcome=outcome, seconds=seconds)

    async def _end(self, jobs: App, task: "asyncio.Task[None]", grace: float) -> None:
        """End an attempt. Where the database does not answer, what its pool waits for is cut off."""
        # Procrastinate takes this as a wish: it ends its jobs, says so to the database, and ends.
        task.cancel()
        # A batch of candidates is worth waiting for; a run of hours goes on later from its checkpoint.
        for job, queue in list(self._running.items()):
            if queue in INTERRUPTED_AT_ONCE:
                job.cancel()
        await asyncio.wait({task}, timeout=grace + GOODBYE_SECONDS)
        if not task.done():
            await _close(jobs)
            await asyncio.wait({task}, timeout=GOODBYE_SECONDS)
        if not task.done():
            log.warning(
                "a job does not end; it is left behind", queues=sorted(self._running.values())
            )


async def _close(jobs: App) -> None:
    """Close the queue's connections; whoever waits for one is told that there will be none."""
    with suppress(Exception):
        async with asyncio.timeout(GOODBYE_SECONDS):
            await jobs.close_async()


def _reason(task: "asyncio.Task[None]") -> str:
    error = task.exception() if task.done() and not task.cancelled() else None
    cause = (error and error.__cause__) or error
    return str(cause or "it ended").split("\n", 1)[0]
