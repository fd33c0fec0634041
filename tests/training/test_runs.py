"""Runs that cannot start, fail or are stopped: each says why. (That one succeeds, the whole loop shows.)"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from app.datasets.jobs import make_export
from app.datasets.schemas import ExportIn
from app.datasets.service import request_export
from app.db.engine import SessionMaker, create_engine, create_sessions
from app.errors import Conflict, InvalidInput, NotFound
from app.policies.models import Backend
from app.policies.service import set_project_policies
from app.projects.models import Project
from app.settings import Settings
from app.training.models import RunState
from app.training.schemas import RunIn
from app.training.service import get_run, request_cancel, start_run
from app.worker import run_worker
from tests.factories.projects import create_policy, create_project
from tests.factories.rating import create_tasks


@pytest.fixture
async def sessions(fresh_database: str) -> AsyncIterator[SessionMaker]:
    engine = create_engine(fresh_database, pool_size=4)
    yield create_sessions(engine)
    await engine.dispose()


@pytest.fixture
def settings(fresh_database: str, tmp_path: Path) -> Settings:
    return Settings(database_url=fresh_database, data_dir=tmp_path, trainer_device="cpu")


async def make(session: AsyncSession, sessions: SessionMaker, settings: Settings) -> Project:
    """A project with an export, and a local policy whose model is gone."""
    project = await create_project(session)
    policy = await create_policy(
        session, backend=Backend.TRANSFORMERS, model="/no/such/model", base_url=None
    )
    await set_project_policies(session, project, [policy])
    for number in range(5):
        fields = {"ranks": [1, 2], "rater": f"r{number}"}
        await create_tasks(session, project, 2, candidates=2, **fields)
    export = await request_export(session, project, ExportIn(), actor=None)
    await session.commit()
    await make_export(sessions, export.id, settings.exports_dir)
    return project


async def test_a_run_says_what_it_misses(sessions: SessionMaker, settings: Settings) -> None:
    async with sessions() as session:
        bare = await create_project(session)
        await session.commit()
        with pytest.raises(Conflict, match="no export that is ready"):
            await start_run(session, bare, RunIn(stage="reward"), actor=None)
        project = await make(session, sessions, settings)
        with pytest.raises(Conflict, match="no reward model"):
            await start_run(session, project, RunIn(stage="ppo"), actor=None)
        with pytest.raises(Conflict, match="no reward model"):
            await start_run(session, project, RunIn(stage="rloo"), actor=None)
        with pytest.raises(NotFound, match="no policy 'ghost'"):
            await start_run(session, project, RunIn(stage="reward", policy="ghost"), actor=None)
        remote = await create_policy(session)
        with pytest.raises(InvalidInput, match="not a local model"):
            await start_run(session, project, RunIn(stage="dpo", policy=remote.name), actor=None)


@pytest.mark.slow
async def test_a_run_that_fails_keeps_the_trainers_reason(
    sessions: SessionMaker, settings: Settings
) -> None:
    async with sessions() as session:
        project = await make(session, sessions, settings)
        run = await start_run(session, project, RunIn(stage="reward"), actor=None)
        await session.commit()
        assert settings.database_url
        await run_worker(settings.database_url, settings, queues=["training"], wait=False)
        await session.refresh(run)
        assert run.state is RunState.FAILED
        assert "/no/such/model: no tokenizer can be loaded" in (run.error or "")


async def test_a_run_that_waits_is_stopped_at_once(
    sessions: SessionMaker, settings: Settings
) -> None:
    async with sessions() as session:
        project = await make(session, sessions, settings)
        run = await start_run(session, project, RunIn(stage="reward"), actor=None)
        await request_cancel(session, run, actor=None)
        await session.commit()
        assert settings.database_url
        await run_worker(settings.database_url, settings, queues=["training"], wait=False)
        found = await get_run(session, run.id)
        assert (found.state, found.step) == (RunState.CANCELLED, 0)
        with pytest.raises(Conflict, match="over: cancelled"):
            await request_cancel(session, run, actor=None)
