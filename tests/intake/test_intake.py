"""Rows become prompts, tasks, imported rankings and jobs: all of them, or exactly as reported."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import Kind, Role, User
from app.db.engine import SessionMaker, create_engine, create_sessions
from app.errors import NotFound
from app.intake.service import import_prompts
from app.policies.models import Backend, Policy
from app.projects.models import Project
from app.prompts.models import Candidate, Prompt, PromptImport, PromptState
from app.prompts.parse import PromptRow, RowError, parse_row
from app.prompts.schemas import ImportReport
from app.rating import assign, history
from app.rating.models import Comparison, Ranking, Task
from tests.factories.accounts import bearer, create_user
from tests.factories.projects import create_policy, create_project
from tests.factories.rating import LIMIT, row


@pytest.fixture
async def project(session: AsyncSession) -> Project:
    return await create_project(session, overlap=2)


def parsed(*rows: dict[str, Any]) -> list[PromptRow | RowError]:
    return [parse_row(each, line, max_bytes=LIMIT) for line, each in enumerate(rows, start=1)]


async def bring_in(
    session: AsyncSession, project: Project, *rows: dict[str, Any], **settings: Any
) -> ImportReport:
    return await import_prompts(
        session, project, parsed(*rows), source="test", actor=None, **settings
    )


async def count(session: AsyncSession, table: Any) -> int:
    return await session.scalar(select(func.count()).select_from(table)) or 0


async def test_an_imported_ranking_is_one_raters_and_fills_one_slot(
    session: AsyncSession, project: Project
) -> None:
    await bring_in(
        session,
        project,
        row(["best", "worst", "second", "also second"], ranks=[1, 4, 2, 2], rater="ann"),
        row(2, ranks=[2, 1], rater="ann"),
        row(2, ranks=[1, 1], rater="bob"),
    )
    rankings = (await session.scalars(select(Ranking).order_by(Ranking.id))).all()
    assert [ranking.imported for ranking in rankings] == [True] * 3
    raters = [await session.get_one(User, ranking.rater_id) for ranking in rankings]
    assert [rater.name for rater in raters] == ["ann", "ann", "bob"]
    assert raters[0] is raters[1]
    assert {rater.kind for rater in raters} == {Kind.IMPORTED}
    tasks = (await session.scalars(select(Task))).all()
    assert {(task.overlap, task.open_slots) for task in tasks} == {(2, 1)}
    pairs = (
        await session.scalars(select(Comparison).where(Comparison.ranking_id == rankings[0].id))
    ).all()
    texts = {each.id: each.text for each in await session.scalars(select(Candidate))}
    said = {(texts[pair.better_id], texts[pair.worse_id], pair.margin) for pair in pairs}
    assert said - {("second", "also second", 0), ("also second", "second", 0)} == {
        ("best", "second", 1),
        ("best", "also second", 1),
        # By dense ranks: 1, 4, 2, 2 is the order of 1, 3, 2, 2.
        ("best", "worst", 2),
        ("second", "worst", 1),
        ("also second", "worst", 1),
    }
    assert len(said) == 6


async def test_a_task_filled_by_imported_rankings_asks_nobody(session: AsyncSession) -> None:
    project = await create_project(session, overlap=1)
    await bring_in(session, project, {"prompt": "Q", "chosen": "good", "rejected": "bad"})
    rater = await create_user(session)
    assert await assign.lease_next_task(session, project, rater) is None
    assert (await history.get_progress(session, project)).rated == 1


async def test_a_gold_tasks_answer_is_kept_from_raters(
    client: httpx.AsyncClient, session: AsyncSession, project: Project
) -> None:
    await bring_in(session, project, row(["right", "wrong"], ranks=[1, 2], gold=True))
    task = (await session.scalars(select(Task))).one()
    texts = {str(each.id): each.text for each in await session.scalars(select(Candidate))}
    assert task.gold
    assert task.gold_ranks is not None
    assert {texts[each]: rank for each, rank in task.gold_ranks.items()} == {"right": 1, "wrong": 2}
    assert await count(session, Ranking) == 0
    headers = await bearer(session, await create_user(session))
    answer = await client.post(f"/api/v1/projects/{project.slug}/assignments", headers=headers)
    assert "gold" not in answer.text


async def test_an_id_is_taken_once_however_often_it_comes(
    session: AsyncSession, project: Project
) -> None:
    first = await bring_in(session, project, row(id="a"), row(id="b"), row(id="a"), row(), row())
    again = await bring_in(session, project, row(id="b", priority=9), row(id="c"))
    assert (first.accepted, first.duplicates) == (4, 1)
    assert (again.accepted, again.duplicates) == (1, 1)
    stored = await session.scalar(select(Prompt).where(Prompt.external_id == "b"))
    assert stored is not None
    assert stored.priority == 0
    elsewhere = await bring_in(session, await create_project(session), row(id="a"))
    assert elsewhere.accepted == 1


async def test_raters_get_equally_urgent_prompts_in_the_order_of_the_file(
    session: AsyncSession, project: Project
) -> None:
    await bring_in(session, project, *[row(2, prompt=f"Question {n}") for n in range(300)])
    rows = await session.scalars(
        select(Prompt).join(Task, Task.prompt_id == Prompt.id).order_by(Task.id)
    )
    assert [each.messages[0]["content"] for each in rows] == [f"Question {n}" for n in range(300)]


async def test_candidates_keep_their_policies_and_say_when_they_are_the_same(
    session: AsyncSession, project: Project
) -> None:
    known = await create_policy(session, name="known")
    candidates = [{"text": "x", "policy": "known"}, {"text": "y", "policy": "new"}, "z", " x "]
    await bring_in(session, project, row(candidates))
    stored = (await session.scalars(select(Candidate).order_by(Candidate.position))).all()
    new = await session.scalar(select(Policy).where(Policy.name == "new"))
    assert new is not None
    assert new.backend is Backend.IMPORTED
    assert [each.policy_id for each in stored] == [known.id, new.id, None, None]
    assert [each.duplicate_of for each in stored] == [None, None, None, 0]


async def test_prompts_without_candidates_wait_for_the_worker(
    session: AsyncSession, project: Project
) -> None:
    policy = await create_policy(session)
    await bring_in(session, project, row(0), wanted=3, policies=[policy.name])
    prompt = (await session.scalars(select(Prompt))).one()
    assert (prompt.state, prompt.wanted) == (PromptState.QUEUED, 3)
    assert prompt.policy_ids == [policy.id]
    assert await count(session, Task) == 0
    jobs = await session.scalars(
        text("SELECT args ->> 'project_id' FROM procrastinate_jobs WHERE queue_name = 'generation'")
    )
    assert set(jobs) == {str(project.id)}


async def test_an_unknown_policy_brings_nothing_in(session: AsyncSession, project: Project) -> None:
    with pytest.raises(NotFound, match="no policy 'nobody'"):
        await bring_in(session, project, row(0), policies=["nobody"])
    assert await count(session, Prompt) == 0


async def test_wrong_rows_stay_out_and_the_report_has_each(
    client: httpx.AsyncClient, session: AsyncSession, project: Project
) -> None:
    admin = await bearer(session, await create_user(session, Role.ADMIN))
    lines = [b'{"prompt": "good"}', *[b'{"prompt": 1, "\\u0000": 2}'] * 150, b'{"prompt": "too"}']
    answer = await client.post(
        f"/api/v1/projects/{project.slug}/prompts",
        headers={**admin, "Content-Type": "application/x-ndjson"},
        content=b"\n".join(lines),
    )
    report = answer.json()
    assert (answer.status_code, report["accepted"], len(report["rejected"])) == (201, 2, 150)
    assert [each["line"] for each in report["rejected"]] == list(range(2, 152))
    kept = (await session.scalars(select(PromptImport))).one()
    assert (kept.accepted, kept.rejected_count, len(kept.rejected)) == (2, 150, 100)
    assert await count(session, Prompt) == 2


@pytest.fixture
async def sessions(fresh_database: str) -> AsyncIterator[SessionMaker]:
    engine = create_engine(fresh_database)
    yield create_sessions(engine)
    await engine.dispose()


@pytest.mark.slow
async def test_two_imports_of_the_same_rows_at_once_add_them_once(sessions: SessionMaker) -> None:
    async with sessions() as session:
        project = await create_project(session)
        await session.commit()
    ids = [uuid.uuid4().hex for _ in range(2500)]

    async def bring(order: list[str]) -> ImportReport:
        async with sessions() as session:
            names = [{"text": "x", "policy": f"model {each[0]}"} for each in order]
            rows = [row([name, "y"], id=each) for name, each in zip(names, order, strict=True)]
            report = await bring_in(session, project, *rows)
            await session.commit()
            return report

    reports = await asyncio.gather(bring(ids), bring(ids[::-1]))
    assert sorted((each.accepted, each.duplicates) for each in reports) == [(0, 2500), (2500, 0)]


async def rankings_by_rater(session: AsyncSession) -> dict[str, list[tuple[str, int]]]:
    """What each rater said: (text, rank) by text."""
    texts = {str(each.id): each.text for each in await session.scalars(select(Candidate))}
    found = await session.execute(
        select(User.name, Ranking.ranks).join(User, User.id == Ranking.rater_id)
    )
    return {
        name: sorted((texts[one], rank) for one, rank in ranks.items()) for name, ranks in found
    }


@pytest.mark.parametrize("together", [True, False])
async def test_rows_of_one_id_are_several_raters_rankings_of_one_task(
    session: AsyncSession, together: bool
) -> None:
    project = await create_project(session, overlap=2)
    rows = [
        row(["x", "y", "z"], id="a", prompt="Q", ranks=[1, 2, 3], rater="ann"),
        # In another order, as each rater's file has it.
        row(["z", "x", "y"], id="a", prompt="Q", ranks=[1, 3, 2], rater="bob"),
        row(["x", "y", "z"], id="a", prompt="Q", ranks=[2, 1, 1], rater="cem"),
        row(["x", "y", "z"], id="a", prompt="Q", ranks=[3, 1, 2], rater="ann"),  # once is enough
    ]
    if together:
        reports = [await bring_in(session, project, *rows)]
    else:
        reports = [await bring_in(session, project, each) for each in rows]
    assert sum(each.accepted for each in reports) == 3
    assert sum(each.duplicates for each in reports) == 1
    assert await rankings_by_rater(session) == {
        "ann": [("x", 1), ("y", 2), ("z", 3)],
        "bob": [("x", 3), ("y", 2), ("z", 1)],
        "cem": [("x", 2), ("y", 1), ("z", 1)],
    }
    assert await count(session, Comparison) == 9
    task = (await session.scalars(select(Task))).one()
    # A third ranking where two were wanted: the task is as large as what it has.
    assert (task.overlap, task.open_slots) == (3, 0)
    assert await assign.lease_next_task(session, project, await create_user(session)) is None


async def test_a_row_that_differs_from_the_one_of_its_id_names_that_one(
    session: AsyncSession, project: Project
) -> None:
    earlier = await bring_in(session, project, row(["x", "y"], id="old", prompt="Old"))
    report = await bring_in(
        session,
        project,
        row(["x", {"text": "y", "policy": "m"}], id="a", prompt="Q", ranks=[1, 2], rater="ann"),
        row(["x", "z"], id="a", prompt="Q", ranks=[1, 2], rater="bob"),
        row(["x", "y"], id="a", prompt="Another", ranks=[1, 2], rater="bob"),
        row(["x", {"text": "y", "policy": "n"}], id="a", prompt="Q", ranks=[1, 2], rater="bob"),
        row(["x", "y", "z"], id="old", prompt="Old", ranks=[1, 2, 3], rater="bob"),
        row(["y", "x"], id="old", prompt="Old", ranks=[1, 2], rater="bob"),
    )
    assert (earlier.accepted, report.accepted, report.duplicates) == (1, 2, 0)
    assert [(each.line, each.field, each.message) for each in report.rejected] == [
        (2, "candidates.1", "is not among those of the same id (line 1)"),
        (3, "prompt", "differs from that of the same id (line 1)"),
        (4, "candidates.1", "is not among those of the same id (line 1)"),
        (5, "candidates.2", "is not among those of the same id (imported from test)"),
    ]
    assert (await rankings_by_rater(session)) == {
        "ann": [("x", 1), ("y", 2)],
        "bob": [("x", 2), ("y", 1)],
    }


async def test_equal_texts_are_told_by_their_policies(
    session: AsyncSession, project: Project
) -> None:
    both = [{"text": "x", "policy": "m"}, {"text": "x", "policy": "n"}]
    first = row(both, id="a", prompt="Q", ranks=[1, 2], rater="ann")
    turned = row(both[::-1], id="a", prompt="Q", ranks=[1, 2], rater="bob")
    half = row(["x", both[0]], id="a", prompt="Q", ranks=[1, 2], rater="cem")
    report = await bring_in(session, project, first, turned, half)
    assert (report.accepted, report.rejected) == (3, [])
    policies = {
        str(candidate): name
        for candidate, name in await session.execute(
            select(Candidate.id, Policy.name).join(Policy, Policy.id == Candidate.policy_id)
        )
    }
    said = await session.execute(
        select(User.name, Ranking.ranks).join(User, User.id == Ranking.rater_id)
    )
    first_place = {
        name: policies[next(one for one, rank in ranks.items() if rank == 1)]
        for name, ranks in said
    }
    assert first_place == {"ann": "m", "bob": "n", "cem": "n"}


async def test_gold_tasks_and_prompts_without_candidates_take_no_further_rankings(
    session: AsyncSession, project: Project
) -> None:
    await bring_in(
        session,
        project,
        row(["x", "y"], id="gold", prompt="Q", ranks=[1, 2], gold=True),
        row(0, id="waits", prompt="W"),
    )
    report = await bring_in(
        session,
        project,
        row(["x", "y"], id="gold", prompt="Q", ranks=[2, 1], rater="ann"),
        row(["x", "y"], id="waits", prompt="W", ranks=[2, 1], rater="ann"),
        row(["x", "y"], id="gold", prompt="Q", ranks=[2, 1], gold=True),
    )
    assert (report.accepted, report.duplicates) == (0, 1)
    assert [(each.line, each.field) for each in report.rejected] == [(1, "id"), (2, "candidates.0")]
    assert await count(session, Ranking) == 0


async def test_a_row_says_all_that_a_rater_said(session: AsyncSession) -> None:
    project = await create_project(
        session,
        axes=[
            {"name": "helpful", "min": 0, "max": 4, "per": "response"},
            {"name": "sure", "min": 1, "max": 5},
        ],
        flags=[{"name": "unsafe"}],
    )
    said: dict[str, Any] = {
        "strength": 3,
        "axes": {"helpful": [4, None], "sure": 2},
        "flags": ["unsafe"],
        "rationale": "It answers the question.",
        "seconds": 12.5,
        "at": "2024-02-29T12:00:00+02:00",
    }
    report = await bring_in(
        session,
        project,
        row(["x", "y"], ranks=[1, 2], rater="ann", **said),
        row(["x", "y"], ranks=[1, 1], rater="ann", strength=2),
        row(["x", "y"], ranks=[1, 2], rater="ann", axes={"kind": 1}),
        row(["x", "y"], ranks=[1, 2], rater="ann", axes={"helpful": [5, 1]}),
        row(["x", "y"], ranks=[1, 2], rater="ann", flags=["rude"]),
    )
    assert [(each.line, each.field) for each in report.rejected] == [
        (2, "strength"),
        (3, "axes.kind"),
        (4, "axes.helpful"),
        (5, "flags"),
    ]
    ranking = (await session.scalars(select(Ranking))).one()
    texts = {str(each.id): each.text for each in await session.scalars(select(Candidate))}
    best = next(one for one, text in texts.items() if text == "x")
    assert ranking.axes == {"helpful": {best: 4}, "sure": 2}
    assert (ranking.strength, ranking.flags, ranking.seconds) == (3, ["unsafe"], 12.5)
    assert ranking.rationale == "It answers the question."
    assert (ranking.created_at.isoformat(), ranking.timed) == ("2024-02-29T10:00:00+00:00", True)
    pair = (await session.scalars(select(Comparison))).one()
    assert pair.margin == 3
