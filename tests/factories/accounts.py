"""People for tests."""

import itertools

import httpx
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts import service
from app.accounts.guards import SESSION_COOKIE
from app.accounts.models import Role, User
from app.web.csrf import mask

_numbers = itertools.count(1)
PASSWORD = "correct horse battery"


async def create_user(
    session: AsyncSession, role: Role = Role.RATER, *, password: str | None = None
) -> User:
    """Somebody of a role."""
    number = next(_numbers)
    return await service.create_user(
        session,
        f"{role.value}{number}@example.org",
        role,
        name=f"{role.value.title()} {number}",
        password=password,
    )


async def bearer(session: AsyncSession, user: User) -> dict[str, str]:
    """The header that speaks for a user."""
    token = await service.create_api_token(session, user, name="test")
    await session.commit()
    return {"Authorization": f"Bearer {token}"}


async def sign_in(client: httpx.AsyncClient, session: AsyncSession, user: User) -> str:
    """Give the client the user's session cookie; the session's CSRF token comes back."""
    token = await service.create_session(session, user, days=1)
    await session.commit()
    client.cookies.set(SESSION_COOKIE, token)
    from app.accounts.queries import get_live_session
    from app.accounts.secrets import hash_token
    from app.db.types import utc_now

    live = await get_live_session(session, hash_token(token), utc_now())
    assert live is not None
    return mask(live.csrf_token)
