"""A task that is called off ends, also where a library has swallowed the first word."""

import asyncio
from contextlib import suppress
from functools import partial

import pytest

from app import worker
from app.db.engine import open_sessions
from app.settings import Settings
from app.stopping import call_off
from app.worker import QueueWorker, create_jobs_app

LONGEST = 20.0


async def hard_of_hearing() -> list[dict[str, object]]:
    """Waits, and loses a cancellation that comes meanwhile, as `asyncio.wait_for` may."""
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(60)
    return []


async def once_deaf() -> None:
    await hard_of_hearing()
    await asyncio.sleep(60)


async def test_a_cancellation_that_was_lost_is_said_again() -> None:
    task = asyncio.create_task(once_deaf())
    await asyncio.sleep(0)
    async with asyncio.timeout(LONGEST):
        await call_off(task)
    assert task.cancelled()


async def test_a_task_that_ends_by_an_error_is_not_complained_of() -> None:
    async def fail() -> None:
        raise ValueError("it failed by itself")

    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    await call_off(task)
    assert task.done()


async def test_a_worker_comes_back_when_its_sweep_has_lost_the_word(
    fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that waited for a connection when the database went away stayed away for ever."""

    async def retry_stalled(*_: object, **__: object) -> list[dict[str, object]]:
        return await hard_of_hearing()

    monkeypatch.setattr(worker, "retry_stalled", retry_stalled)
    settings = Settings()
    async with open_sessions(fresh_database, pool_size=2) as sessions:
        make = partial(create_jobs_app, fresh_database, sessions, settings)
        async with asyncio.timeout(LONGEST):
            await QueueWorker(make, settings, queues=["datasets"]).empty()
