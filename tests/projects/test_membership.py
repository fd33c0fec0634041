"""Who sees which project: to everybody else a closed one is not there, on no page and in no answer."""

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
import pytest
from fastapi.routing import APIRoute
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import AuditEntry, Role, User
from app.datasets.models import Export
from app.db.types import uuid7
from app.main import ROUTERS
from app.policies.models import Backend
from app.policies.schemas import PolicyIn
from app.policies.service import register_policy
from app.projects import queries, service
from app.projects.models import Project
from app.prompts.models import Prompt
from app.rating import assign, upkeep
from app.rating.models import Assignment, Ranking, Task
from app.rating.schemas import RankingIn
from app.rating.submit import submit_ranking
from app.training.models import Run
from tests.factories.accounts import bearer, create_user, sign_in
from tests.factories.projects import create_policy, create_project
from tests.factories.rating import create_tasks

SECRET = "unheard-of"


@dataclass
class Closed:
    """A project that is closed, with something of each kind in it, and a member of each role."""

    project: Project
    members: dict[Role, User]
    # By the names that routes have for them.
    ids: dict[str, str]
    run_policy: str


@pytest.fixture
async def closed(session: AsyncSession) -> Closed:
    project = await create_project(
        session, slug=SECRET, name="Unheard-of things", members_only=True, guidelines="Be fair."
    )
    await create_tasks(session, project, 3, prompt="What is unheard-of here?")
    members = {role: await create_user(session, role) for role in Role}
    await service.add_members(session, project, list(members.values()))
    rater = members[Role.RATER]
    first = await assign.lease_next_task(session, project, rater)
    assert first
    ranks = {each.id: number for number, each in enumerate(first.candidates, start=1)}
    stored = await submit_ranking(session, first.assignment_id, rater, RankingIn(ranks=ranks))
    held = await assign.lease_next_task(session, project, rater)
    assert held
    export = Export(project_id=project.id, name="unheard-of export", filters={}, split={})
    session.add(export)
    await session.flush()
    base = await create_policy(session)
    run = Run(
        project_id=project.id,
        stage="ppo",
        catalogue={"title": "PPO unheard-of", "makes": "reward"},
        export_id=export.id,
        base_policy_id=base.id,
        config={},
    )
    session.add(run)
    await session.flush()
    made = await register_policy(
        session,
        PolicyIn(name="unheard-of-ppo-1", backend=Backend.TRANSFORMERS, model="/models/it"),
        parent=base,
        run_id=run.id,
        project=project,
    )
    prompt = await session.scalar(select(Prompt.id).where(Prompt.project_id == project.id))
    await session.commit()
    ids = {
        **{"slug": SECRET, "name": "manifest.json", "user_id": str(rater.id)},
        **{"assignment_id": str(held.assignment_id), "ranking_id": str(stored.id)},
        **{"export_id": str(export.id), "run_id": str(run.id)},
        **{"prompt_id": str(prompt), "rater_id": str(rater.id)},
    }
    return Closed(project, members, ids, made.name)


def routes_of_things() -> list[tuple[str, str]]:
    """Every route that has something of a project in its address."""
    return sorted(
        (method, route.path)
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute) and "{" in route.path
        for method in route.methods or ()
        if not route.path.startswith(("/sign-in", "/account", "/admin/people"))
    )


def address(path: str, ids: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: ids[match[1]], path)


@pytest.mark.parametrize("role", [Role.RATER, Role.RESEARCHER])
async def test_to_a_stranger_a_closed_project_is_as_one_that_is_not_there(
    client: httpx.AsyncClient, session: AsyncSession, closed: Closed, role: Role
) -> None:
    stranger = await create_user(session, role)
    nothing = {name: str(uuid7()) for name in closed.ids} | {
        "slug": "nowhere",
        "name": "no-such-file",
    }
    routes = routes_of_things()
    assert len(routes) > 40
    bodies = {
        "/ranking": {"ranks": {}},
        "/skip": {"reason": "no"},
        "/draft": {},
        "/runs": {"stage": "reward"},
        "/exports": {"name": "a"},
    }
    seen = 0
    for method, path in routes:
        headers = await bearer(session, stranger)
        answers = []
        for ids in (closed.ids, nothing):
            form = {
                **{"version": "1", "reason": "no", "current": ids["assignment_id"]},
                **{"one": ids["run_id"], "other": ids["run_id"], "closed": "true"},
            }
            given: dict[str, object] = {"data": form} if method == "POST" else {}
            if path.startswith("/api/") and method in ("POST", "PUT"):
                body = next((b for end, b in bodies.items() if path.endswith(end)), None)
                given = {"json": body} if body is not None else {}
            if path.endswith("/difference") and method == "GET":
                given = {"params": {"one": ids["run_id"], "other": ids["run_id"]}}
            answer = await client.request(method, address(path, ids), headers=headers, **given)  # type: ignore[arg-type]
            text = answer.text
            for value in ids.values():
                text = text.replace(value, "it")
            text = re.sub(r'value="[\w.-]+"|nonce="[^"]*"|X-CSRF-Token": "[^"]*"', "", text)
            answers.append((answer.status_code, text))
        assert answers[0] == answers[1], (method, path)
        assert answers[0][0] in (403, 404), (method, path, answers[0])
        seen += answers[0][0] == 404
    assert seen > 10


