"""Rating through the API, as programs outside call it."""

import json
import uuid
from itertools import product
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import Role, User
from app.db.types import utc_now
from app.projects.models import Project
from app.rating.models import Assignment, Comparison, Ranking, Task
from tests.factories.accounts import bearer, create_user
from tests.factories.projects import create_project
from tests.factories.rating import create_tasks

AXES = [{"name": "helpful", "question": "How helpful?", "min": 1, "max": 7}]


@pytest.fixture
async def project(session: AsyncSession) -> Project:
    return await create_project(session, axes=AXES)


@pytest.fixture
async def rater(session: AsyncSession) -> User:
    return await create_user(session)


@pytest.fixture
async def headers(session: AsyncSession, rater: User) -> dict[str, str]:
    return await bearer(session, rater)


async def lease(client: httpx.AsyncClient, slug: str, headers: dict[str, str]) -> dict[str, Any]:
    answer = await client.post(f"/api/v1/projects/{slug}/assignments", headers=headers)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def submit(
    client: httpx.AsyncClient, headers: dict[str, str], assignment: str, **body: Any
) -> httpx.Response:
    return await client.put(f"/api/v1/assignments/{assignment}/ranking", headers=headers, json=body)


def in_order(task: dict[str, Any]) -> dict[str, int]:
    return {each["id"]: rank for rank, each in enumerate(task["candidates"], start=1)}


async def test_a_lease_tells_what_to_rank_and_nothing_of_who_wrote_it(
    client: httpx.AsyncClient, session: AsyncSession, project: Project, headers: dict[str, str]
) -> None:
    await create_tasks(session, project)
    task = await lease(client, project.slug, headers)
    assert set(task) == {
        "id", "task_id", "expires_at", "messages", "candidates", "axes", "flags",
        "guideline_version", "questions"
    }  # fmt: skip
    assert len(task["candidates"]) == 4
    assert all(set(each) == {"id", "text"} for each in task["candidates"])
    assert all(uuid.UUID(each["id"]).version == 4 for each in task["candidates"])
    assert task["messages"][-1]["role"] == "user"


async def test_who_holds_a_task_gets_the_same_one_again(
    client: httpx.AsyncClient, session: AsyncSession, project: Project, headers: dict[str, str]
) -> None:
    await create_tasks(session, project, 3)
    assert await lease(client, project.slug, headers) == await lease(client, project.slug, headers)


async def test_a_repeated_submit_changes_nothing_and_says_the_same(
    client: httpx.AsyncClient, session: AsyncSession, project: Project, headers: dict[str, str]
) -> None:
    await create_tasks(session, project)
    task = await lease(client, project.slug, headers)
    body = {"ranks": in_order(task), "axes": {"helpful": 5}, "flags": ["unsafe"], "seconds": 12.5}
    first = await submit(client, headers, task["id"], **body)
    again = await submit(client, headers, task["id"], **body)
    assert first.status_code == again.status_code == 200
    assert first.json() == again.json()
    assert first.json()["ranks"] == body["ranks"]
    assert await session.scalar(select(func.count()).select_from(Ranking)) == 1
    assert await session.scalar(select(func.count()).select_from(Comparison)) == 6
    ranks = in_order(task)
    other = dict(reversed(list(zip(ranks, reversed(ranks.values()), strict=True))))
    conflict = await submit(client, headers, task["id"], ranks=other)
    assert conflict.status_code == 409
    assert conflict.headers["content-type"] == "application/problem+json"


async def test_nothing_left_is_no_content(
    client: httpx.AsyncClient, session: AsyncSession, project: Project, headers: dict[str, str]
) -> None:
    await create_tasks(session, project)
    task = await lease(client, project.slug, headers)
    await submit(client, headers, task["id"], ranks=in_order(task))
    answer = await client.post(f"/api/v1/projects/{project.slug}/assignments", headers=headers)
    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda ranks, first: ranks.pop(first), "ranks.{first}"),
        (lambda ranks, first: ranks.update({first: 0}), "ranks.{first}"),
        (lambda ranks, first: ranks.update({first: 5}), "ranks.{first}"),
        (lambda ranks, first: ranks.update({first: 2}), "ranks"),
        (
            lambda ranks, first: ranks.update({str(uuid.UUID(int=1)): 1}),
            f"ranks.{uuid.UUID(int=1)}",
        ),
        (lambda ranks, first: ranks.update({first: "1"}), None),
        (lambda ranks, first: ranks.update({first: 1.5}), None),
        (lambda ranks, first: ranks.update({first: True}), None),
        (lambda ranks, first: ranks.update({"no-id": 1}), None),
    ],
)
async def test_a_wrong_ranking_is_refused_by_the_place_of_its_fault(
    client: httpx.AsyncClient,
    session: AsyncSession,
    project: Project,
    headers: dict[str, str],
    change: Any,
    place: str | None,
) -> None:
    await create_tasks(session, project)
    task = await lease(client, project.slug, headers)
    ranks: dict[str, Any] = in_order(task)
    first = task["candidates"][0]["id"]
    change(ranks, first)
    answer = await submit(client, headers, task["id"], ranks=ranks)
    assert answer.status_code == 422
    if place is not None:
        assert answer.json()["place"] == place.format(first=first)
    assert await session.scalar(select(func.count()).select_from(Ranking)) == 0


