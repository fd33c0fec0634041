"""The prompt queue: upload, search, priority, pause, and one prompt's own page."""

import gzip
import json
import re
import uuid

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import Role
from app.projects.models import Project
from app.prompts.models import Prompt
from app.rating import assign
from app.rating.models import Task
from app.rating.schemas import RankingIn
from app.rating.submit import submit_ranking
from tests.factories.accounts import bearer, create_user
from tests.factories.projects import create_project
from tests.factories.rating import create_tasks, row


@pytest.fixture
async def project(session: AsyncSession) -> Project:
    return await create_project(session)


@pytest.fixture
async def headers(session: AsyncSession) -> dict[str, str]:
    return await bearer(session, await create_user(session, Role.ADMIN))


@pytest.fixture
def address(project: Project) -> str:
    return f"/admin/projects/{project.slug}"


async def upload(
    client: httpx.AsyncClient, address: str, headers: dict[str, str], name: str, content: bytes
) -> httpx.Response:
    return await client.post(f"{address}/prompts", headers=headers, files={"file": (name, content)})


async def test_an_upload_tells_what_became_of_each_row(
    client: httpx.AsyncClient, session: AsyncSession, address: str, headers: dict[str, str]
) -> None:
    lines = [json.dumps(row(id=str(n))) for n in range(3)] + ['{"prompt": "<b>", "x": 1}', "{"]
    for name, content in (("a.jsonl", "\n".join(lines).encode()), ("b.jsonl.gz", b"")):
        page = await upload(
            client, address, headers, name, content or gzip.compress("\n".join(lines).encode())
        )
        assert page.status_code == 200
        assert "line 4, <code>x</code>: is not a field" in page.text
        assert "line 5, <code>line</code>: is not JSON" in page.text
    assert len((await session.scalars(select(Prompt))).all()) == 3


async def test_a_broken_file_is_refused_and_brings_nothing_in(
    client: httpx.AsyncClient, session: AsyncSession, address: str, headers: dict[str, str]
) -> None:
    cut = gzip.compress(json.dumps(row()).encode() * 999)[:-9]
    for name, content in (("a.json", b"[{"), ("a.jsonl.gz", cut), ("a.parquet", b"PAR1")):
        page = await upload(client, address, headers, name, content)
        assert page.status_code == 422
        assert 'class="notice bad"' in page.text
    assert (await session.scalars(select(Prompt))).all() == []


async def test_a_small_file_that_unpacks_without_end_is_refused(
    client: httpx.AsyncClient, app: object, address: str, headers: dict[str, str]
) -> None:
    bomb = gzip.compress(b" " * (65 * 1024 * 1024), compresslevel=9)
    page = await upload(client, address, headers, "a.jsonl.gz", bomb)
    assert page.status_code == 413
    assert "unpacks to more than" in page.text


async def test_prompts_are_found_by_words_and_state(
    client: httpx.AsyncClient,
    session: AsyncSession,
    project: Project,
    address: str,
    headers: dict[str, str],
) -> None:
    await create_tasks(session, project, prompt="Needle 100% & more")
    await create_tasks(session, project, prompt="Straw", candidates=0)
    for query, found in (
        ("words=needle", ["Needle"]),
        ("words=100%25", ["Needle"]),
        ("words=1%2500", []),
        ("state=queued", ["Straw"]),
        ("state=nonsense", ["Needle", "Straw"]),
        ("words=%00needle", ["Needle"]),
    ):
        page = await client.get(f"{address}/prompts?{query}", headers=headers)
        assert page.status_code == 200
        assert [word for word in ("Needle", "Straw") if f">{word}" in page.text] == found


async def test_a_new_priority_moves_the_prompt_and_its_task(
    client: httpx.AsyncClient,
    session: AsyncSession,
    project: Project,
    address: str,
    headers: dict[str, str],
) -> None:
    await create_tasks(session, project, 3)
    elsewhere = await create_project(session)
    await create_tasks(session, elsewhere)
    prompts = (await session.scalars(select(Prompt).order_by(Prompt.id))).all()
    chosen = [str(prompts[2].id), str(prompts[3].id)]
    moved = await client.post(
        f"{address}/priority", headers=headers, data={"prompt": chosen, "priority": "7"}
    )
    assert moved.status_code == 303
    tasks = await session.scalars(
        select(Task).order_by(Task.id).execution_options(populate_existing=True)
    )
    assert [task.priority for task in tasks] == [0, 0, 7, 0]
    nobody = await client.post(f"{address}/priority", headers=headers, data={"priority": "7"})
    assert nobody.status_code == 422


async def test_a_paused_project_says_so_and_goes_on_when_resumed(
    client: httpx.AsyncClient, address: str, headers: dict[str, str]
) -> None:
    for paused in (True, False):
        answer = await client.post(
            f"{address}/pause", headers=headers, data={"paused": str(paused).lower()}
        )
        assert answer.status_code == 303
        page = await client.get(f"{address}/prompts", headers=headers)
        assert ('<span class="badge warn">paused</span>' in page.text) is paused


async def test_a_prompts_page_has_its_candidates_with_policies_and_its_rankings(
    client: httpx.AsyncClient,
    session: AsyncSession,
    project: Project,
    address: str,
    headers: dict[str, str],
) -> None:
    candidates = ["one", {"text": "two <script>", "policy": "the-author"}]
    await create_tasks(session, project, prompt="Q", candidates=0)
    report = await client.post(
        f"/api/v1/projects/{project.slug}/prompts", headers=headers, json=[row(candidates)]
    )
    assert report.json()["accepted"] == 1
    rater = await create_user(session)
    lease = await assign.lease_next_task(session, project, rater)
    assert lease is not None
    given = RankingIn(ranks={each.id: 1 for each in lease.candidates}, rationale="Both fine")
    await submit_ranking(session, lease.assignment_id, rater, given)
    await session.commit()
    task = await session.get_one(Task, lease.task_id)
    page = await client.get(f"{address}/prompts/{task.prompt_id}", headers=headers)
    for words in ("the-author", "Both fine", rater.name, "two &lt;script&gt;"):
        assert words in page.text
    other = await create_project(session)
    await session.commit()
    for slug, prompt in ((other.slug, task.prompt_id), (project.slug, uuid.uuid4())):
        gone = await client.get(f"/admin/projects/{slug}/prompts/{prompt}", headers=headers)
        assert gone.status_code == 404


async def test_the_counts_come_alone_when_htmx_asks(
    client: httpx.AsyncClient,
    session: AsyncSession,
    project: Project,
    address: str,
    headers: dict[str, str],
) -> None:
    await create_tasks(session, project, 2)
    await session.commit()
    counts = await client.get(address, headers={**headers, "HX-Request": "true"})
    assert "<html" not in counts.text
    assert re.search(r"Ready to rate</dt>\s*<dd>2</dd>", counts.text)


async def test_researchers_read_and_only_admins_change(
    client: httpx.AsyncClient, session: AsyncSession, address: str
) -> None:
    for role in (Role.RATER, Role.RESEARCHER):
        headers = await bearer(session, await create_user(session, role))
        reads = role is Role.RESEARCHER
        for path, found in (("", 200), ("/prompts", 200), (f"/prompts/{uuid.uuid4()}", 404)):
            expected = found if reads else 403
            assert (await client.get(address + path, headers=headers)).status_code == expected
        assert (await upload(client, address, headers, "a.jsonl", b"{}")).status_code == 403
