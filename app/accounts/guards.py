"""Who is asking, and whether they may: dependencies for every room's routes.

An admin may do what raters and researchers may, so that one person can run a small project alone;
everything else is refused by the server, whatever the pages show.
"""

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Literal

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts import queries
from app.accounts.models import Role, User
from app.accounts.secrets import hash_token
from app.db.engine import get_session
from app.db.types import utc_now
from app.errors import NotAllowed, NotSignedIn
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

    @classmethod
    def of(cls, user: User, csrf_token: str, via: Literal["session", "token"]) -> "SignedIn":
        """What a page's furniture needs of a user."""
        return cls(user, user.id, user.display_name, user.role, csrf_token, via)


async def identify(
    request: Request, session: Annotated[AsyncSession, Depends(get_session)]
) -> None:
    """Find out who asks, by API token or by cookie, and put them on `request.state.person`."""
    authorization = request.headers.get("authorization", "")
    if authorization:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return
        known = await queries.get_live_api_token(session, hash_token(token.strip()))
        if known is not None:
            now = utc_now()
            if known.last_used_at is None or now - known.last_used_at > LAST_USED_STEP:
                known.last_used_at = now
                await session.commit()
            request.state.person = SignedIn.of(known.user, "", "token")
        return
    cookie = request.cookies.get(SESSION_COOKIE)
    if cookie:
        live = await queries.get_live_session(session, hash_token(cookie), utc_now())
        if live is not None:
            request.state.person = SignedIn.of(live.user, live.csrf_token, "session")


def require(*roles: Role) -> Callable[[Request], Awaitable[User]]:
    """A dependency that gives the user, or refuses whoever has none of the roles (nor is admin)."""
    allowed = {*roles, Role.ADMIN} if roles else set(Role)

    async def the_user(request: Request) -> User:
        person = get_person(request)
        if not isinstance(person, SignedIn):
            if "authorization" in request.headers:
                raise NotSignedIn("The API token is unknown, revoked or malformed")
            raise NotSignedIn("Sign in first")
        if person.role not in allowed:
            names = " or ".join(sorted(role.value for role in allowed))
            raise NotAllowed(f"This needs the role {names}; yours is {person.role.value}")
        return person.user

    return the_user


AnyUser = Annotated[User, Depends(require())]
Rater = Annotated[User, Depends(require(Role.RATER))]
Researcher = Annotated[User, Depends(require(Role.RESEARCHER))]
Admin = Annotated[User, Depends(require(Role.ADMIN))]
Session = Annotated[AsyncSession, Depends(get_session)]
