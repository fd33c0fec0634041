"""The audit log is searched by who, what, which project and when; read by pages, and taken away as CSV."""

import csv
import io
import re
from datetime import UTC, datetime

import httpx
import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import AuditEntry, Role, User
from app.accounts.service import record
from app.admin.audit import BATCH, PAGE_SIZE
from tests.factories.accounts import bearer, create_user
from tests.factories.projects import create_project


@pytest.fixture
async def admin(session: AsyncSession) -> User:
    return await create_user(session, Role.ADMIN)


def subjects(page: str) -> list[str]:
    return re.findall(r'<td><code class="whole">[^<]*</code></td>\s*<td>([^<]*)</td>', page)


async def test_each_filter_leaves_what_it_says(
    client: httpx.AsyncClient, session: AsyncSession, admin: User
) -> None:
    other = await create_user(session, Role.ADMIN)
    project = await create_project(session, slug="letters")
    await record(session, admin.id, "project.pause", project.slug)
    await record(session, other.id, "tasks.retire", project.slug, tasks=3)
    await record(session, other.id, "policy.retire", "letters")  # a policy of the same name
    await record(session, admin.id, "user.role", "somebody@example.org", after="100%_sure")
    await session.execute(
        update(AuditEntry)
        .where(AuditEntry.action == "tasks.retire")
        .values(at=datetime(2020, 5, 17, 23, 30, tzinfo=UTC))
    )
    headers = await bearer(session, admin)
    for query, left in (
        ({"who": admin.email}, {"project.pause", "user.role"}),
        ({"who": other.email.upper()}, {"tasks.retire", "policy.retire"}),
        ({"action": "user.role"}, {"user.role"}),
        ({"project": "letters"}, {"project.create", "project.pause", "tasks.retire"}),
        ({"words": "tasks"}, {"tasks.retire"}),
        ({"words": "100%_s"}, {"user.role"}),  # as it was written: no pattern
        ({"words": "100_"}, set()),
        ({"since": "2020-05-17", "until": "2020-05-17"}, {"tasks.retire"}),
        ({"until": "2020-05-16"}, set()),
        ({"project": "letters", "who": other.email}, {"tasks.retire"}),
    ):
        page = (await client.get("/admin/audit", headers=headers, params=query)).text
        shown = set(re.findall(r'<td><code class="whole">([^<]*)</code></td>', page))
        assert shown - {"token.create"} == left, query
        taken = (await client.get("/admin/audit.csv", headers=headers, params=query)).text
        rows = list(csv.DictReader(io.StringIO(taken)))
        assert {row["action"] for row in rows} - {"token.create"} == left, query
    odd = await client.get("/admin/audit", headers=headers, params={"since": "yesterday"})
    assert odd.status_code == 200


async def test_pages_follow_each_other_while_the_log_grows(
    client: httpx.AsyncClient, session: AsyncSession, admin: User
) -> None:
    for number in range(2 * PAGE_SIZE + 10):
        await record(session, admin.id, "project.pause", f"p-{number:03}")
    headers = await bearer(session, admin)
    address, seen = "/admin/audit?action=project.pause", []
    for _ in range(3):
        page = (await client.get(address, headers=headers)).text
        seen += subjects(page)
        await record(session, admin.id, "project.pause", "in between")
        await session.commit()
        found = re.search(r'rel="next" href="([^"]*)"', page)
        address = found[1].replace("&amp;", "&") if found else ""
    assert seen == [f"p-{number:03}" for number in reversed(range(2 * PAGE_SIZE + 10))]
    assert not address


async def test_the_file_has_every_row_and_no_formula(
    client: httpx.AsyncClient, session: AsyncSession, admin: User
) -> None:
    session.add_all(
        AuditEntry(actor_id=admin.id, action="project.pause", subject=f"p-{number}", detail={})
        for number in range(BATCH + 1)
    )
    await record(session, admin.id, "project.pause", '=HYPERLINK("http://x")')
    headers = await bearer(session, admin)
    query = {"action": "project.pause"}
    answer = await client.get("/admin/audit.csv", headers=headers, params=query)
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(rows) == BATCH + 2
    assert rows[0]["subject"] == '\'=HYPERLINK("http://x")'
    assert rows[0]["who"] == admin.email