@pytest.mark.parametrize(
    ("role", "lists"),
    [
        (Role.RATER, ["/api/v1/projects", "/rate"]),
        (
            Role.RESEARCHER,
            [
                *("/api/v1/projects", "/api/v1/policies", "/admin/projects", "/admin/policies"),
                *("/research/exports", "/research/runs"),
            ],
        ),
    ],
)
async def test_lists_hold_what_their_reader_sees(
    client: httpx.AsyncClient,
    session: AsyncSession,
    closed: Closed,
    role: Role,
    lists: Sequence[str],
) -> None:
    open_to_all = await create_project(session, name="Heard of")
    await create_tasks(session, open_to_all, 1)
    stranger = await bearer(session, await create_user(session, role))
    member = await bearer(session, closed.members[role])
    admin = await bearer(session, await create_user(session, Role.ADMIN))
    for path in lists:
        assert "nheard-of" not in (await client.get(path, headers=stranger)).text, path
        for headers in (member, admin):
            assert "nheard-of" in (await client.get(path, headers=headers)).text, (path, headers)
    assert open_to_all.slug in (await client.get("/api/v1/projects", headers=stranger)).text


async def test_nothing_of_a_closed_project_goes_into_a_strangers_run(
    client: httpx.AsyncClient, session: AsyncSession, closed: Closed
) -> None:
    await session.execute(update(Run).values(state="succeeded"))
    mine = await create_project(session)
    await session.commit()
    headers = await bearer(session, await create_user(session, Role.RESEARCHER))
    calls = f"/api/v1/projects/{mine.slug}/runs"
    export = Export(project_id=mine.id, name="mine", filters={}, split={}, state="ready", path="/x")
    session.add(export)
    await session.commit()
    policy = {"stage": "reward", "export": str(export.id), "policy": closed.run_policy}
    refused = await client.post(calls, headers=headers, json=policy)
    assert (refused.status_code, refused.json()["place"]) == (404, "policy")
    other = {"stage": "reward", "export": closed.ids["export_id"]}
    refused = await client.post(calls, headers=headers, json=other)
    assert (refused.status_code, refused.json()["place"]) == (404, "export")


async def test_who_is_taken_out_loses_what_they_hold_and_whoever_comes_back_finds_it(
    client: httpx.AsyncClient, session: AsyncSession, closed: Closed
) -> None:
    rater = closed.members[Role.RATER]
    headers = await bearer(session, rater)
    held = await client.post(f"/api/v1/projects/{SECRET}/assignments", headers=headers)
    assert held.status_code == 201
    ranking = f"/api/v1/assignments/{held.json()['id']}/ranking"
    ranks = {each["id"]: 1 for each in held.json()["candidates"]}
    await service.remove_member(session, closed.project, rater)
    await session.commit()
    for method, path, body in (
        ("POST", f"/api/v1/projects/{SECRET}/assignments", None),
        ("PUT", ranking, {"ranks": ranks}),
        ("PUT", ranking.replace("ranking", "draft"), {}),
        ("POST", ranking.replace("ranking", "skip"), {"reason": "no"}),
        ("GET", f"/rate/history/{closed.ids['ranking_id']}", None),
    ):
        answer = await client.request(method, path, headers=headers, json=body)
        assert answer.status_code == 404, (method, path, answer.text)
    own = (await client.get("/rate/history", headers=headers)).text
    assert "unheard-of" not in own
    await service.add_members(session, closed.project, [rater])
    await session.commit()
    stored = await client.put(ranking, headers=headers, json={"ranks": ranks})
    assert stored.status_code == 200
    assert "unheard-of" in (await client.get("/rate/history", headers=headers)).text


READ = ["", "/prompts", "/prompts/{prompt_id}", "/generation", "/guidelines", "/raters"]


async def test_a_researcher_reads_everything_of_a_project_and_is_offered_no_change(
    client: httpx.AsyncClient, session: AsyncSession, closed: Closed
) -> None:
    researcher = closed.members[Role.RESEARCHER]
    await sign_in(client, session, researcher)
    pages = [f"/admin/projects/{SECRET}{address(each, closed.ids)}" for each in READ]
    pages += ["/admin/projects", "/admin/policies", f"/rate/{SECRET}/preview"]
    for path in pages:
        page = await client.get(path)
        assert page.status_code == 200, path
        if path.startswith("/rate"):
            continue
        forms = re.findall(r'<form[^>]*method="post"[^>]*action="([^"]*)"', page.text)
        assert set(forms) <= {"/sign-out", "/language"}, path
        for absent in ("/settings", "/members", "/admin/people", "/admin/projects/new"):
            assert f'{absent}"' not in page.text, (path, absent)
    assert (
        "settings"
        in (
            await client.get(
                f"/admin/projects/{SECRET}",
                headers=await bearer(session, closed.members[Role.ADMIN]),
            )
        ).text.lower()
    )


