"""Errors are told to people in their words, at the field that they are about."""

import re
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import Role
from app.datasets.schemas import ExportIn
from app.errors import InvalidInput
from app.inputs import SENTENCES, describe
from app.projects.schemas import ProjectIn
from app.rating.schemas import RankingIn
from app.research.exports import read_shares
from app.web.csrf import HEADER
from app.web.fields import input_of, is_wrong, tell, tell_of
from app.web.language import gettext, speaking
from tests.factories.accounts import create_user, sign_in
from tests.factories.projects import create_project
from tests.factories.rating import create_tasks

# Words of programmers that no reader's sentence has.
JARGON = re.compile(
    r"Input should|valid (UUID|integer|number|string)|Field required|path\.|query\."
)
SOME_ID = "01234567-89ab-7def-8123-456789abcdef"


@pytest.mark.parametrize(
    ("shape", "values", "field", "said"),
    [
        (ProjectIn, {"name": "n"}, "slug", "is missing"),
        (ProjectIn, {"slug": "s", "name": " "}, "name", "is empty"),
        (
            ProjectIn,
            {"slug": "s", "name": "n", "overlap": "x"},
            "overlap",
            "must be a whole number",
        ),
        (ProjectIn, {"slug": "s", "name": "n", "overlap": 0}, "overlap", "must be 1 or more"),
        (ProjectIn, {"slug": "s", "name": "n", "overlap": 101}, "overlap", "must be 100 or less"),
        (ProjectIn, {"slug": "s", "name": "n", "x": 1}, "x", "is not a known field"),
        (ProjectIn, {"slug": "s", "name": "n", "axes": {}}, "axes", "must be a list"),
        (
            ProjectIn,
            {"slug": "s", "name": "n", "axes": [{"name": "a"}, {"name": "a"}]},
            "axes",
            "two have the same name",
        ),
        (
            ProjectIn,
            {"slug": "s", "name": "n", "sampling": {"top_p": 0}},
            "sampling.top_p",
            "must be more than 0.0",
        ),
        (RankingIn, {"ranks": {"x": 1}}, "ranks.x", "is not an id"),
        (
            RankingIn,
            {"ranks": {SOME_ID: 1}, "axes": {"a": "x"}},
            "axes.a",
            "must be a number",
        ),
        (ExportIn, {"filters": {"since": "x"}}, "filters.since", "must be a date and time"),
        (
            ExportIn,
            {"filters": {"kinds": ["x"]}},
            "filters.kinds.0",
            "must be one of 'person', 'ai' or 'imported'",
        ),
    ],
)
def test_findings_are_told_in_sentences(
    shape: Any, values: dict[str, Any], field: str, said: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        shape.model_validate(values)
    found, message = describe(caught.value.errors()[0])
    assert found == field
    assert message.startswith(said)
    assert not JARGON.search(message)


def test_every_sentence_has_a_german_one() -> None:
    with speaking("de"):
        for sentence in SENTENCES.values():
            assert gettext(sentence) != sentence
            assert set(re.findall(r"\{\w+\}", gettext(sentence))) == set(
                re.findall(r"\{\w+\}", sentence)
            )
        told = tell(InvalidInput(gettext("must be {ge} or more").format(ge=1), field="page"))
        assert told == "Die Nummer der Seite muss 1 oder mehr sein."


@pytest.mark.parametrize(
    ("field", "message", "told"),
    [
        ("password", "The address or the password is not right", None),
        ("overlap", "must be 1 or more", "The number of raters for each task must be 1 or more."),
        ("filters.min_rankings", "is missing", None),
        ("config.kl-coef", "must be a number", "Kl coef must be a number."),
        (f"ranks.{SOME_ID}", "has no rank", "The ranking has no rank."),
        (None, "is wrong", "is wrong"),
    ],
)
def test_a_fields_name_stands_before_what_is_wrong_with_it(
    field: str | None, message: str, told: str | None
) -> None:
    said = tell_of(field, message)
    assert said == told or (told is None and "password: " not in said and "filters." not in said)


def test_an_error_marks_the_input_that_asks_for_it() -> None:
    assert input_of("split.seed") == "seed"
    assert input_of("gold_rate") == "gold_percent"
    assert input_of("axes.0.name") == "axis_name"
    assert is_wrong(InvalidInput("is empty", field="name"), "name")
    assert not is_wrong(InvalidInput("is empty", field="name"), "slug")
    assert not is_wrong(None, "name")


def tag(page: str, name: str) -> str:
    found = re.search(rf'<(?:input|select|textarea)\b[^>]*name="{name}"[^>]*>', page)
    assert found is not None, name
    return " ".join(found[0].split())


async def test_a_form_marks_and_focuses_its_field(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    admin = await create_user(session, Role.ADMIN)
    project = await create_project(session, lease_seconds=100, gold_rate=0.123456)
    headers = {HEADER: await sign_in(client, session, admin)}
    address = f"/admin/projects/{project.slug}/settings"
    page = (await client.get(address)).text
    assert "aria-invalid" not in page
    form = {
        "name": "x", "candidates_per_task": "4", "overlap": "0", "lease_minutes": "1",
        "temperature": "1", "top_p": "1", "max_new_tokens": "10",
    }  # fmt: skip
    page = (await client.post(address, data=form, headers=headers)).text
    assert "The number of raters for each task must be 1 or more." in page
    assert 'aria-invalid="true"' in tag(page, "overlap")
    assert 'aria-describedby="form-error"' in tag(page, "overlap")
    assert "autofocus" in tag(page, "overlap")
    assert page.count("aria-invalid") == 1
    page = (
        await client.post(
            address, data=form | {"gold_percent": "200", "overlap": "1"}, headers=headers
        )
    ).text
    assert "The share of gold tasks must be between 0 and 100 %." in page
    assert 'aria-invalid="true"' in tag(page, "gold_percent")
    answer = await client.post(
        "/admin/people", data={"email": "no address", "role": "rater"}, headers=headers
    )
    assert 'aria-invalid="true"' in tag(answer.text, "email")


async def test_the_sign_in_form_says_a_sentence_and_asks_for_the_password_again(
    client: httpx.AsyncClient,
) -> None:
    found = re.search(r'name="csrf_token" value="([^"]+)"', (await client.get("/sign-in")).text)
    assert found is not None
    data = {"email": "nobody@example.org", "password": "x", "csrf_token": found[1]}
    page = (await client.post("/sign-in", data=data)).text
    assert "<p>The address or the password is not right</p>" in page
    assert "password:" not in page
    assert "autofocus" in tag(page, "password")
    assert "autofocus" not in tag(page, "email")


async def test_an_address_that_is_not_there_keeps_the_navigation(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    as_page = {"Accept": "text/html"}
    assert "/sign-out" not in (await client.get("/no/such/page", headers=as_page)).text
    await sign_in(client, session, await create_user(session, Role.ADMIN))
    for address in ("/no/such/page", "/research/runs/not-an-id", "/admin/projects/none"):
        answer = await client.get(address, headers=as_page)
        assert answer.status_code == 404, address
        assert 'href="/admin/projects"' in answer.text
        assert "/sign-out" in answer.text
        assert not JARGON.search(answer.text)


async def test_a_form_sent_to_an_address_with_a_slip_is_told_of_the_address(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    token = await sign_in(client, session, await create_user(session, Role.ADMIN))
    headers = {HEADER: token, "Accept": "text/html"}
    for form in ({}, {"role": "king"}):
        answer = await client.post("/admin/people/not-an-id/role", headers=headers, data=form)
        assert answer.status_code == 404
        assert "No page has the address /admin/people/not-an-id/role" in answer.text
        assert not JARGON.search(answer.text)


async def test_a_pages_script_is_told_a_sentence_and_a_program_the_message(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    token = await sign_in(client, session, await create_user(session, Role.RATER))
    headers = {HEADER: token, "Accept": "application/json", "Accept-Language": "de"}
    address = f"/rate/assignments/{SOME_ID}"
    form = {f"rank-{SOME_ID}": "1", "rationale": "x" * 100_001}
    told = (await client.post(address, data=form, headers=headers)).json()
    assert told["detail"] == "Die Begründung darf höchstens 100000 Zeichen haben."
    assert told["place"] == "rationale"
    call = f"/api/v1/assignments/{SOME_ID}/ranking"
    body = {"ranks": {SOME_ID: 1}, "rationale": "x" * 100_001}
    answer = (await client.put(call, json=body, headers={HEADER: token})).json()
    assert (answer["place"], answer["detail"]) == (
        *("rationale", "must have at most 100000 characters"),
    )


async def test_the_page_stays_there_without_a_database(app: FastAPI) -> None:
    from app.db.engine import create_engine, create_sessions

    app.state.sessions = create_sessions(create_engine("postgresql://nobody@127.0.0.1:9/none"))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        client.cookies.set("plackett_session", "x")
        answer = await client.get("/no/such/page", headers={"Accept": "text/html"})
    assert answer.status_code == 404


async def test_saved_settings_stay_on_their_page_and_change_nothing_by_rounding(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    project = await create_project(session, lease_seconds=100, gold_rate=1 / 3)
    headers = {HEADER: await sign_in(client, session, await create_user(session, Role.ADMIN))}
    address = f"/admin/projects/{project.slug}/settings"
    page = (await client.get(address)).text
    form = {
        name: value
        for name in (
            "name", "candidates_per_task", "overlap", "lease_minutes", "edit_minutes", "gold_percent",
            "qualification_tasks", "qualification_percent", "temperature", "top_p", "max_new_tokens",
        )
        for value in re.findall(r'value="\s*([^"]*?)\s*"', tag(page, name))
    }  # fmt: skip
    answer = await client.post(address, data=form, headers=headers)
    assert (answer.status_code, answer.headers["location"]) == (303, address)
    assert "The settings are saved." in (await client.get(address)).text
    await session.refresh(project)
    assert project.lease_seconds == 100
    assert project.gold_rate == pytest.approx(1 / 3, abs=1e-9)


async def test_given_rankings_are_told_before_a_task_has_all_of_them(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    project = await create_project(session, overlap=3)
    await create_tasks(session, project, 2, candidates=2, ranks=[1, 2], rater="ann")
    await sign_in(client, session, await create_user(session, Role.ADMIN))
    page = " ".join((await client.get(f"/admin/projects/{project.slug}")).text.split())
    assert "Rankings: 2 of 6 (3 raters for each prompt; 0 have all of theirs)" in page
    assert "Rated: 0 of" not in page
    listed = " ".join((await client.get("/admin/projects")).text.split())
    assert "2 of 6 rankings · 0 of 2 prompts fully rated" in listed


@pytest.mark.parametrize(
    ("percents", "shares"),
    [
        (["80", "10", "10"], [0.8, 0.1, 0.1]),
        (["66.7", "16.7", "16.7"], [66.7 / 100.1, 16.7 / 100.1, 16.7 / 100.1]),
        (["33.3", "33.3", "33.3"], [1 / 3, 1 / 3, 1 / 3]),
        (["100", "0", "0"], [1, 0, 0]),
        (["80", "10", "9"], None),
        (["80", "10.5", "10.5"], None),
        (["66.7", "16.7", "17.7"], None),
        (["nan", "10", "10"], None),
        (["inf", "0", "0"], None),
    ],
)
def test_rounded_shares_are_taken_for_what_they_were(
    percents: list[str], shares: list[float] | None
) -> None:
    if shares is None:
        with pytest.raises(InvalidInput, match="add up to 100 %"):
            read_shares(percents)
        return
    read = read_shares(percents)
    assert read == pytest.approx(shares)
    ExportIn.model_validate(
        {"split": dict(zip(("train", "validation", "test"), read, strict=True))}
    )
