"""The worker: every room's jobs gathered into one queue application, and the process that runs it."""

import asyncio
import os
from collections.abc import Sequence

import structlog
from procrastinate import App

from app.datasets import jobs as datasets
from app.db.engine import SessionMaker, open_sessions
from app.db.queue import create_job_app
from app.generation import jobs as generation
from app.rating.assign import open_task
from app.settings import Settings
from app.training import jobs as training

log = structlog.get_logger(__name__)

QUEUES = ("generation", "training", "datasets")
# How long a stopped worker lets its jobs finish: a batch of candidates is worth waiting for, and a
# training run writes a checkpoint and goes on from it later.
GRACE_SECONDS = 30.0


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
    """Work on the queues until stopped (or, with `wait` false, until they are empty)."""
    # Before torch is imported: its threads would spin while they wait (see docs/lab-notes.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    async with open_sessions(url, pool_size=concurrency + 4) as sessions:
        jobs = create_jobs_app(url, sessions, settings)
        async with jobs.open_async():
            log.info("the worker is ready", queues=list(queues), concurrency=concurrency)
            await jobs.run_worker_async(
                queues=list(queues),
                concurrency=concurrency,
                wait=wait,
                fetch_job_polling_interval=5.0,
                shutdown_graceful_timeout=GRACE_SECONDS,
                install_signal_handlers=wait,
            )


async def run_inside(url: str, sessions: SessionMaker, settings: Settings) -> None:
    """The web process's own worker: exports need no other process. Runs until cancelled."""
    jobs = create_jobs_app(url, sessions, settings)
    async with jobs.open_async():
        await jobs.run_worker_async(
            queues=["datasets"],
            concurrency=1,
            shutdown_graceful_timeout=5.0,
            install_signal_handlers=False,
        )


async def keep_running(url: str, sessions: SessionMaker, settings: Settings) -> None:
    """`run_inside`, started anew when the database went away under it."""
    while True:
        try:
            await run_inside(url, sessions, settings)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.warning("the export worker stopped; it starts again soon", error=str(error))
            await asyncio.sleep(5)