async def test_a_preview_takes_no_task_runs_no_script_and_stores_nothing(
    client: httpx.AsyncClient, session: AsyncSession, closed: Closed
) -> None:
    async def count() -> tuple[int | None, ...]:
        tables = (Assignment, Ranking)
        counts = [await session.scalar(select(func.count()).select_from(each)) for each in tables]
        return (*counts, await session.scalar(select(func.sum(Task.open_slots))))

    before = await count()
    headers = await bearer(session, closed.members[Role.RESEARCHER])
    page = await client.get(f"/rate/{SECRET}/preview", headers=headers)
    assert "What is unheard-of here?" in page.text
    assert "This is what a rater sees" in page.text
    policy = page.headers["content-security-policy"]
    assert "script-src" not in policy
    assert "default-src 'none'" in policy
    assert "form-action 'none'" in policy
    one = f"/rate/{SECRET}/preview?prompt={closed.ids['prompt_id']}"
    assert (await client.get(one, headers=headers)).status_code == 200
    other = f"/rate/{SECRET}/preview?prompt={uuid.uuid4()}"
    assert (await client.get(other, headers=headers)).status_code == 404
    assert await count() == before


async def test_the_documented_calls_need_nobody_to_be_made_a_member(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    admin = await bearer(session, await create_user(session, Role.ADMIN))
    made = await client.post(
        "/api/v1/projects", headers=admin, json={"slug": "documented", "name": "Documented"}
    )
    assert (made.status_code, made.json()["members_only"]) == (201, False)
    row = {"prompt": "Why?", "candidates": ["a", "b", "c", "d"]}
    await client.post("/api/v1/projects/documented/prompts", headers=admin, json=[row])
    rater = await bearer(session, await create_user(session))  # made after the project
    leased = await client.post("/api/v1/projects/documented/assignments", headers=rater)
    assert leased.status_code == 201
    researcher = await bearer(session, await create_user(session, Role.RESEARCHER))
    assert (
        await client.get("/api/v1/projects/documented/quality", headers=researcher)
    ).status_code == 200


async def test_closing_shuts_nobody_out_who_is_there_and_each_step_is_in_the_audit_log(
    session: AsyncSession,
) -> None:
    project = await create_project(session)
    there, admin = await create_user(session), await create_user(session, Role.ADMIN)
    await service.set_members_only(session, project, True, actor=admin.id)
    later = await create_user(session)
    assert await queries.find_project_for(session, there, project.slug) is project
    assert await queries.find_project_for(session, later, project.slug) is None
    assert await queries.find_project_for(session, admin, project.slug) is project
    await service.add_members(session, project, [later], actor=admin.id)
    await service.add_members(session, project, [later], actor=admin.id)
    assert await queries.find_project_for(session, later, project.slug) is project
    await service.remove_member(session, project, later, actor=admin.id)
    await service.set_members_only(session, project, False, actor=admin.id)
    assert await queries.find_project_for(session, later, project.slug) is project
    told = await session.scalars(
        select(AuditEntry.action).where(AuditEntry.actor_id == admin.id).order_by(AuditEntry.id)
    )
    assert list(told) == [
        *("project.close", "project.member.add", "project.member.remove", "project.open"),
    ]


async def test_an_admin_adds_members_and_invites_into_a_project(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    project = await create_project(session, members_only=True)
    one, two = await create_user(session), await create_user(session)
    csrf = await sign_in(client, session, await create_user(session, Role.ADMIN))
    page = f"/admin/projects/{project.slug}/members"
    headers = {"X-CSRF-Token": csrf}
    unknown = {"addresses": f"{one.email}, nobody@example.org"}
    wrong = await client.post(page, headers=headers, data=unknown)
    assert wrong.status_code == 404
    assert "nobody with the address nobody@example.org" in wrong.text
    assert not await queries.list_members(session, project.id)  # all of them, or none
    both = {"addresses": f"{one.email.upper()},\n {two.email}"}
    assert (await client.post(page, headers=headers, data=both)).status_code == 303
    assert set(await queries.list_members(session, project.id)) == {one, two}
    await client.post(f"{page}/{one.id}/remove", headers=headers)
    assert await queries.list_members(session, project.id) == [two]
    form = await client.get(f"/admin/people?project={project.slug}")
    assert re.search(rf'value="{project.slug}" checked', form.text)
    invited = {"email": "new@example.org", "role": "rater", "project": project.slug}
    assert (await client.post("/admin/people", headers=headers, data=invited)).status_code == 200
    assert [each.email for each in await queries.list_members(session, project.id)] == [
        *("new@example.org", two.email),
    ]


async def test_a_task_is_left_over_when_every_member_has_skipped_it(session: AsyncSession) -> None:
    project = await create_project(session, members_only=True)
    await create_tasks(session, project, 1)
    member, _stranger = await create_user(session), await create_user(session)
    await service.add_members(session, project, [member])
    lease = await assign.lease_next_task(session, project, member)
    assert lease
    await assign.skip(session, lease.assignment_id, member, "unclear")
    assert (await upkeep.count_left_over(session, project.id)).skipped_by_all == 1
