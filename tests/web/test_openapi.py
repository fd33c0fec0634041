"""The API keeps to its description: no answer that it does not name, and never one of 500."""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks

from app.accounts.models import Role
from app.db.engine import create_engine, create_sessions
from app.errors import PlackettError
from app.main import create_app
from app.settings import Settings
from app.web.openapi import PROBLEM, descend
from tests.factories.accounts import bearer, create_user
from tests.factories.projects import create_policy, create_project

SLUG = "described"
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
# How many requests of each role for each call: enough to fall over what is wrong, in a minute for all.
EXAMPLES = int(os.environ.get("PLACKETT_API_EXAMPLES", "10"))


@dataclass
class Served:
    """The application on a database of its own, and whoever may ask."""

    loop: asyncio.AbstractEventLoop
    client: httpx.AsyncClient
    headers: dict[str, dict[str, str]]


@pytest.fixture
def served(fresh_database: str, tmp_path: Any) -> Iterator[tuple[FastAPI, Served]]:
    loop = asyncio.new_event_loop()
    app = create_app(Settings(database_url=fresh_database, data_dir=tmp_path))
    app.state.engine = create_engine(fresh_database)
    app.state.sessions = create_sessions(app.state.engine)

    async def begin() -> Served:
        headers = {"nobody": {}, "stranger": {"Authorization": "Bearer none"}}
        async with app.state.sessions() as session:
            policy = await create_policy(session)
            await create_project(session, slug=SLUG, policies=[policy.name])
            for role in Role:
                headers[role.value] = await bearer(session, await create_user(session, role))
            await session.commit()
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        client = httpx.AsyncClient(transport=transport, base_url="http://test")
        return Served(loop, client, headers)

    served = loop.run_until_complete(begin())
    yield app, served
    loop.run_until_complete(served.client.aclose())
    loop.run_until_complete(app.state.engine.dispose())
    loop.close()


@pytest.mark.slow
def test_no_call_answers_what_the_description_does_not_name(
    served: tuple[FastAPI, Served],
) -> None:
    app, asking = served
    schema = schemathesis.openapi.from_dict(app.openapi())
    schema.config.generation.update(modes=list(GenerationMode))
    statuses: dict[str, set[int]] = {}

    def try_out(operation: Any, role: str) -> None:
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            if "slug" in case.path_parameters and len(str(case.body)) % 4:
                case.path_parameters["slug"] = SLUG
            wanted = case.as_transport_kwargs(base_url="http://test")
            wanted["headers"] = {**dict(wanted["headers"] or {}), **asking.headers[role]}
            if role == "nobody":
                wanted["headers"].pop("Authorization", None)
            wanted.pop("cookies", None)
            if "data" in wanted and not isinstance(wanted["data"], dict):
                wanted["content"] = wanted.pop("data")
            try:
                request = asking.client.build_request(**wanted)
            except (httpx.InvalidURL, UnicodeError, TypeError, ValueError):
                return  # what no client can send
            answer = asking.loop.run_until_complete(asking.client.send(request))
            statuses.setdefault(role, set()).add(answer.status_code)
            case.validate_response(answer, checks=CHECKS)
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == PROBLEM
                assert answer.json()["status"] == answer.status_code

        ask()

    for result in schema.get_all_operations():
        assert isinstance(result, Ok)
        for role in asking.headers:
            try_out(result.ok(), role)
    # What is no JSON is refused before anybody is asked who they are.
    for role in ("nobody", "stranger"):
        assert {401} <= statuses[role] <= {401, 422}
    for role in Role:
        assert {200, 404, 422} <= statuses[role.value], role
        assert (403 in statuses[role.value]) is (role is not Role.ADMIN)
    assert 201 in statuses["admin"]


def test_every_call_names_how_to_sign_in_and_its_errors(app: FastAPI) -> None:
    described = app.openapi()
    schemes = described["components"]["securitySchemes"]
    assert schemes["bearer"]["scheme"] == "bearer"
    assert (schemes["cookie"]["in"], schemes["cookie"]["name"]) == ("cookie", "plackett_session")
    assert (schemes["csrf"]["in"], schemes["csrf"]["name"]) == ("header", "x-csrf-token")
    known = {f"urn:plackett:error:{each.code}" for each in descend(PlackettError)}
    for path, calls in described["paths"].items():
        for method, call in calls.items():
            assert {"bearer": []} in call["security"]
            browser = ("cookie",) if method == "get" else ("cookie", "csrf")
            assert {each: [] for each in browser} in call["security"]
            wanted = {"401", "403", "422", "503"} | ({"404"} if "{" in path else set())
            if "requestBody" in call:
                wanted |= {"413", "404"}
            if method != "get":
                wanted |= {"409"}
            assert wanted <= set(call["responses"]), (method, path)
            for status in wanted:
                content = call["responses"][status]["content"]
                assert list(content) == [PROBLEM]
                problem, exact = content[PROBLEM]["schema"]["allOf"]
                assert problem == {"$ref": "#/components/schemas/Problem"}
                assert set(exact["properties"]["type"]["enum"]) <= known
    text = str(described)
    assert "HTTPValidationError" not in text


async def test_a_problem_has_the_members_that_are_described(client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/v1/projects")
    problem = answer.json()
    described = (await client.get("/api/openapi.json")).json()["components"]["schemas"]["Problem"]
    assert set(described["required"]) <= set(problem) <= set(described["properties"])
    assert problem["type"] == "urn:plackett:error:not-signed-in"


async def test_a_method_that_a_call_has_not_names_those_that_it_has(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.delete("/api/v1/projects")
    assert answer.status_code == 405
    assert "GET" in answer.headers["allow"]
    assert answer.headers["content-type"] == PROBLEM
