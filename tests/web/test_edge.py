"""Whatever passes the types and would fail in the database, or in a number, is refused at the edge."""

import itertools
import json
import re
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlalchemy import BigInteger, Integer
from sqlalchemy.ext.asyncio import AsyncSession

from app import tables
from app.accounts.models import Role
from app.generation.backends.base import Response
from app.generation.backends.openai import OpenAIBackend
from app.inputs import MOST_INT4, MOST_INT8, Input, describe, find_unstorable, storable
from app.main import ROUTERS
from app.projects.schemas import ProjectIn
from app.web.csrf import HEADER
from tests.factories.accounts import bearer, create_user, sign_in
from tests.factories.projects import create_project

SOME_ID = "01234567-89ab-7def-8123-456789abcdef"
NUL, HALF = "a\x00b", "a\ud800b"


def walk(
    schema: dict[str, Any], all_schemas: dict[str, Any], path: str
) -> Iterator[tuple[str, Any]]:
    """Every leaf of a JSON schema, with its path."""
    if "$ref" in schema:
        schema = all_schemas[schema["$ref"].rsplit("/", 1)[-1]]
    for key in ("anyOf", "oneOf", "allOf"):
        for each in schema.get(key, []):
            yield from walk(each, all_schemas, path)
    for name, each in schema.get("properties", {}).items():
        yield from walk(each, all_schemas, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from walk(schema[key], all_schemas, f"{path}[]")
    if "type" in schema:
        yield path, schema


def fields_that_come_in(app: FastAPI) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each body's field and each parameter of the API, with its schema."""
    described = app.openapi()
    schemas = described["components"]["schemas"]
    for address, calls in described["paths"].items():
        for method, call in calls.items():
            where = f"{method} {address}"
            body = call.get("requestBody", {}).get("content", {}).get("application/json")
            if body:
                yield from walk(body["schema"], schemas, where)
            for parameter in call.get("parameters", []):
                if parameter["in"] == "query":
                    yield from walk(parameter["schema"], schemas, f"{where}?{parameter['name']}")


def test_every_number_that_comes_in_has_bounds_that_its_column_has_too(app: FastAPI) -> None:
    numbers = [(path, each) for path, each in fields_that_come_in(app) if each["type"] == "integer"]
    assert len(numbers) > 15
    columns = {
        (column.name, isinstance(column.type, BigInteger))
        for table in tables.metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, Integer)
    }
    for path, each in numbers:
        if "runs.config[]" in path:  # the trainer checks these, and `Input` their size
            continue
        low = each.get("minimum", each.get("exclusiveMinimum"))
        high = each.get("maximum", each.get("exclusiveMaximum"))
        assert low is not None and high is not None, path
        name = path.rsplit(".", 1)[-1]
        most = MOST_INT4 if (name, False) in columns else MOST_INT8
        # The description has bounds as floats: 2^63 - 1 reads 2^63 there.
        assert -float(most) - 1 <= low <= high <= float(most), path


def test_every_text_that_comes_in_has_an_end(app: FastAPI) -> None:
    texts = [(path, each) for path, each in fields_that_come_in(app) if each["type"] == "string"]
    assert len(texts) > 20
    for path, each in texts:
        bounded = {"maxLength", "enum", "const", "format"} & set(each)
        assert bounded or "runs.config[]" in path or path.endswith("?policy[]"), path


def test_every_body_is_an_input() -> None:
    bodies = {
        field.field_info.annotation
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute)
        for field in route.dependant.body_params
        if "Form" not in type(field.field_info).__name__
        and "File" not in type(field.field_info).__name__
    }
    assert len(bodies) >= 6
    assert all(isinstance(body, type) and issubclass(body, Input) for body in bodies)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (NUL, "NUL"),
        (HALF, "half a surrogate pair"),
        ({NUL: 1}, "NUL"),
        ([{"deep": HALF}], "half a surrogate pair"),
        (2**70, "too large"),
        (-(2**63) - 1, "too large"),
        (float("inf"), "not finite"),
        (float("nan"), "not finite"),
    ],
)
def test_nothing_that_cannot_be_stored_is_in_an_input(value: object, said: str) -> None:
    class Anything(Input):
        notes: object

    with pytest.raises(ValidationError) as caught:
        Anything.model_validate({"notes": {"here": value}})
    field, message = describe(caught.value.errors()[0])
    assert field.startswith("notes.here")
    assert said in message
    f"{field}: {message}".encode()


