"""Pages with responses: nothing of them is hidden, and no page holds the event loop."""

import asyncio
import gc
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import Role, User
from app.projects.config import read_config
from app.projects.models import Project
from app.projects.schemas import ProjectIn
from app.prompts.models import Candidate, Prompt
from app.rating.difference import mark_differences
from app.rating.models import Ranking
from tests.factories.accounts import bearer, create_user, sign_in
from tests.factories.projects import create_project
from tests.factories.rating import create_tasks

MOST_ON_THE_LOOP = 0.05  # seconds of work before others have their turn
BIG = 250_000


@pytest.fixture
async def rater(session: AsyncSession) -> User:
    return await create_user(session)


async def open_task(
    client: httpx.AsyncClient,
    session: AsyncSession,
    rater: User,
    project: Project,
    candidates: list[str],
    **fields: object,
) -> str:
    """The ranking page with these responses."""
    await create_tasks(session, project, 1, candidates=candidates, **fields)
    token = await sign_in(client, session, rater)
    answer = await client.post(f"/rate/{project.slug}", data={"csrf_token": token})
    assert answer.status_code in (200, 303), answer.text
    return (await client.get(f"/rate/{project.slug}")).text


CASES = {
    "ref": ["[1]: https://example.org/source", 'So.\n\n[1]: https://example.org/a "A"', "None."],
    "math": ["f(x)=x*y*z so 2*3*4 = 24", "f(x)=xyz so 234 = 24"],
    "rtl": [
        "Python یک زبان برنامه‌نویسی است.\n\nاین زبان ساده است.",
        "این یک زبان است (Python 3.12).",
    ],
    "table": ["|a|b|\n|-|-|\n|1|2|the hidden cell|", "x"],
}


@pytest.mark.parametrize("name", CASES)
async def test_all_that_was_written_stands_on_the_page(
    client: httpx.AsyncClient, session: AsyncSession, rater: User, name: str
) -> None:
    project = await create_project(session, candidates_per_task=len(CASES[name]))
    page = await open_task(client, session, rater, project, CASES[name])
    rendered = re.findall(
        r'<div class="view" data-view="rendered">\s*<div class="prose" dir="auto">(.*?)</div>',
        page,
        re.S,
    )
    words = "".join(unescape(re.sub("<[^>]*>", "", "".join(rendered))).split())
    sources = [
        unescape(re.sub("<[^>]*>", "", each))
        for each in re.findall(r'<pre class="source" dir="auto">\n(.*?)</pre>', page, re.S)
    ]
    for text in CASES[name]:
        assert text in sources
        for piece in re.findall(r"[^\s|-]+", text):
            assert piece in words, piece
    if name == "rtl":
        assert page.count('<p dir="rtl">') == 3
        assert page.count('<span class="line" dir="rtl">') == 3


async def test_a_project_says_which_view_is_first(
    client: httpx.AsyncClient, session: AsyncSession, rater: User, tmp_path: Path
) -> None:
    admin = await create_user(session, Role.ADMIN)
    headers = await bearer(session, admin)
    file = tmp_path / "project.toml"
    file.write_text('first_view = "source"\n')
    wanted = {"slug": "as-written", "name": "As written"} | read_config(file)
    assert ProjectIn.model_validate(wanted).first_view == "source"
    made = await client.post("/api/v1/projects", json=wanted, headers=headers)
    assert made.status_code == 201, made.text
    assert made.json()["first_view"] == "source"
    refused = await client.post(
        "/api/v1/projects", json=wanted | {"first_view": "x"}, headers=headers
    )
    assert refused.status_code == 422
    project = await session.scalar(select(Project).where(Project.slug == "as-written"))
    assert project is not None
    page = await open_task(client, session, rater, project, ["*a one*", "b"] * 2)
    assert 'data-view="rendered"' not in page
    assert page.count('data-view="source"') == 5  # the prompt's too
    token = await sign_in(client, session, admin)
    settings = f"/admin/projects/{project.slug}/settings"
    form = dict(
        re.findall(
            r'<input id="\w+" name="(\w+)"[^>]* value="([^"]*)"', (await client.get(settings)).text
        )
    )
    answer = await client.post(
        settings, data=form | {"csrf_token": token, "first_view": "rendered"}
    )
    assert answer.status_code == 303, answer.text
    await session.refresh(project)
    assert project.first_view == "rendered"


