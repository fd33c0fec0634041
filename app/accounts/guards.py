"""Who is asking, and whether they may: dependencies for every room's routes.

An admin may do what raters and researchers may, so that one person can run a small project alone;
everything else is refused by the server, whatever the pages show.
"""

import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Literal

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts import queries
from app.accounts.models import Role, Scope, User
from app.accounts.secrets import hash_token
from app.db.engine import get_session
from app.db.types import utc_now
from app.errors import NotAllowed, NotSignedIn
from app.web.csrf import SAFE_METHODS
from app.web.people import get_person

SESSION_COOKIE = "plackett_session"
# How stale a token's "last used" may be: it is for people to read, and a write for each call costs.
LAST_USED_STEP = timedelta(minutes=5)


@dataclass(frozen=True)
class SignedIn:
    """The person behind a request (app.web.people.Person).

    Plain values beside the row: a page that tells of an error is rendered after a rollback, when the row
    can no longer be read.
    """

    user: User
    id: uuid.UUID
    display_name: str
    role: Role
    csrf_token: str
    via: Literal["session", "token"]
    scopes: frozenset[str]

    @classmethod
    def of(
        cls,
        user: User,
        csrf_token: str,
        via: Literal["session", "token"],
        scopes: Iterable[str] = tuple(Scope),
    ) -> "SignedIn":
        """What a page's furniture needs of a user. A browser may do all that its person may."""
        held = frozenset(scopes)
        return cls(user, user.id, user.display_name, user.role, csrf_token, via, held)


async def identify(
    request: Request, session: Annotated[AsyncSession, Depends(get_session)]
) -> None:
    """Find out who asks, by API token or by cookie, and put them on `request.state.person`."""
    authorization = request.headers.get("authorization", "")
    if authorization:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return
        now = utc_now()
        known = await queries.get_live_api_token(session, hash_token(token.strip()), now)
        if known is not None:
            if known.last_used_at is None or now - known.last_used_at > LAST_USED_STEP:
                known.last_used_at = now
                await session.commit()
            request.state.person = SignedIn.of(known.user, "", "token", known.scopes)
        return
    cookie = request.cookies.get(SESSION_COOKIE)
    if cookie:
        live = await queries.get_live_session(session, hash_token(cookie), utc_now())
        if live is not None:
            request.state.person = SignedIn.of(live.user, live.csrf_token, "session")


def require(
    *roles: Role, look: Scope | None, change: Scope | None
) -> Callable[[Request], Awaitable[User]]:
    """A dependency that gives the user, or refuses whoever has none of the roles (nor is admin).

    `look` and `change` are the scopes that a token needs for requests of either kind; with none, no token
    will do: what decides over people and their keys takes a person with a browser.
    """
    allowed = {*roles, Role.ADMIN} if roles else set(Role)

    async def the_user(request: Request) -> User:
        person = get_person(request)
        if not isinstance(person, SignedIn):
            if "authorization" in request.headers:
                raise NotSignedIn("The API token is unknown, revoked, expired or malformed")
            raise NotSignedIn("Sign in first")
        if person.role not in allowed:
            names = " or ".join(sorted(role.value for role in allowed))
            raise NotAllowed(f"This needs the role {names}; yours is {person.role.value}")
        if person.via == "token":
            needed = look if request.method in SAFE_METHODS else change
            if needed is None:
                raise NotAllowed("No token can do this: sign in with a browser")
            if needed not in person.scopes:
                raise NotAllowed(f"This needs a token with the scope {needed.value}")
        return person.user

    return the_user


async def start_over(session: AsyncSession, user: User) -> None:
    """Forget what a request was about to change; the person, read again, is shown what was wrong."""
    await session.rollback()
    await session.refresh(user)


AnyUser = Annotated[User, Depends(require(look=Scope.READ, change=Scope.ADMIN))]
Rater = Annotated[User, Depends(require(Role.RATER, look=Scope.RATE, change=Scope.RATE))]
Researcher = Annotated[
    User, Depends(require(Role.RESEARCHER, look=Scope.READ, change=Scope.EXPORT))
]
# Whoever may see the data itself, not only figures of it.
Exporter = Annotated[
    User, Depends(require(Role.RESEARCHER, look=Scope.EXPORT, change=Scope.EXPORT))
]
Admin = Annotated[User, Depends(require(Role.ADMIN, look=Scope.ADMIN, change=Scope.ADMIN))]
# With a browser, never a token: it could give itself more than it was given, and outlive its end.
Myself = Annotated[User, Depends(require(look=None, change=None))]
AdminInPerson = Annotated[User, Depends(require(Role.ADMIN, look=None, change=None))]
Session = Annotated[AsyncSession, Depends(get_session)]
