"""Raters read the pages in their own language; every string of theirs has its translation."""

import re
from pathlib import Path

import httpx
import pytest
from babel.messages.pofile import read_po
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import HTTPConnection

from app.web.language import LOCALES, choose_language, gettext, list_languages, ngettext, speaking
from app.web.words import extract
from tests.factories.accounts import create_user, sign_in
from tests.factories.projects import create_project
from tests.factories.rating import create_tasks

FILES = sorted(LOCALES.glob("*.po"))
FILLED_IN = re.compile(r"%\(\w+\)s|\{\w+\}")


def forms_of(text: object) -> list[str]:
    """The singular alone, or all plural forms; nothing for a form that is missing."""
    return [str(form or "") for form in (text if isinstance(text, list | tuple) else [text])]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_translation_is_complete_and_fills_in_the_same(path: Path) -> None:
    with path.open("rb") as file:
        translated = read_po(file, locale=path.stem)
    wanted = {message.id for message in extract() if message.id}
    assert {message.id for message in translated if message.id} == wanted
    for message in translated:
        if not message.id:
            continue
        ids, strings = forms_of(message.id), forms_of(message.string)
        assert all(strings), message.id
        for one, other in zip(ids, strings, strict=True):
            assert sorted(FILLED_IN.findall(one)) == sorted(FILLED_IN.findall(other)), one


@pytest.mark.parametrize(
    ("headers", "language"),
    [
        ({}, "en"),
        ({"accept-language": "de-AT,de;q=0.9,en;q=0.5"}, "de"),
        ({"accept-language": "fr, en;q=0.3, de;q=0.8"}, "de"),
        ({"accept-language": "de;q=broken, *"}, "en"),
        ({"accept-language": "de", "cookie": "plackett_language=en"}, "en"),
        ({"cookie": "plackett_language=de"}, "de"),
        ({"cookie": "plackett_language=../../etc/passwd"}, "en"),
    ],
)
def test_the_language_is_the_chosen_one_or_the_browsers(
    headers: dict[str, str], language: str
) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    assert choose_language(HTTPConnection({"type": "http", "headers": raw})) == language


def test_words_follow_the_language_and_its_plural() -> None:
    many = ("%(num)s task left for you", "%(num)s tasks left for you")
    with speaking("de"):
        assert gettext("Skip") == "Überspringen"
        assert gettext("What nobody has translated") == "What nobody has translated"
        assert ngettext(*many, 1) == "noch %(num)s Aufgabe für Sie"
        assert ngettext(*many, 2) == "noch %(num)s Aufgaben für Sie"
    assert gettext("Skip") == "Skip"
    assert list(list_languages())[:1] == ["en"]


async def test_a_rater_chooses_german_and_works_in_it(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    rater = await create_user(session)
    project = await create_project(session)
    await create_tasks(session, project, 1)
    token = await sign_in(client, session, rater)
    chosen = await client.post(
        "/language", data={"language": "de", "next": "/account", "csrf_token": token}
    )
    assert (chosen.status_code, chosen.headers["location"]) == (303, "/account")
    await client.post(f"/rate/{project.slug}", data={"csrf_token": token})
    page = await client.get(f"/rate/{project.slug}")
    assert '<html lang="de"' in page.text
    assert "Absenden" in page.text
    assert "Submit" not in page.text
    html = {"accept": "text/html"}
    body = {"language": "xx", "csrf_token": token}
    wrong = await client.post("/language", data=body, headers=html)
    assert wrong.status_code == 422
    assert "Diese Sprache gibt es nicht" in wrong.text


async def test_a_percent_sign_in_a_label_is_a_percent_sign(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    rater = await create_user(session)
    project = await create_project(
        session,
        flags=[{"name": "sure", "label": "100% (s)ure, {really}"}],
        axes=[{"name": "share", "question": "How many %(d)?"}],
    )
    await create_tasks(session, project, 1)
    token = await sign_in(client, session, rater)
    page = await client.post(f"/rate/{project.slug}/next", data={"csrf_token": token})
    assert "100% (s)ure, {really}" in page.text
    assert "How many %(d)?" in page.text


async def test_the_api_speaks_english_whatever_the_browser_prefers(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.get("/api/v1/policies", headers={"accept-language": "de"})
    assert answer.json()["title"] == "Please sign in"
