"""Protection against forged requests: every form carries a token that only our pages know.

A signed-in browser's token belongs to its session. Before sign-in, the form's token must equal the one
in a cookie of its own (double submit). Requests with an API token are exempt: browsers never send one
on their own.

Pages are compressed, and how well tells of what they hold: whoever can put a guess into a page again and
again and watch its size learns a token that stands there unchanged (BREACH). So each answer shows the token
under a mask of its own.
"""

import base64
import hmac
import secrets

from fastapi import Request, Response

from app.errors import NotAllowed
from app.web.people import get_person

FIELD = "csrf_token"
HEADER = "x-csrf-token"
COOKIE = "plackett_csrf"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def csrf_token(request: Request) -> str:
    """What the page's forms must send back: the visitor's token, under a mask of this answer's own."""
    masked: str | None = getattr(request.state, "masked_csrf_token", None)
    if masked is None:
        masked = mask(_get_token(request))
        request.state.masked_csrf_token = masked
    return masked


def _get_token(request: Request) -> str:
    """The visitor's token; made now if they have none yet."""
    person = get_person(request)
    if person is not None:
        return person.csrf_token
    known = request.cookies.get(COOKIE)
    if not known or not known.isascii():
        known = secrets.token_urlsafe(32)
        request.state.new_csrf_token = known
    return known


def mask(token: str) -> str:
    """The token as a page may show it: every time another one."""
    plain = token.encode()
    pad = secrets.token_bytes(len(plain))
    return base64.urlsafe_b64encode(pad + _xor(pad, plain)).decode().rstrip("=")


def unmask(masked: str) -> bytes:
    """The token that was masked; nothing where none was."""
    try:
        both = base64.urlsafe_b64decode(masked.encode() + b"=" * (-len(masked) % 4))
    except ValueError:
        return b""
    half = len(both) // 2
    return _xor(both[:half], both[half:])


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=False))


def set_csrf_cookie(request: Request, response: Response, *, secure: bool) -> None:
    """Hand a token made while rendering to the visitor's browser."""
    token = getattr(request.state, "new_csrf_token", None)
    if token is not None:
        response.set_cookie(COOKIE, token, httponly=True, samesite="lax", secure=secure)


def is_form(request: Request) -> bool:
    """Whether the request's body is a form's."""
    return request.headers.get("content-type", "").startswith(
        ("application/x-www-form-urlencoded", "multipart/form-data")
    )


async def check_csrf(request: Request) -> None:
    """Refuse a request that changes something and does not carry the token. Raises NotAllowed."""
    person = get_person(request)
    if request.method in SAFE_METHODS or (person is not None and person.via == "token"):
        return
    if person is None and "authorization" in request.headers:
        return  # a bad API token: the route says so
    expected = person.csrf_token if person is not None else request.cookies.get(COOKIE)
    given: object = request.headers.get(HEADER)
    if given is None and is_form(request):
        given = (await request.form()).get(FIELD)
    right = (
        bool(expected)
        and isinstance(given, str)
        and hmac.compare_digest((expected or "").encode(), unmask(given))
    )
    if not right:
        if person is None and request.url.path.startswith("/api/"):
            return  # nobody is signed in, which the route will say better
        raise NotAllowed("The form has expired. Go back, reload the page and send it again.")