@pytest.mark.parametrize(
    "extra",
    [{"axes": {"helpful": 8}}, {"axes": {"kind": 1}}, {"flags": ["green"]}, {"seconds": -1},
     {"rationale": "\x00"}, {"surprise": 1}],
)  # fmt: skip
async def test_what_the_project_does_not_ask_is_refused(
    client: httpx.AsyncClient,
    session: AsyncSession,
    project: Project,
    headers: dict[str, str],
    extra: dict[str, Any],
) -> None:
    await create_tasks(session, project)
    task = await lease(client, project.slug, headers)
    answer = await submit(client, headers, task["id"], ranks=in_order(task), **extra)
    assert answer.status_code == 422


@pytest.mark.slow
async def test_every_permutation_and_tie_pattern_is_stored_as_given(
    client: httpx.AsyncClient, session: AsyncSession, headers: dict[str, str]
) -> None:
    for count in (2, 3, 4):
        patterns = [p for p in product(range(1, count + 1), repeat=count) if min(p) == 1]
        project = await create_project(session, candidates_per_task=count)
        await create_tasks(session, project, len(patterns), candidates=count)
        for pattern in patterns:
            task = await lease(client, project.slug, headers)
            ranks = {
                each["id"]: rank for each, rank in zip(task["candidates"], pattern, strict=True)
            }
            answer = await submit(client, headers, task["id"], ranks=ranks)
            assert answer.json()["ranks"] == ranks
            rows = await session.execute(
                select(Comparison).where(Comparison.ranking_id == uuid.UUID(answer.json()["id"]))
            )
            pairs = [row for (row,) in rows]
            assert len(pairs) == count * (count - 1) // 2
            for pair in pairs:
                better, worse = ranks[str(pair.better_id)], ranks[str(pair.worse_id)]
                # By dense ranks: how many of those that were given lie between.
                assert better <= worse
                assert pair.margin == len({r for r in ranks.values() if better < r <= worse})


async def test_a_skipped_task_goes_to_somebody_else_and_never_comes_back(
    client: httpx.AsyncClient, session: AsyncSession, project: Project, headers: dict[str, str]
) -> None:
    await create_tasks(session, project)
    task = await lease(client, project.slug, headers)
    address = f"/api/v1/assignments/{task['id']}/skip"
    assert (await client.post(address, headers=headers, json={"reason": " "})).status_code == 422
    for _ in range(2):
        gone = await client.post(address, headers=headers, json={"reason": "not my language"})
        assert gone.status_code == 204
    again = await client.post(f"/api/v1/projects/{project.slug}/assignments", headers=headers)
    assert again.status_code == 204
    other = await bearer(session, await create_user(session))
    assert (await lease(client, project.slug, other))["task_id"] == task["task_id"]
    late = await submit(client, headers, task["id"], ranks=in_order(task))
    assert late.status_code == 409


async def expire(session: AsyncSession, assignment: str) -> None:
    await session.execute(
        update(Assignment)
        .where(Assignment.id == uuid.UUID(assignment))
        .values(expires_at=utc_now())
    )
    await session.commit()


async def test_a_late_ranking_takes_a_slot_that_is_still_free(
    client: httpx.AsyncClient, session: AsyncSession, project: Project, headers: dict[str, str]
) -> None:
    await create_tasks(session, project)
    task = await lease(client, project.slug, headers)
    await expire(session, task["id"])
    other = await bearer(session, await create_user(session))
    taken = await lease(client, project.slug, other)
    gone = await client.post(
        f"/api/v1/assignments/{taken['id']}/skip", headers=other, json={"reason": "no"}
    )
    assert gone.status_code == 204
    late = await submit(client, headers, task["id"], ranks=in_order(task))
    assert late.status_code == 200
    assert late.json()["extra"] is False
    stored = await session.get_one(Task, uuid.UUID(task["task_id"]), populate_existing=True)
    assert stored.open_slots == 0


