"""Protection against forged requests: every form carries a token that only our pages know.

A signed-in browser's token belongs to its session. Before sign-in, the form's token must equal the one
in a cookie of its own (double submit). Requests with an API token are exempt: browsers never send one
on their own.
"""

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
    """The token that the page's forms must send back; made now if the visitor has none yet."""
    person = get_person(request)
    if person is not None:
        return person.csrf_token
    known = request.cookies.get(COOKIE) or getattr(request.state, "new_csrf_token", None)
    if known is None:
        known = secrets.token_urlsafe(32)
        request.state.new_csrf_token = known
    return known


def set_csrf_cookie(request: Request, response: Response, *, secure: bool) -> None:
    """Hand a token made while rendering to the visitor's browser."""
    token = getattr(request.state, "new_csrf_token", None)
    if token is not None:
        response.set_cookie(COOKIE, token, httponly=True, samesite="lax", secure=secure)


async def check_csrf(request: Request) -> None:
    """Refuse a request that changes something and does not carry the token. Raises NotAllowed."""
    person = get_person(request)
    if request.method in SAFE_METHODS or (person is not None and person.via == "token"):
        return
    if person is None and "authorization" in request.headers:
        return  # a bad API token: the route says so
    expected = person.csrf_token if person is not None else request.cookies.get(COOKIE)
    given: object = request.headers.get(HEADER)
    if given is None and request.headers.get("content-type", "").startswith(
        ("application/x-www-form-urlencoded", "multipart/form-data")
    ):
        given = (await request.form()).get(FIELD)
    if not expected or not isinstance(given, str) or not hmac.compare_digest(expected, given):
        if person is None and request.url.path.startswith("/api/"):
            return  # nobody is signed in, which the route will say better
        raise NotAllowed("The form has expired. Go back, reload the page and send it again.")