async def test_a_response_that_cannot_be_rendered_says_that_its_source_is_shown(
    client: httpx.AsyncClient, session: AsyncSession, rater: User
) -> None:
    project = await create_project(session, candidates_per_task=2)
    page = await open_task(client, session, rater, project, ["_*" * 60_000, "*short one*"])
    assert page.count("Shown as its source") == 1
    assert page.count('class="button quiet small view-button"') == 1
    assert "_*" * 60_000 in page


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
async def test_an_untouched_copy_of_a_response_is_stored_byte_for_byte(
    client: httpx.AsyncClient, session: AsyncSession, rater: User, ends: str
) -> None:
    source = (
        f"{ends}  1. one{ends}2. *two*{ends}{ends}```py{ends}x = 1{ends}```{ends} | a | b |  {ends}"
    )
    project = await create_project(session, candidates_per_task=2)
    page = await open_task(client, session, rater, project, [source, "other"])
    assignment = re.findall(r'data-assignment="([^"]*)"', page)[0]
    pair = re.findall(r'name="pair" value="([^"]*)"', page)
    # As a browser sends a text box that was filled with the source.
    sent = re.sub("\r\n?|\n", "\r\n", source)
    form = {"pair": pair, "preference": "3", "rewrite": sent, "seconds": "3"}
    token = re.findall(r'name="csrf_token" value="([^"]*)"', page)[0]
    answer = await client.post(f"/rate/assignments/{assignment}", data=form | {"csrf_token": token})
    assert answer.status_code == 303, answer.text
    ranking = (await session.scalars(select(Ranking).where(Ranking.rater_id == rater.id))).one()
    assert ranking.rewrite == source
    # And again, when it is changed.
    form["preference"] = "2"
    answer = await client.post(
        f"/rate/history/{ranking.id}/change", data=form | {"csrf_token": token}
    )
    assert answer.status_code == 303, answer.text
    await session.refresh(ranking)
    assert (ranking.strength, ranking.rewrite) == (2, source)


# --- the event loop


@contextmanager
def watched_loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Seconds of processor time of every turn of the loop, while other threads work or not."""
    turns: list[float] = []
    run = asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        run(handle)
        turns.append(time.thread_time() - began)

    gc.collect()
    gc.freeze()  # as the server does: the run's own objects are no work of a page's
    try:
        with monkeypatch.context() as patch:
            patch.setattr(asyncio.Handle, "_run", timed)
            yield turns
    finally:
        gc.unfreeze()


NASTY = {
    "emphasis": "_*" * (BIG // 2),
    "brackets": "[" * BIG,
    "links": "[](" * (BIG // 3),
    "ticks": " ".join("`" * n for n in range(1, 700)),
    "quotes": ">" * BIG,
    "lists": "- " * (BIG // 2),
    "pipes": "|a|b|\n|-|-|\n" + "|1|2|3\n" * (BIG // 8),
    "just short enough": "*word* and `code`, [link](http://x.y) \\(x_1\\)\n\n" * 2000,
    "prose": "The old lighthouse keeper counted seven ships. " * (BIG // 48),
}


@pytest.mark.parametrize("name", NASTY)
async def test_no_page_holds_the_event_loop(
    client: httpx.AsyncClient,
    session: AsyncSession,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    somebody = await create_user(session, Role.ADMIN)
    project = await create_project(session, candidates_per_task=9)
    page = await open_task(client, session, somebody, project, [f"text {n}" for n in range(9)])
    assignment = re.findall(r'data-assignment="([^"]*)"', page)[0]
    ids = re.findall(r'data-candidate="([^"]*)"', page)
    prompt = (await session.scalars(select(Prompt).where(Prompt.project_id == project.id))).one()
    pages = [f"/rate/{project.slug}", f"/admin/projects/{project.slug}/prompts/{prompt.id}"]
    token = re.findall(r'name="csrf_token" value="([^"]*)"', page)[0]
    ranks = {f"rank-{each}": "1" for each in ids} | {"csrf_token": token}
    for address in pages:  # templates are compiled once
        assert (await client.get(address)).status_code == 200
    for number, each in enumerate(ids):
        # Each differs from the others: nothing is had from what was kept.
        changed = {"text": f"{number}{NASTY[name]}"[:BIG]}
        await session.execute(update(Candidate).where(Candidate.id == each).values(changed))
    await session.commit()
    session.expire_all()
    with watched_loop(monkeypatch) as turns:
        for address in pages:
            answer = await client.get(address)
            assert answer.status_code == 200
            assert len(answer.text) > 9 * 0.9 * len(changed["text"])
        await client.post(f"/rate/assignments/{assignment}", data=ranks)
        ranking = (await session.scalars(select(Ranking.id))).one()
        assert (await client.get(f"/rate/history/{ranking}")).status_code == 200
    print(json.dumps({"name": name, "longest_ms": round(1000 * max(turns))}))
    assert max(turns) < MOST_ON_THE_LOOP


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a b " * 1500, "b a c " * 1000),
        ("." * 6000, ".," * 3000),
        ("a\n" * 50_000, "a\nb\n" * 25_000),
        ("_*" * 50_000, "*_" * 50_000),
    ],
)
def test_differences_take_a_bounded_time(one: str, other: str) -> None:
    began = time.process_time()
    html = mark_differences(one, other)
    assert (
        time.process_time() - began < 4
    )  # about a second on a quiet machine; minutes without a bound
    kept = re.sub("<del>.*?</del>", "", html, flags=re.S)
    assert unescape(re.sub("<[^>]*>", "", kept)) == other


def test_differences_are_by_words_where_that_is_soon_found() -> None:
    html = mark_differences("one two three\n", "one 2 three\n")
    assert "one <del>two</del><ins>2</ins> three" in html
