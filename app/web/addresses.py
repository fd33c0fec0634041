"""The addresses of pages: under which prefix they stand, and how they are told to the log.

Behind a proxy the application may stand under a path of its own (`https://example.org/plackett/…`). Its
code never knows: routes, redirects and templates say `/rate`, the prefix is taken from a request's path
before anything reads it, and put before every address on the way out.
"""

import re
from contextvars import ContextVar
from urllib.parse import urlsplit

from jinja2.ext import Extension
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Parts of an address that let whoever knows them in.
SECRET_PARTS = frozenset({"token"})
# Where a trusted proxy's word on the prefix is kept in a request's scope.
TOLD_PREFIX = "plackett.prefix"
PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")
# What leads a browser on. Cookies, too, stay where they belong.
LEADING_HEADERS = ("location", "hx-redirect", "hx-location", "hx-push-url")
COOKIE_PATH = re.compile(r"(;\s*path=)/(?=;|$)", re.IGNORECASE)
# FastAPI writes into it where the calls stand, which it reads from `root_path`.
DESCRIPTION = "/api/openapi.json"

_prefix: ContextVar[str] = ContextVar("prefix", default="")


def get_prefix() -> str:
    """The path under which the present request's browser sees the application; mostly none."""
    return _prefix.get()


def at(address: str) -> str:
    """An address of ours as the browser has to write it."""
    return _prefix.get() + address


def read_prefix(text: str) -> str | None:
    """The prefix that is meant, without a slash at its end; None where it could not be one."""
    text = text.strip().rstrip("/")
    return text if not text or PREFIX.fullmatch(text) else None


class UnderPrefix:
    """Lets the application stand under a path, whether the proxy takes that path away or not."""

    def __init__(self, app: ASGIApp, *, prefix: str) -> None:
        self.app = app
        self.prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        prefix: str = scope.get(TOLD_PREFIX, self.prefix)
        # Each request is a task of its own, so nothing has to be put back; and the page of an unexpected
        # error is made after everything inside has ended.
        _prefix.set(prefix)
        if not prefix:
            await self.app(scope, receive, send)
            return
        path: str = scope["path"]
        if path == prefix or path.startswith(f"{prefix}/"):
            scope["path"] = path.removeprefix(prefix) or "/"
            scope["raw_path"] = scope["path"].encode()
        if scope["path"] == DESCRIPTION:
            scope["root_path"] = prefix
        host = Headers(scope=scope).get("host", "")

        async def send_under_prefix(message: Message) -> None:
            if message["type"] == "http.response.start":
                _lead_under_prefix(MutableHeaders(scope=message), prefix, host)
            await send(message)

        await self.app(scope, receive, send_under_prefix)


def _lead_under_prefix(headers: MutableHeaders, prefix: str, host: str) -> None:
    for name in LEADING_HEADERS:
        address = headers.get(name)
        if address is None:
            continue
        parts = urlsplit(address)
        if parts.netloc == host:  # the router's own redirects name the host, as far as it knows it
            address = parts._replace(scheme="", netloc="").geturl()
        if address.startswith("/") and not address.startswith("//"):
            headers[name] = prefix + address
    cookies = headers.getlist("set-cookie")
    if cookies:
        del headers["set-cookie"]
        for cookie in cookies:
            headers.append("set-cookie", COOKIE_PATH.sub(rf"\g<1>{prefix}", cookie))


class OwnAddresses(Extension):
    """Puts the prefix before every address that a template writes: `href="/rate"` and the like.

    It works on the templates' text, before anything is filled in: what a model or a person wrote is not
    touched.
    """

    ATTRIBUTES = re.compile(
        r"""(\s(?:href|src|action|formaction|hx-(?:get|post|put|patch|delete)|data-[\w-]+)=")(?=/(?!/))"""
    )

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        """The template's text with the prefix filled in where an address begins."""
        return self.ATTRIBUTES.sub(r"\1{{ get_prefix() }}", source)


def loggable_path(scope: Scope) -> str:
    """The path of a request without what in it is secret; `other` where no route knows it.

    An address that nobody knows is not written down at all: it may be a sign-in link with a slip in it.
    """
    path: str = getattr(scope.get("route"), "path", "")
    for name, value in scope.get("path_params", {}).items():
        if name not in SECRET_PARTS:
            path = path.replace(f"{{{name}}}", str(value))
    return path or "other"
