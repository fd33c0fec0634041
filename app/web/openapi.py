"""The API's description: FastAPI's own, with how a caller proves who they are and every error's document.

FastAPI knows of neither: callers are found by a dependency that reads headers, and errors are rendered by
handlers. Both are the same for every call, so they are written in here once.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.errors import (
    Conflict,
    InvalidInput,
    NotAllowed,
    NotFound,
    NotSignedIn,
    PlackettError,
    TooLarge,
    Unavailable,
)
from app.web.csrf import HEADER, SAFE_METHODS

Schema = dict[str, Any]
PROBLEM = "application/problem+json"

# The cookie's name belongs to accounts, above this room: it is filled in.
SECURITY_SCHEMES: Mapping[str, Mapping[str, str]] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API token: `plackett token create`, or the page of one's account.",
    },
    "cookie": {
        "type": "apiKey",
        "in": "cookie",
        "description": "The session of a browser that is signed in.",
    },
    "csrf": {
        "type": "apiKey",
        "in": "header",
        "name": HEADER,
        "description": "Beside the cookie, where a call changes something: the pages' own token.",
    },
}

PROBLEM_SCHEMA: Schema = {
    "title": "Problem",
    "description": "What went wrong (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "place": {"type": "string", "description": "The field, line or setting that it is about."},
        "errors": {
            "type": "array",
            "description": "Each finding, where there is more than one thing to say.",
            "items": {"type": "object"},
        },
        "reference": {"type": "string", "description": "What the server's log calls it."},
    },
}


def fails_with(*errors: type[PlackettError]) -> dict[int | str, Schema]:
    """For a route's `responses`: errors that it has beside those of every call."""
    return {error.status: describe_error(error) for error in errors}


def describe_error(error: type[PlackettError]) -> Schema:
    """The response of an error, and of what is more exact than it and has its status."""
    kinds = [error, *(each for each in descend(error) if each.status == error.status)]
    types = [f"urn:plackett:error:{each.code}" for each in kinds]
    schema = {
        "allOf": [
            {"$ref": "#/components/schemas/Problem"},
            {"type": "object", "properties": {"type": {"type": "string", "enum": types}}},
        ]
    }
    return {"description": error.title, "content": {PROBLEM: {"schema": schema}}}


def descend(error: type[PlackettError]) -> Iterator[type[PlackettError]]:
    """Every kind of an error below it."""
    for each in error.__subclasses__():
        yield each
        yield from descend(each)


def describe(app: FastAPI, *, session_cookie: str) -> Callable[[], Schema]:
    """What takes the place of `app.openapi`: made at the first call, and kept."""

    def openapi() -> Schema:
        if app.openapi_schema is None:
            app.openapi_schema = complete(
                get_openapi(
                    title=app.title,
                    version=app.version,
                    description=app.description,
                    routes=app.routes,
                ),
                session_cookie,
            )
        return app.openapi_schema

    return openapi


def complete(described: Schema, session_cookie: str) -> Schema:
    """The description with security schemes, and the errors that each call may end in."""
    components = described.setdefault("components", {})
    cookie = {**SECURITY_SCHEMES["cookie"], "name": session_cookie}
    components["securitySchemes"] = {**SECURITY_SCHEMES, "cookie": cookie}
    schemas = components.setdefault("schemas", {})
    schemas["Problem"] = PROBLEM_SCHEMA
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)  # FastAPI's own shape, which our handlers replace
    for path, calls in described["paths"].items():
        for method, call in calls.items():
            changes = method.upper() not in SAFE_METHODS
            by_cookie: dict[str, list[str]] = {"cookie": []}
            call["security"] = [{"bearer": []}, by_cookie | ({"csrf": []} if changes else {})]
            responses = call["responses"]
            responses.pop("422", None)
            for error in errors_of(path, changes=changes, body="requestBody" in call):
                responses.setdefault(str(error.status), describe_error(error))
    return described


def errors_of(path: str, *, changes: bool, body: bool) -> Iterator[type[PlackettError]]:
    """The errors of a call, by what it is like."""
    yield from (NotSignedIn, NotAllowed, InvalidInput, Unavailable)
    if "{" in path or body:  # bodies name things too: policies, exports, runs
        yield NotFound
    if changes:
        yield Conflict
    if body:
        yield TooLarge
