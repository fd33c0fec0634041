"""Signing in and out, the language, one's own account."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from app.accounts import queries, service
from app.accounts.guards import SESSION_COOKIE, Myself, Session, start_over
from app.accounts.models import ApiToken, Role, Scope, User
from app.accounts.service import Access
from app.db.types import utc_now
from app.errors import InvalidInput, NotSignedIn, PlackettError, TooManyTries
from app.settings import Settings
from app.web.language import COOKIE as LANGUAGE_COOKIE
from app.web.language import gettext as _
from app.web.language import list_languages
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


@dataclass(frozen=True, kw_only=True)
class SignInLinkPage(PageContext):
    """A link asks before it signs in: programs that look at links must not use them up."""

    token: str


@dataclass(frozen=True, kw_only=True)
class AccountPage(PageContext):
    """One's own name, password and API tokens; a new token is shown once."""

    user: User
    tokens: Sequence[ApiToken]
    now: datetime
    # What a token of theirs can be good for: (scope, what it lets do).
    scopes: Sequence[tuple[Scope, str]]
    lifetimes: Sequence[tuple[int | None, str]]
    new_token: str | None = None


def _local(address: str) -> str:
    """An address on this site, whatever was given: no link leads elsewhere after signing in."""
    safe = address.startswith("/") and not address.startswith(("//", "/\\"))
    return address if safe and "\n" not in address and "\r" not in address else "/"


def get_source(request: Request) -> str:
    """The address that a request came from."""
    return request.client.host if request.client else "unknown"


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
    page = SignInPage(title=_("Sign in"), next_address=_local(next))
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
    source = get_source(request)
    try:
        await service.refuse_guessing(session, email, source)
        _user, token = await service.sign_in(
            session, email, password, days=settings.session_days, source=source
        )
    except (NotSignedIn, TooManyTries) as error:
        if isinstance(error, NotSignedIn):
            await service.note_failure(session, email, source)
            await session.commit()
        page = SignInPage(title=_("Sign in"), next_address=_local(next), email=email, error=error)
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
    page = SignInLinkPage(title=_("Sign in"), token=token)
    # The address is the secret: no request that this page makes shall say where it came from.
    headers = {"Referrer-Policy": "no-referrer"}
    return render(request, "accounts/sign_in_link.html", page, headers=headers)


@router.post("/sign-in/{token}")
async def sign_in_by_link(request: Request, session: Session, token: str) -> Response:
    """Use the link and start a session."""
    settings: Settings = request.app.state.settings
    source = get_source(request)
    try:
        _user, new = await service.use_sign_in_link(
            session, token, days=settings.session_days, source=source
        )
    except NotSignedIn as error:
        await service.note_spent_link(session, token, source)
        await session.commit()
        page = SignInPage(title=_("Sign in"), next_address="/", error=error)
        return render(request, "accounts/sign_in.html", page, status=error.status)
    await session.commit()
    return _with_session(request, see_other(request, "/"), new)


@router.post("/language")
async def set_language(
    request: Request,
    language: Annotated[str, Form()],
    next: Annotated[str, Form()] = "/",  # noqa: A002
) -> Response:
    """Speak this language from now on, on this browser."""
    if language not in list_languages():
        raise InvalidInput("There is no such language", field="language")
    settings: Settings = request.app.state.settings
    response = see_other(request, _local(next))
    response.set_cookie(
        LANGUAGE_COOKIE,
        language,
        max_age=365 * 86_400,
        httponly=True,
        samesite="lax",
        secure=settings.secure_cookies,
    )
    return response


@router.post("/sign-out")
async def sign_out(request: Request, session: Session, user: Myself) -> Response:
    """End the session."""
    token = request.cookies.get(SESSION_COOKIE)
    if token:
        await service.sign_out(session, token)
        await session.commit()
    response = see_other(request, "/sign-in")
    response.delete_cookie(SESSION_COOKIE)
    return response


def _list_scopes(role: Role) -> list[tuple[Scope, str]]:
    said = {
        Scope.RATE: _("take tasks and rank them"),
        Scope.READ: _("read projects, progress and figures"),
        Scope.EXPORT: _("make and download exports, start runs"),
        Scope.ADMIN: _("make projects, register policies, bring prompts"),
    }
    useful = {
        Role.RATER: {Scope.RATE, Scope.READ},
        Role.RESEARCHER: {Scope.READ, Scope.EXPORT},
        Role.ADMIN: set(Scope),
    }[role]
    return [(scope, text) for scope, text in said.items() if scope in useful]


def _list_lifetimes() -> list[tuple[int | None, str]]:
    return [
        (30, _("in 30 days")),
        (90, _("in 90 days")),
        (365, _("in a year")),
        (None, _("never")),
    ]


async def _account_page(
    request: Request,
    session: Session,
    user: User,
    *,
    new_token: str | None = None,
    error: PlackettError | None = None,
) -> Response:
    page = AccountPage(
        title="Your account",
        user=user,
        tokens=await queries.list_api_tokens(session, user),
        now=utc_now(),
        scopes=_list_scopes(user.role),
        lifetimes=_list_lifetimes(),
        new_token=new_token,
        error=error,
    )
    return render(request, "accounts/account.html", page, status=error.status if error else 200)


@router.get("/account")
async def account(request: Request, session: Session, user: Myself) -> Response:
    """One's own account."""
    return await _account_page(request, session, user)


@router.post("/account/name")
async def change_name(
    request: Request, session: Session, user: Myself, name: Annotated[str, Form()] = ""
) -> Response:
    """Be called otherwise."""
    user.name = name.strip()[:200]
    await session.commit()
    return see_other(request, "/account", notice="Your name is saved.")


@router.post("/account/password")
async def change_password(
    request: Request,
    session: Session,
    user: Myself,
    password: Annotated[str, Form()],
    current: Annotated[str, Form()] = "",
    keep: Annotated[list[Access], Form()] = [],  # noqa: B006 - FastAPI copies it
) -> Response:
    """Set a password. Whatever else lets somebody in ends, but for what is kept; this browser stays."""
    settings: Settings = request.app.state.settings
    try:
        await service.change_own_password(session, user, current=current, new=password, keep=keep)
    except PlackettError as error:
        await start_over(session, user)
        return await _account_page(request, session, user, error=error)
    token = None
    if Access.SESSIONS not in keep:
        token = await service.create_session(session, user, days=settings.session_days)
    await session.commit()
    answer = see_other(request, "/account", notice="Your password is changed.")
    return _with_session(request, answer, token) if token else answer


@router.post("/account/tokens")
async def create_token(
    request: Request,
    session: Session,
    user: Myself,
    name: Annotated[str, Form()] = "",
    scopes: Annotated[list[Scope], Form()] = [],  # noqa: B006 - FastAPI copies it
    days: Annotated[int | None, Form(ge=1, le=3650)] = None,
) -> Response:
    """A new API token, shown on this answer and never again."""
    lifetime = None if days is None else timedelta(days=days)
    try:
        token = await service.create_api_token(
            session, user, name=name, scopes=scopes, lifetime=lifetime
        )
    except PlackettError as error:
        return await _account_page(request, session, user, error=error)
    await session.commit()
    return await _account_page(request, session, user, new_token=token)


@router.post("/account/tokens/{token_id}/revoke")
async def revoke_token(
    request: Request, session: Session, user: Myself, token_id: uuid.UUID
) -> Response:
    """Make a token worthless."""
    await service.revoke_api_token(session, user, token_id)
    await session.commit()
    return see_other(request, "/account", notice="The token is revoked.")