async def test_a_late_ranking_whose_slot_is_gone_is_kept_and_marked(
    client: httpx.AsyncClient, session: AsyncSession, project: Project, headers: dict[str, str]
) -> None:
    await create_tasks(session, project)
    task = await lease(client, project.slug, headers)
    await expire(session, task["id"])
    other = await bearer(session, await create_user(session))
    taken = await lease(client, project.slug, other)
    assert taken["task_id"] == task["task_id"]
    late = await submit(client, headers, task["id"], ranks=in_order(task))
    assert late.status_code == 200
    assert late.json()["extra"] is True
    own = await submit(client, other, taken["id"], ranks=in_order(taken))
    assert own.json()["extra"] is False


async def test_a_lease_past_its_time_is_renewed_while_nobody_wants_its_slot(
    client: httpx.AsyncClient, session: AsyncSession, project: Project, headers: dict[str, str]
) -> None:
    await create_tasks(session, project, 2)
    task = await lease(client, project.slug, headers)
    await expire(session, task["id"])
    again = await lease(client, project.slug, headers)
    assert again.pop("expires_at") > utc_now().isoformat()
    task.pop("expires_at")
    assert again == task


async def test_skipping_after_the_lease_ran_out_leaves_the_slot_to_its_new_holder(
    client: httpx.AsyncClient, session: AsyncSession, project: Project, headers: dict[str, str]
) -> None:
    await create_tasks(session, project)
    task = await lease(client, project.slug, headers)
    await expire(session, task["id"])
    other = await bearer(session, await create_user(session))
    taken = await lease(client, project.slug, other)
    address = f"/api/v1/assignments/{task['id']}/skip"
    assert (await client.post(address, headers=headers, json={"reason": "x"})).status_code == 204
    stored = await session.get_one(Task, uuid.UUID(task["task_id"]), populate_existing=True)
    assert stored.open_slots == 0
    own = await submit(client, other, taken["id"], ranks=in_order(taken))
    assert own.json()["extra"] is False


async def test_a_repeated_submit_says_the_same_whatever_the_project_asks_by_then(
    client: httpx.AsyncClient, session: AsyncSession, project: Project, headers: dict[str, str]
) -> None:
    await create_tasks(session, project)
    task = await lease(client, project.slug, headers)
    body = {"ranks": in_order(task), "axes": {"helpful": 5}}
    first = await submit(client, headers, task["id"], **body)
    project.axes = []
    await session.commit()
    again = await submit(client, headers, task["id"], **body)
    assert (again.status_code, again.content) == (200, first.content)


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("draft", rb'{"rationale": "a\u0000b"}'),
        ("draft", rb'{"ranks": {"a\u0000b": 1}}'),
        ("draft", rb'{"axes": {"\ud800": 1}}'),
        ("draft", rb'{"axes": {"a": NaN}}'),
        ("ranking", rb'{"ranks": {}, "axes": {"\ud800": 1}}'),
        ("ranking", rb'{"ranks": {}, "flags": ["\ud800"]}'),
        ("ranking", rb'{"ranks": {}, "rewrite": "\u0000"}'),
        ("ranking", rb'{"ranks": {}, "seconds": 1e999}'),
        ("ranking", rb'{"ranks": {}}'),
        ("ranking", b"{"),
    ],
)
async def test_what_cannot_be_stored_is_refused_and_named(
    client: httpx.AsyncClient,
    session: AsyncSession,
    project: Project,
    headers: dict[str, str],
    call: str,
    body: bytes,
) -> None:
    await create_tasks(session, project)
    task = await lease(client, project.slug, headers)
    answer = await client.put(
        f"/api/v1/assignments/{task['id']}/{call}",
        headers={**headers, "Content-Type": "application/json"},
        content=body,
    )
    assert answer.status_code == 422
    assert answer.json()["place"]


async def test_a_form_with_a_strange_digit_is_refused(
    client: httpx.AsyncClient, session: AsyncSession, project: Project, headers: dict[str, str]
) -> None:
    await create_tasks(session, project)
    task = await lease(client, project.slug, headers)
    first = task["candidates"][0]["id"]
    for rank in ("²", "9" * 5000, "-1", ""):
        answer = await client.post(
            f"/rate/assignments/{task['id']}", headers=headers, data={f"rank-{first}": rank}
        )
        assert answer.status_code == 422


