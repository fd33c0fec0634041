"""The tree of errors, rendered once: a problem document, a page, or an htmx fragment."""

import errno
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import psycopg
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.db.failures import explain, full_database_disk, full_own_disk
from app.db.server import embedded_disk_is_full
from app.errors import InvalidInput, NotFound, NotSignedIn, PlackettError, Unavailable
from app.inputs import describe
from app.logs import get_request_id, name_request
from app.settings import Settings
from app.web.addresses import loggable_path
from app.web.fields import tell
from app.web.language import gettext
from app.web.people import get_person
from app.web.templates import PageContext, render

log = structlog.get_logger(__name__)

# What a program should do next. A restarted database is back within a second or two.
PROBLEM_HEADERS = {
    401: {"WWW-Authenticate": "Bearer"},
    429: {"Retry-After": "60"},
    503: {"Retry-After": "1"},
}


@dataclass(frozen=True, kw_only=True)
class ErrorPage(PageContext):
    """What an error's page tells."""

    message: str
    field: str | None
    details: Sequence[Mapping[str, object]]
    reference: str | None = None


def problem(
    error: PlackettError, *, reference: str | None = None, detail: str | None = None
) -> JSONResponse:
    """The error as a problem document (RFC 9457), with its message or `detail` for what it says."""
    body: dict[str, object] = {
        "type": f"urn:plackett:error:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": detail or error.message,
    }
    if error.field:
        body["place"] = error.field
    if error.details:
        body["errors"] = error.details
    if reference:
        body["reference"] = reference
    headers = PROBLEM_HEADERS.get(error.status)
    return JSONResponse(body, error.status, headers=headers, media_type="application/problem+json")


def wants_json(request: Request) -> bool:
    """Whether the caller is a program rather than a person with a browser."""
    return request.url.path.startswith("/api/") or "text/html" not in request.headers.get(
        "accept", "text/html"
    )


def respond(request: Request, error: PlackettError, *, reference: str | None = None) -> Response:
    """The error, in the form that fits whoever asked."""
    if wants_json(request) and "hx-request" not in request.headers:
        # A page's script shows what it is told; a program has the field beside it.
        script = not request.url.path.startswith("/api/")
        return problem(error, reference=reference, detail=tell(error) if script else None)
    if isinstance(error, NotSignedIn):
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        from urllib.parse import quote

        address = "/sign-in" + (f"?next={quote(target)}" if request.method == "GET" else "")
        if "hx-request" in request.headers:
            return Response(status_code=204, headers={"HX-Redirect": address})
        return RedirectResponse(address, status_code=303)
    page = ErrorPage(
        title=error.title,
        message=error.message,
        field=error.field,
        details=error.details,
        reference=reference,
    )
    fragment = "hx-request" in request.headers
    return render(
        request,
        "web/error_fragment.html" if fragment else "web/error.html",
        page,
        status=error.status,
        # What is on the page stays: the error goes where every page keeps room for one.
        headers={"HX-Retarget": "#page-error", "HX-Reswap": "innerHTML"} if fragment else None,
    )


@contextmanager
def from_pydantic() -> Iterator[None]:
    """Turn pydantic's first finding into InvalidInput, with its field."""
    try:
        yield
    except ValidationError as error:
        field, message = describe(error.errors()[0], gettext)
        raise InvalidInput(message, field=field or "form") from None


# Where FastAPI looks for what a route needs: no part of a field's name.
PLACES = ("body", "query", "path", "header", "cookie")


def from_validation(error: RequestValidationError) -> InvalidInput:
    """FastAPI's own findings, with the path of each as people write it: `axes.0.name`."""
    details = []
    for found in error.errors():
        place, *names = found["loc"] if found["loc"][0] in PLACES else ("body", *found["loc"])
        if found["type"] == "json_invalid":
            names = []  # the number of a byte
        field, message = describe(cast(ErrorDetails, {**found, "loc": tuple(names)}), gettext)
        details.append({"field": field or str(place), "message": message})
    first = details[0]
    message, field = first["message"], first["field"]  # no subscript in a call that is translated
    return InvalidInput(message, field=field, details=details)


async def unexpected(request: Request, error: Exception) -> Response:
    """The answer to an error that nobody thought of; all that is known of it is in the log."""
    # What somebody reads to us is what the lines of their request carry.
    reference = get_request_id() or name_request()
    path = loggable_path(request.scope)
    log.error("an unexpected error", reference=reference, path=path, exc_info=error)
    wrong = PlackettError("Something went wrong on our side. It has been written to the log.")
    wrong.status, wrong.code, wrong.title = 500, "internal", "Something went wrong"
    return respond(request, wrong, reference=reference)


class LastResort:
    """Answers what nothing inside has caught, where every answer is still given its headers.

    The framework's own place for it is outside of all middleware: a page from there has no security
    headers, no language and no line among the requests, and its error is written again by the server.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def send_and_note(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        except Exception as error:
            if begun or scope["type"] != "http":
                raise
            answer = await unexpected(Request(scope), error)
            await answer(scope, receive, send)


Identify = Callable[[Request, AsyncSession], Awaitable[None]]


async def recognise(request: Request, identify: Identify) -> None:
    """Who asks for an address that no route has, so that the page keeps their navigation."""
    if wants_json(request) or get_person(request) is not None:
        return
    try:
        async with request.app.state.sessions() as session:
            await identify(request, session)
    except (SQLAlchemyError, OSError):
        log.warning("nobody was recognised for a page that is not there")


def install_error_handlers(app: FastAPI, identify: Identify) -> None:
    """Make every error that can leave a route come out in one shape."""

    @app.exception_handler(PlackettError)
    async def ours(request: Request, error: PlackettError) -> Response:
        return respond(request, error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        if not wants_json(request) and any(found["loc"][0] == "path" for found in error.errors()):
            # An address that no link leads to: whoever reads it has made a slip in it.
            return respond(request, NotFound(f"No page has the address {request.url.path}"))
        return respond(request, from_validation(error))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        if error.status_code == 400:  # a body that cannot be taken apart, as JSON or as a form
            return respond(request, InvalidInput(str(error.detail), field="body"))
        ours = PlackettError(str(error.detail))
        ours.status = error.status_code
        ours.code = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code, "http")
        ours.title = {404: "There is nothing here", 405: "That cannot be done here"}.get(
            error.status_code, "That request cannot be carried out"
        )
        if error.status_code == 404:
            ours.message = f"No page or call has the address {request.url.path}"
            await recognise(request, identify)
        answer = respond(request, ours)
        answer.headers.update(error.headers or {})  # which methods there are, for one
        return answer

    @app.exception_handler(DBAPIError)
    @app.exception_handler(PoolTimeout)
    @app.exception_handler(psycopg.Error)
    async def database_error(request: Request, error: Exception) -> Response:
        settings: Settings = request.app.state.settings
        ours = explain(error)
        if ours is None:
            return await unexpected(request, error)
        if type(ours) is Unavailable and embedded_disk_is_full(settings):
            ours = full_database_disk()
        log.error("the database cannot do it", code=ours.code, error=str(error).split("\n", 1)[0])
        return respond(request, ours)

    @app.exception_handler(OSError)
    async def system_error(request: Request, error: OSError) -> Response:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return await unexpected(request, error)
        log.error("a disk is full", file=error.filename, error=error.strerror)
        return respond(request, full_own_disk())

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        # Nobody is left to answer: a closed tab, a lost line. Nothing of it was stored.
        return Response(status_code=499)

    # For what happens outside of `LastResort`: nearly nothing.
    app.add_exception_handler(Exception, unexpected)