def test_an_input_has_a_bottom() -> None:
    nested: object = 1
    for _ in range(500):
        nested = [nested]

    class Anything(Input):
        notes: object

    with pytest.raises(ValidationError, match="too deeply"):
        Anything.model_validate({"notes": nested})


@given(st.text(st.characters(codec=None, categories=None)))
def test_what_a_model_wrote_is_made_storable_and_loses_nothing_else(text: str) -> None:
    stored = storable(text)
    assert find_unstorable(stored) is None
    if find_unstorable(text) is None:
        assert stored == text


@pytest.mark.parametrize("slug", ["a\x00b", "A", "-a", "a" * 65, "a b", "ä"])
def test_a_slug_is_small_letters_digits_and_hyphens(slug: str) -> None:
    with pytest.raises(ValidationError):
        ProjectIn.model_validate({"slug": slug, "name": "Name"})


async def test_a_servers_odd_answer_can_be_stored() -> None:
    body = {
        "choices": [{"message": {"content": "a\x00b \ud800 c"}, "finish_reason": "\ud800" * 99}],
        "usage": {"prompt_tokens": 10**12, "completion_tokens": -1},
    }
    answer = httpx.Response(200, content=json.dumps(body))
    backend = object.__new__(OpenAIBackend)
    read = backend._read(answer)
    assert isinstance(read, Response)
    assert read.text == "ab \ufffd c"
    assert find_unstorable(read.finish_reason) is None
    assert len(read.finish_reason) <= 32
    assert (read.prompt_tokens, read.completion_tokens) == (None, None)


def forms() -> list[tuple[str, list[str]]]:
    """Each page that takes a form: its address, and the fields that its signature names."""
    return [
        (route.path, [field.alias for field in route.dependant.body_params])
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute) and "POST" in (route.methods or ())
        if not route.path.startswith("/api/")
    ]


# Fields that forms read without naming them in a signature.
READ = ("name", "slug", "description", "guidelines", "axis_name", "base_url", "export", "seed")


