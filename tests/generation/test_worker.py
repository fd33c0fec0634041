"""The worker writes candidates through a real server, and says why where it cannot."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.engine import SessionMaker, create_engine, create_sessions
from app.db.types import utc_now
from app.generation.models import GenerationFailure
from app.generation.service import enqueue_waiting, get_status, retry_failed
from app.intake.service import import_prompts
from app.policies.models import Policy
from app.policies.service import set_project_policies
from app.projects.models import Project
from app.prompts.models import Candidate, Prompt, PromptState
from app.prompts.parse import parse_row
from app.rating.models import Task
from app.settings import CHECKOUT, Settings
from app.worker import run_worker
from tests.factories.projects import create_policy, create_project
from tests.generation.openai_server import ChatServer, running_server


@pytest.fixture(scope="module")
def chat() -> Iterator[ChatServer]:
    with running_server() as server:
        yield server


@pytest.fixture
async def sessions(fresh_database: str) -> AsyncIterator[SessionMaker]:
    engine = create_engine(fresh_database, pool_size=4)
    yield create_sessions(engine)
    await engine.dispose()


@pytest.fixture
def settings(fresh_database: str, tmp_path: Any) -> Settings:
    return Settings(
        database_url=fresh_database,
        data_dir=tmp_path,
        generation_attempts=2,
        generation_timeout=5,
    )


async def make(
    session: AsyncSession, chat: ChatServer, *, model: str = "poet", prompts: int = 3, **more: Any
) -> tuple[Project, Policy]:
    """A project with a policy behind the server, and prompts that wait."""
    project = await create_project(session, **more)
    policy = await create_policy(session, model=model, base_url=chat.address)
    await set_project_policies(session, project, [policy])
    await add(session, project, prompts)
    await session.commit()
    return project, policy


async def add(session: AsyncSession, project: Project, count: int) -> None:
    rows = [
        parse_row({"prompt": f"Question {n}", "priority": n}, n, max_bytes=10_000)
        for n in range(1, count + 1)
    ]
    await import_prompts(session, project, rows, source="test", actor=None)


async def work(settings: Settings) -> None:
    """Let a worker run until nothing is left to do now."""
    assert settings.database_url
    await run_worker(settings.database_url, settings, queues=["generation"], wait=False)


async def states(session: AsyncSession) -> dict[PromptState, int]:
    rows = await session.execute(select(Prompt.state, func.count()).group_by(Prompt.state))
    return dict(rows.all())


async def test_every_prompt_gets_its_candidates_with_all_that_is_known_of_them(
    sessions: SessionMaker, chat: ChatServer, settings: Settings
) -> None:
    async with sessions() as session:
        project, policy = await make(session, chat, prompts=20)
        await work(settings)
        assert await states(session) == {PromptState.READY: 20}
        found = list(await session.scalars(select(Candidate)))
        assert len(found) == 80
        assert {each.policy_id for each in found} == {policy.id}
        assert len({each.seed for each in found}) == 80
        one = found[0]
        assert (one.finish_reason, one.prompt_tokens, one.completion_tokens) == ("stop", 7, 8)
        assert one.sampling == {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 256}
        assert await session.scalar(select(func.count()).select_from(Task)) == 20
        assert (await get_status(session, project)).ready == 20


async def test_identical_candidates_are_sampled_again_and_then_marked(
    sessions: SessionMaker, chat: ChatServer, settings: Settings
) -> None:
    async with sessions() as session:
        await make(session, chat, model="parrot", prompts=1)
        before = len(chat.requests)
        await work(settings)
        found = list(await session.scalars(select(Candidate).order_by(Candidate.position)))
        assert [each.duplicate_of for each in found] == [None, 0, 0, 0]
        assert len(chat.requests) - before == 4 + 3 * 3


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("unknown", "answered 404 for the model 'unknown'"),
        ("garbage", "something else than a chat completion"),
        ("silent", "without any text"),
        ("busy", "answered 429"),
    ],
)
async def test_a_failure_is_told_and_tried_again_later_then_given_up(
    sessions: SessionMaker, chat: ChatServer, settings: Settings, model: str, reason: str
) -> None:
    async with sessions() as session:
        project, policy = await make(session, chat, model=model, prompts=1)
        await work(settings)
        prompt = (await session.scalars(select(Prompt))).one()
        assert prompt.state is PromptState.QUEUED
        assert prompt.due_at is not None
        wait = (prompt.due_at - utc_now()).total_seconds()
        assert (25 if model == "busy" else 1) < wait < 50
        status = await get_status(session, project)
        assert status.waiting_because is not None
        assert reason in status.failures[0][0].message
        assert status.failures[0][0].policy_name == policy.name
        await session.execute(update(Prompt).values(due_at=None))
        await enqueue_waiting(session, project.id)
        await session.commit()
        await work(settings)
        await session.refresh(prompt)
        assert prompt.state is PromptState.FAILED
        assert reason in (prompt.failure or "")
        assert await session.scalar(select(func.count()).select_from(Candidate)) == 0


async def test_a_server_that_is_gone_is_named_and_work_goes_on_when_it_is_back(
    sessions: SessionMaker, chat: ChatServer, settings: Settings
) -> None:
    async with sessions() as session:
        project, policy = await make(session, chat, prompts=2)
        policy.base_url = "http://127.0.0.1:9/v1"
        await session.commit()
        await work(settings)
        failures = list(await session.scalars(select(GenerationFailure)))
        assert len(failures) == 2
        assert "http://127.0.0.1:9/v1/chat/completions cannot be reached" in failures[0].message
        policy.base_url = chat.address
        await session.execute(update(Prompt).values(state=PromptState.FAILED))
        assert await retry_failed(session, project) == 2
        await session.commit()
        await work(settings)
        assert await states(session) == {PromptState.READY: 2}


async def test_a_key_comes_from_the_environment_and_never_reaches_an_error(
    sessions: SessionMaker, chat: ChatServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sessions() as session:
        _, policy = await make(session, chat, model="unknown", prompts=1)
        policy.api_key_variable = "PLACKETT_KEY_TEST"
        policy.model = "tell-tale"
        await session.commit()
        monkeypatch.setenv("PLACKETT_KEY_TEST", "very-secret")
        await work(settings)
        assert chat.keys[-1] == "Bearer very-secret"
        failure = (await session.scalars(select(GenerationFailure))).one()
        assert "the key Bearer … is not known" in failure.message


async def test_no_other_variable_of_the_worker_is_sent_to_a_server(
    sessions: SessionMaker, chat: ChatServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sessions() as session:
        _, policy = await make(session, chat, prompts=1)
        policy.api_key_variable = "DATABASE_URL"  # as a row that was stored before could name it
        await session.commit()
        monkeypatch.setenv("DATABASE_URL", settings.database_url or "")
        before = len(chat.requests)
        await work(settings)
        assert len(chat.requests) == before
        failure = (await session.scalars(select(GenerationFailure))).one()
        assert failure.message == (
            "DATABASE_URL does not begin with PLACKETT_KEY_, so it is not sent"
        )


async def test_a_redirect_takes_neither_key_nor_prompt_to_another_server(
    sessions: SessionMaker, chat: ChatServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_server() as other:
        async with sessions() as session:
            _, policy = await make(session, chat, model=f"moved {other.address}", prompts=1)
            policy.api_key_variable = "PLACKETT_KEY_TEST"
            await session.commit()
            monkeypatch.setenv("PLACKETT_KEY_TEST", "very-secret")
            await work(settings)
            failure = (await session.scalars(select(GenerationFailure))).one()
            assert "answered 307" in failure.message
        assert other.requests == []


async def test_an_address_that_is_not_public_is_called_only_where_a_setting_allows_it(
    sessions: SessionMaker, chat: ChatServer, settings: Settings
) -> None:
    async with sessions() as session:
        project, policy = await make(session, chat, prompts=1)
        policy.base_url = chat.address.replace("127.0.0.1", "localhost")  # resolved when it is used
        await session.commit()
        before = len(chat.requests)
        await work(settings.model_copy(update={"policy_private_hosts": ()}))
        assert len(chat.requests) == before
        failure = (await session.scalars(select(GenerationFailure))).one()
        assert "PLACKETT_POLICY_PRIVATE_HOSTS can allow it" in failure.message
        await session.execute(update(Prompt).values(state=PromptState.FAILED))
        await retry_failed(session, project)
        await session.commit()
        await work(settings.model_copy(update={"policy_private_hosts": ("localhost",)}))
        assert len(chat.requests) > before


async def test_without_a_policy_prompts_wait_and_the_page_says_for_what(
    sessions: SessionMaker, chat: ChatServer, settings: Settings
) -> None:
    async with sessions() as session:
        project, policy = await make(session, chat, prompts=2)
        await set_project_policies(session, project, [])
        await session.commit()
        await work(settings)
        assert await states(session) == {PromptState.QUEUED: 2}
        because = (await get_status(session, project)).waiting_because
        assert because is not None
        assert "No policy" in because
        await set_project_policies(session, project, [policy])
        await enqueue_waiting(session, project.id)
        await session.commit()
        await work(settings)
        assert await states(session) == {PromptState.READY: 2}


async def test_a_paused_project_writes_nothing(
    sessions: SessionMaker, chat: ChatServer, settings: Settings
) -> None:
    async with sessions() as session:
        project, _ = await make(session, chat, prompts=2)
        project.paused = True
        await session.commit()
        await work(settings)
        assert await states(session) == {PromptState.QUEUED: 2}


async def test_the_most_urgent_prompts_come_first(
    sessions: SessionMaker, chat: ChatServer, settings: Settings
) -> None:
    async with sessions() as session:
        await make(session, chat, prompts=30)
        before = len(chat.requests)
        await work(settings)
        asked = [each["messages"][0]["content"] for each in chat.requests[before:]]
        first = {asked.index(f"Question {n}") for n in range(23, 31)}
        last = {asked.index(f"Question {n}") for n in range(1, 7)}
        assert max(first) < min(last)


@pytest.mark.slow
async def test_a_killed_worker_loses_nothing_and_doubles_nothing(
    sessions: SessionMaker, chat: ChatServer, settings: Settings, fresh_database: str
) -> None:
    async with sessions() as session:
        await make(session, chat, prompts=200)
        environment = {
            **os.environ,
            "DATABASE_URL": fresh_database,
            "PLACKETT_GENERATION_TIMEOUT": "5",
            "PLACKETT_WORKER_SILENCE_SECONDS": "3",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "worker", "--queue", "generation"],
            cwd=CHECKOUT,
            env=environment,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(600):
            await session.rollback()
            if (await states(session)).get(PromptState.READY, 0) > 10:
                break
            await asyncio.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        await session.rollback()
        counts = await states(session)
        assert counts.get(PromptState.READY, 0) < 200
        # The next worker finds the first one silent, and takes up its ticket and what it held.
        with subprocess.Popen(
            [sys.executable, "-m", "app", "worker", "--queue", "generation"],
            cwd=CHECKOUT,
            env=environment,
            stderr=subprocess.DEVNULL,
        ) as second:
            for _ in range(600):
                await session.rollback()
                if await states(session) == {PromptState.READY: 200}:
                    break
                await asyncio.sleep(0.1)
            second.terminate()
        await session.rollback()
        assert await states(session) == {PromptState.READY: 200}
        each = select(func.count()).select_from(Candidate).group_by(Candidate.prompt_id)
        assert set(await session.scalars(each)) == {4}
        assert await session.scalar(select(func.count()).select_from(Task)) == 200


def test_the_web_application_imports_no_torch() -> None:
    code = "import sys, app.main; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, check=False).returncode == 0
