"""What happens to every request: a line in the log, security headers, a language, a limit on size."""

import asyncio
import re
import time

import structlog
from prometheus_client import Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import Busy, TooLarge, Unavailable
from app.logs import name_request
from app.web.addresses import loggable_path
from app.web.errors import problem, respond
from app.web.language import choose_language, speaking

log = structlog.get_logger("plackett.http")

# Our own files only: no inline script or style, nothing from another host, no frames.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'; manifest-src 'self'"
)
SECURITY_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}

# What a client calls its method is free text, and neither figures nor log lines are for that.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")

REQUESTS = Counter(
    "plackett_http_requests_total", "Requests answered", ["method", "route", "status"]
)
SECONDS = Histogram("plackett_http_request_seconds", "Seconds to answer a request", ["route"])


class RequestId:
    """One id in every log line of a request, in its answer, and in what it sets off.

    A caller's own id is taken where it looks like one, so that a line can be found from either side.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        asked = Headers(scope=scope).get("x-request-id", "")
        # Each request is a task of its own, so what is bound here ends with it.
        name = name_request(asked if REQUEST_ID.fullmatch(asked) else None)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = name
            await send(message)

        await self.app(scope, receive, send_with_id)


class AccessLog:
    """A log line and figures for every request."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_noting_status)
        finally:
            seconds = time.perf_counter() - started
            # The route's pattern, not the path: ids must not become label values.
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in METHODS else "other"
            REQUESTS.labels(method, route, status).inc()
            SECONDS.labels(route).observe(seconds)
            if not scope["path"].startswith(("/static/", "/vendor/", "/healthz", "/metrics")):
                log.info(
                    "request",
                    method=method,
                    path=loggable_path(scope),
                    status=status,
                    milliseconds=round(seconds * 1000, 1),
                )


class SecurityHeaders:
    """Security headers on every answer, and no copy of a page left in a cache."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if not scope["path"].startswith(("/static/", "/vendor/")):
                    headers.setdefault("cache-control", "no-store")
            await send(message)

        await self.app(scope, receive, send_with_headers)


class ReadersLanguage:
    """Every request is answered in its reader's language; pages that are there in English alone, in that.

    Raters read their pages in their own. The others are not translated, and half a page would be.
    """

    ENGLISH = ("/admin/", "/research/")

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        english = scope["path"].startswith(self.ENGLISH)
        with speaking("en" if english else choose_language(HTTPConnection(scope))):
            await self.app(scope, receive, send)


class Deadline:
    """Every request is answered in time: in full, or with what it was that took too long.

    The clock runs from the last byte of the request to the first of the answer. A database that has
    fallen silent keeps no time limit of its own, and a client that is slow is bounded by its proxy.
    Nobody waits for work that is called off: the driver alone tries for ten seconds to take its
    question back.
    """

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        self.app = app
        self.seconds = seconds
        self._called_off: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        late: asyncio.Future[None] = loop.create_future()
        clock: asyncio.TimerHandle | None = None
        begun = over = False

        def start() -> None:
            nonlocal clock
            if clock is None and not begun:
                clock = loop.call_later(self.seconds, _finish, late)

        async def receive_and_start() -> Message:
            message = await receive()
            if not message.get("more_body", False):
                start()
            return message

        async def send_in_time(message: Message) -> None:
            nonlocal begun
            begun = True
            if clock is not None:
                clock.cancel()
            if not over:
                await send(message)

        stated = Headers(scope=scope)
        if "transfer-encoding" not in stated and stated.get("content-length", "0") == "0":
            start()  # a request without a body is never asked for one

        async def answer() -> None:
            await self.app(scope, receive_and_start, send_in_time)

        work = asyncio.create_task(answer())
        reason: Unavailable
        try:
            await asyncio.wait({work, late}, return_when=asyncio.FIRST_COMPLETED)
            reason = Busy("The answer was not ready in time.", field="request_timeout")
        except asyncio.CancelledError:  # uvicorn, when the grace of a stop is over
            reason = Unavailable("This server is being stopped; try again.", field="server")
        finally:
            if clock is not None:
                clock.cancel()
        if work.done():
            await work
            return
        answered, over = begun, True
        self._called_off.add(work)
        work.add_done_callback(self._forget)
        work.cancel()
        if not answered:
            await respond(Request(scope), reason)(scope, receive, send)

    def _forget(self, work: "asyncio.Task[None]") -> None:
        self._called_off.discard(work)
        if not work.cancelled() and (error := work.exception()):
            log.warning("work that was called off has failed", error=str(error).split("\n", 1)[0])


def _finish(late: "asyncio.Future[None]") -> None:
    if not late.done():
        late.set_result(None)


class BodyLimit:
    """Refuse a body over the limit: by its stated length at once, else as soon as it is passed."""

    def __init__(self, app: ASGIApp, *, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        error = TooLarge(f"The request is larger than {self.limit:,} bytes", field="body")
        stated = Headers(scope=scope).get("content-length", "0")
        # A length of hundreds of digits is a number too, and too large to be read as one.
        if stated.isascii() and stated.isdigit() and int(stated[:20]) > self.limit:
            await problem(error)(scope, receive, send)
            return
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limit:
                raise error
            return message

        await self.app(scope, receive_within_limit, send)