async def test_no_form_fails_on_what_cannot_be_stored(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    project = await create_project(session)
    admin = await create_user(session, Role.ADMIN)
    csrf = await sign_in(client, session, admin)
    assert len(forms()) > 25
    for path, named in forms():
        if path in ("/sign-out", "/account/password"):
            continue  # they end the session
        address = re.sub(r"\{\w+\}", SOME_ID, path.replace("{slug}", project.slug))
        for field in {*named, *READ}:
            # As urlencoded, and in a multipart body whose charset can spell half a character.
            data = dict.fromkeys(named, "1") | {field: NUL}
            answer = await client.post(address, data=data, headers={HEADER: csrf})
            assert answer.status_code == 422, (path, field, answer.status_code)
            assert f"<code>{field}</code>" in answer.text or "NUL" in answer.text
        for charset, text in (("utf-8", b"a\0b"), ("utf-7", b"+2AA-")):
            body = (
                b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\n%s\r\n--x--\r\n' % text
            )
            kind = f"multipart/form-data; boundary=x; charset={charset}"
            answer = await client.post(
                address, content=body, headers={HEADER: csrf, "Content-Type": kind}
            )
            assert answer.status_code == 422, (path, charset, answer.status_code)


async def test_addresses_with_nul_lead_nowhere_and_queries_are_refused(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    admin = await create_user(session, Role.ADMIN)
    headers = await bearer(session, admin)
    for router, accept in itertools.product(ROUTERS, ("application/json", "text/html")):
        for route in router.routes:
            if not isinstance(route, APIRoute) or "{" not in route.path:
                continue
            for method in route.methods or ():
                for odd in ("a%00b", "99999999999999999999", "%ED%A0%80", "%FF"):
                    address = re.sub(r"\{\w+\}", odd, route.path)
                    answer = await client.request(
                        method, address, headers={**headers, "Accept": accept}
                    )
                    assert answer.status_code < 500, (method, address)
    for query in ("page=1e999", "page=99999999999999999999"):
        answer = await client.get(f"/admin/projects/x/prompts?{query}", headers=headers)
        assert answer.status_code == 422, query


async def test_before_sign_in_too(client: httpx.AsyncClient) -> None:
    token = re.search(r'name="csrf_token" value="([^"]+)"', (await client.get("/sign-in")).text)
    assert token is not None
    for email, password in ((NUL, "x"), ("x@example.org", NUL)):
        data = {"email": email, "password": password, "csrf_token": token[1]}
        answer = await client.post("/sign-in", data=data)
        assert answer.status_code == 422
    assert (await client.get("/sign-in/a%00b")).status_code == 404
    assert (await client.get("/sign-in?next=%00")).status_code == 200


@pytest.mark.parametrize("token", ["ä", "\ud800", "日本", "a\x00"])
async def test_a_csrf_token_of_other_than_ascii_is_a_wrong_one(
    client: httpx.AsyncClient, session: AsyncSession, token: str
) -> None:
    await sign_in(client, session, await create_user(session, Role.ADMIN))
    data = {"name": "x", "csrf_token": token.encode("utf-8", "surrogatepass")}
    assert (await client.post("/account/name", data=data)).status_code == 403
    if token == "ä":
        header = [(HEADER.encode(), token.encode("latin-1"))]
        answer = await client.post("/account/name", headers=header)
        assert answer.status_code == 403


@pytest.mark.parametrize(
    ("call", "body", "place"),
    [
        ("/projects", '{"slug": "a", "name": "a\\u0000b"}', "name"),
        ("/projects", '{"slug": "a\\u0000b", "name": "a"}', "slug"),
        ("/projects", '{"slug": "a", "name": "\\ud800"}', "name"),
        ("/projects", '{"slug": "a", "name": "a", "gold_rate": 1e999}', "gold_rate"),
        ("/projects", '{"slug": "a", "name": "a", "overlap": 1e30}', "overlap"),
        ("/projects", '{"slug": "a", "name": "a", "\\ud800": 1}', "\\ud800"),
        ("/policies", '{"name": "a", "backend": "openai", "notes": {"a": 1e999}}', "notes.a"),
        ("/projects/{slug}/exports", '{"filters": {"min_rankings": 1000000000000}}', "filters."),
        ("/projects/{slug}/exports", f'{{"split": {{"seed": {2**70}}}}}', "split.seed"),
        ("/projects/{slug}/exports", '{"filters": {"without_flags": ["\\u0000"]}}', "filters."),
        ("/projects/{slug}/runs", '{"stage": "reward", "policy": "\\u0000"}', "policy"),
        ("/projects/{slug}/runs", f'{{"stage": "dpo", "config": {{"seed": {2**70}}}}}', "config."),
        ("/projects/{slug}/runs", '{"stage": "dpo", "config": {"lr": NaN}}', "config."),
        ("/projects", '{"slug": ' + "9" * 5000 + "}", ""),
        ("/projects", "[" * 100_000, "body"),
        ("/projects", "\x00", "body"),
        ("/projects", b"\xff", "body"),
    ],
)
async def test_no_body_fails_on_what_cannot_be_stored(
    client: httpx.AsyncClient, session: AsyncSession, call: str, body: str | bytes, place: str
) -> None:
    project = await create_project(session)
    headers = await bearer(session, await create_user(session, Role.ADMIN))
    headers["Content-Type"] = "application/json"
    answer = await client.post(
        "/api/v1" + call.replace("{slug}", project.slug), content=body, headers=headers
    )
    assert answer.status_code == 422, answer.text[:300]
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["place"].startswith(place)


async def test_metrics_after_a_line_that_no_column_holds(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    headers = await bearer(session, await create_user(session, Role.RESEARCHER))
    address = f"/api/v1/runs/{uuid.uuid4()}/metrics?after=99999999999999"
    answer = await client.get(address, headers=headers)
    assert (answer.status_code, answer.json()["place"]) == (422, "after")


async def test_a_long_address_fits_into_the_audit_log(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    csrf = await sign_in(client, session, await create_user(session, Role.ADMIN))
    data = {"email": "a" * 250 + "@example.org", "role": "rater"}
    answer = await client.post("/admin/people", data=data, headers={HEADER: csrf})
    assert answer.status_code == 200
