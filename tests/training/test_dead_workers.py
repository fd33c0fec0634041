"""Workers that are killed: what they had begun goes on, ends, or says why; nothing hangs or runs twice."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from app.datasets.jobs import make_export
from app.datasets.models import ExportState
from app.datasets.schemas import ExportIn
from app.datasets.service import get_export, request_export
from app.db.engine import SessionMaker, create_engine, create_sessions
from app.policies.models import Backend
from app.policies.service import set_project_policies
from app.projects.models import Project
from app.settings import CHECKOUT, Settings
from app.training.models import Run, RunState
from app.training.process import adopt
from app.training.schemas import RunIn
from app.training.service import get_run, request_cancel, start_run
from app.worker import working_inside
from tests.factories.projects import create_policy, create_project
from tests.factories.rating import create_tasks
from tests.trainer.conftest import make_tiny_model

SECONDS = 120  # for anything to happen: the cores may be busy
SILENCE = "3"

pytestmark = pytest.mark.slow


@pytest.fixture
async def sessions(fresh_database: str) -> AsyncIterator[SessionMaker]:
    engine = create_engine(fresh_database, pool_size=4)
    yield create_sessions(engine)
    await engine.dispose()


@pytest.fixture
def settings(fresh_database: str, tmp_path: Path) -> Settings:
    return Settings(database_url=fresh_database, data_dir=tmp_path, worker_silence_seconds=3)


@contextmanager
def worker(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of training runs, in a process of its own."""
    environment = {
        **os.environ,
        "DATABASE_URL": settings.database_url or "",
        "PLACKETT_DATA_DIR": str(settings.data_dir),
        "PLACKETT_WORKER_SILENCE_SECONDS": SILENCE,
        "PLACKETT_TRAINER_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "worker", "--queue", "training"],
        cwd=CHECKOUT, env=environment, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def prepare(session: AsyncSession, sessions: SessionMaker, settings: Settings) -> Project:
    """A project with an export and a tiny policy."""
    project = await create_project(session)
    model = make_tiny_model(settings.data_dir / "model")
    policy = await create_policy(session, backend=Backend.TRANSFORMERS, model=model, base_url=None)
    await set_project_policies(session, project, [policy])
    for number in range(8):
        await create_tasks(session, project, 2, candidates=2, ranks=[1, 2], rater=f"r{number}")
    export = await request_export(session, project, ExportIn(), actor=None)
    await session.commit()
    await make_export(sessions, export.id, settings.exports_dir)
    return project


async def begin(session: AsyncSession, project: Project, *, steps: int) -> Run:
    """A run of so many steps, queued."""
    flags = {"steps": steps, "checkpoint-every": 5, "batch-size": 4, "max-length": 32}
    run = await start_run(session, project, RunIn(stage="reward", config=flags), actor=None)
    await session.commit()
    return run


async def until(session: AsyncSession, run: Run, holds: Callable[[Run], bool]) -> None:
    """Wait for it."""
    deadline = time.monotonic() + SECONDS
    while True:
        await session.rollback()
        await session.refresh(run)
        if holds(run):
            return
        assert time.monotonic() < deadline, (run.state, run.step, run.error)
        await asyncio.sleep(0.2)


def folder(run: Run) -> Path:
    return Path(run.path or "")


async def test_a_trainer_that_outlives_its_worker_is_adopted(
    sessions: SessionMaker, settings: Settings
) -> None:
    async with sessions() as session:
        run = await begin(session, await prepare(session, sessions, settings), steps=600)
        with worker(settings) as first:
            await until(session, run, lambda run: run.step >= 3)
            first.kill()
            first.wait()
        process = adopt(folder(run))
        assert process is not None, "the trainer goes on without its worker"
        with worker(settings):
            await until(session, run, lambda run: run.state is RunState.SUCCEEDED)
        assert (run.step, run.total_steps) == (600, 600)
        assert run.result is not None
        log = (folder(run) / "trainer.log").read_text()
        assert log.count("reward: step 60 of 600") == 1, "it was not started a second time"


async def test_a_run_whose_worker_and_trainer_died_goes_on_from_its_checkpoint(
    sessions: SessionMaker, settings: Settings
) -> None:
    async with sessions() as session:
        run = await begin(session, await prepare(session, sessions, settings), steps=400)
        with worker(settings) as first:
            await until(session, run, lambda run: run.step >= 8)
            first.kill()
            first.wait()
        process = adopt(folder(run))
        assert process is not None
        process.kill()
        await process.wait()
        steps_before = int(max((folder(run) / "checkpoints").glob("step-*")).name[5:])
        assert steps_before >= 5
        with worker(settings):
            await until(session, run, lambda run: run.state is RunState.SUCCEEDED)
        assert (run.step, run.total_steps) == (400, 400)
        assert "reward: step 40 of 400" in (folder(run) / "trainer.log").read_text()


async def test_a_run_without_a_worker_can_be_cancelled(
    sessions: SessionMaker, settings: Settings
) -> None:
    async with sessions() as session:
        run = await begin(session, await prepare(session, sessions, settings), steps=100_000)
        with worker(settings) as first:
            await until(session, run, lambda run: run.step >= 3)
            first.kill()
            first.wait()
        await request_cancel(session, run, actor=None)
        await session.commit()
        with worker(settings):
            await until(session, run, lambda run: run.state is RunState.CANCELLED)
        assert adopt(folder(run)) is None, "the trainer was stopped"


async def test_one_run_at_a_time(sessions: SessionMaker, settings: Settings) -> None:
    async with sessions() as session:
        project = await prepare(session, sessions, settings)
        one = await begin(session, project, steps=100_000)
        other = await begin(session, project, steps=2)
        with worker(settings), worker(settings):
            await until(session, one, lambda run: run.step >= 3)
            await session.refresh(other)
            assert other.state is RunState.QUEUED
            await request_cancel(session, await get_run(session, one.id), actor=None)
            await session.commit()
            await until(session, other, lambda run: run.state is RunState.SUCCEEDED)


async def test_an_export_whose_worker_died_is_made_by_the_next(
    sessions: SessionMaker, settings: Settings
) -> None:
    async with sessions() as session:
        project = await create_project(session)
        export = await request_export(session, project, ExportIn(), actor=None)
        await session.commit()
        assert settings.database_url
        # What a worker leaves that was killed at its work: the job is under way, and nobody does it.
        await (await session.connection()).exec_driver_sql(
            "UPDATE procrastinate_jobs SET status = 'doing' WHERE task_name = 'datasets:export'"
        )
        await session.commit()
        async with working_inside(settings.database_url, settings):
            deadline = time.monotonic() + SECONDS
            while (found := await get_export(session, export.id)).state is ExportState.PENDING:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)
                await session.rollback()
                await session.refresh(found)
        assert found.state is ExportState.READY