async def test_an_expired_task_comes_back_to_its_rater_in_the_same_order_with_the_draft(
    client: httpx.AsyncClient, session: AsyncSession, project: Project, headers: dict[str, str]
) -> None:
    await create_tasks(session, project)
    task = await lease(client, project.slug, headers)
    first = task["candidates"][0]["id"]
    kept = await client.put(
        f"/api/v1/assignments/{task['id']}/draft", headers=headers, json={"ranks": {first: 1}}
    )
    assert kept.status_code == 204
    await expire(session, task["id"])
    again = await lease(client, project.slug, headers)
    assert (again["id"], again["candidates"]) == (task["id"], task["candidates"])
    row = await session.get_one(Assignment, uuid.UUID(task["id"]), populate_existing=True)
    assert row.draft is not None
    assert row.draft["ranks"] == {first: 1}


async def test_nobody_sees_or_ranks_somebody_elses_assignment(
    client: httpx.AsyncClient, session: AsyncSession, project: Project, headers: dict[str, str]
) -> None:
    await create_tasks(session, project)
    task = await lease(client, project.slug, headers)
    other = await bearer(session, await create_user(session))
    answer = await submit(client, other, task["id"], ranks=in_order(task))
    assert answer.status_code == 404


async def test_a_paused_project_gives_nothing_and_still_takes_what_was_begun(
    client: httpx.AsyncClient, session: AsyncSession, project: Project, headers: dict[str, str]
) -> None:
    await create_tasks(session, project, 2)
    task = await lease(client, project.slug, headers)
    project.paused = True
    await session.commit()
    assert (await submit(client, headers, task["id"], ranks=in_order(task))).status_code == 200
    answer = await client.post(f"/api/v1/projects/{project.slug}/assignments", headers=headers)
    assert answer.status_code == 204


async def test_the_most_urgent_task_comes_first(
    client: httpx.AsyncClient, session: AsyncSession, project: Project, headers: dict[str, str]
) -> None:
    await create_tasks(session, project, 2)
    await create_tasks(session, project, 1, prompt="urgent", priority=5)
    assert (await lease(client, project.slug, headers))["messages"][0]["content"] == "urgent"


async def test_progress_counts_what_happened(
    client: httpx.AsyncClient, session: AsyncSession, project: Project, headers: dict[str, str]
) -> None:
    await create_tasks(session, project, 3)
    await create_tasks(session, project, 2, candidates=0)
    task = await lease(client, project.slug, headers)
    await submit(client, headers, task["id"], ranks=in_order(task))
    await lease(client, project.slug, headers)
    counts = (await client.get(f"/api/v1/projects/{project.slug}/progress", headers=headers)).json()
    wanted = {"prompts": 5, "queued": 2, "generated": 3, "ready": 1, "leased": 1, "rated": 1}
    assert {name: counts[name] for name in wanted} == wanted
    assert counts["skipped"] == 0


async def test_prompts_come_in_as_a_list_or_as_lines(
    client: httpx.AsyncClient, session: AsyncSession, project: Project, headers: dict[str, str]
) -> None:
    address = f"/api/v1/projects/{project.slug}/prompts"
    rows = [{"id": "a", "prompt": "One?"}, {"id": "b", "prompt": "Two?", "candidates": ["x", "y"]}]
    assert (await client.post(address, headers=headers, json=rows)).status_code == 403
    admin = await bearer(session, await create_user(session, Role.ADMIN))
    first = await client.post(address, headers=admin, json=[*rows, {"prompt": 7}])
    assert first.status_code == 201
    assert first.json() == {
        "accepted": 2,
        "duplicates": 0,
        "rejected": [
            {"line": 3, "field": "prompt", "message": "must be a string or a list of messages"}
        ],
    }
    lines = "\n".join([*map(json.dumps, rows), "{broken", json.dumps({"prompt": "Three?"})])
    second = await client.post(
        address,
        headers={**admin, "Content-Type": "application/x-ndjson"},
        content=lines.encode(),
    )
    report = second.json()
    assert (report["accepted"], report["duplicates"]) == (1, 2)
    assert report["rejected"][0]["line"] == 3
    plain = await client.post(
        address, headers={**admin, "Content-Type": "text/plain"}, content=b"hello"
    )
    assert plain.status_code == 422
