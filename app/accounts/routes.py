"""Signing in and out, one's own account, people and roles, the audit log."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from app.accounts import service
from app.accounts.guards import SESSION_COOKIE, AnyUser, Session
from app.accounts.models import Role
from app.errors import NotSignedIn
from app.settings import Settings
from app.web.pages import see_other
from app.web.people import get_person
from app.web.templates import PageContext, render

router = APIRouter(include_in_schema=False)

HOMES = {Role.RATER: "/rate", Role.ADMIN: "/admin/projects", Role.RESEARCHER: "/research/exports"}


@dataclass(frozen=True, kw_only=True)
class SignInPage(PageContext):
    """The sign-in form, and what was wrong with the last try."""

    next_address: str
    email: str = ""
    error: NotSignedIn | None = None


@dataclass(frozen=True, kw_only=True)
class SignInLinkPage(PageContext):
    """A link asks before it signs in: programs that look at links must not use them up."""

    token: str


def _local(address: str) -> str:
    """An address on this site, whatever was given: no link leads elsewhere after signing in."""
    safe = address.startswith("/") and not address.startswith(("//", "/\\"))
    return address if safe and "\n" not in address and "\r" not in address else "/"


def _with_session(request: Request, response: Response, token: str) -> Response:
    settings: Settings = request.app.state.settings
    response.set_cookie(
        SESSION_COOKIE,
        token,
        max_age=settings.session_days * 86_400,
        httponly=True,
        samesite="lax",
        secure=settings.secure_cookies,
    )
    return response


@router.get("/")
async def home(request: Request) -> Response:
    """Each role's own home."""
    person = get_person(request)
    if person is None:
        return RedirectResponse("/sign-in", status_code=303)
    return RedirectResponse(HOMES[Role(person.role)], status_code=303)


@router.get("/sign-in")
async def sign_in_form(request: Request, next: str = "/") -> Response:  # noqa: A002
    """The form."""
    if get_person(request) is not None:
        return RedirectResponse(_local(next), status_code=303)
    page = SignInPage(title="Sign in", next_address=_local(next))
    return render(request, "accounts/sign_in.html", page)


@router.post("/sign-in")
async def sign_in(
    request: Request,
    session: Session,
    email: Annotated[str, Form()],
    password: Annotated[str, Form()],
    next: Annotated[str, Form()] = "/",  # noqa: A002
) -> Response:
    """Check the password and start a session."""
    settings: Settings = request.app.state.settings
    try:
        _, token = await service.sign_in(session, email, password, days=settings.session_days)
    except NotSignedIn as error:
        page = SignInPage(title="Sign in", next_address=_local(next), email=email, error=error)
        return render(request, "accounts/sign_in.html", page, status=error.status)
    await session.commit()
    return _with_session(request, see_other(request, _local(next)), token)


@router.get("/sign-in/{token}")
async def sign_in_link_form(request: Request, session: Session, token: str) -> Response:
    """Use a link that may be used again at once; ask before one that may not.

    Mail programs and chats look at links before people do, and must not use them up.
    """
    if await service.is_reusable_link(session, token):
        return await sign_in_by_link(request, session, token)
    page = SignInLinkPage(title="Sign in", token=token)
    return render(request, "accounts/sign_in_link.html", page)


@router.post("/sign-in/{token}")
async def sign_in_by_link(request: Request, session: Session, token: str) -> Response:
    """Use the link and start a session."""
    settings: Settings = request.app.state.settings
    try:
        _, new = await service.use_sign_in_link(session, token, days=settings.session_days)
    except NotSignedIn as error:
        page = SignInPage(title="Sign in", next_address="/", error=error)
        return render(request, "accounts/sign_in.html", page, status=error.status)
    await session.commit()
    return _with_session(request, see_other(request, "/"), new)


@router.post("/sign-out")
async def sign_out(request: Request, session: Session, user: AnyUser) -> Response:
    """End the session."""
    token = request.cookies.get(SESSION_COOKIE)
    if token:
        await service.sign_out(session, token)
        await session.commit()
    response = see_other(request, "/sign-in")
    response.delete_cookie(SESSION_COOKIE)
    return response
