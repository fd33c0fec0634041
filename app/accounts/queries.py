"""Selects of the accounts room."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Text, bindparam, cast, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import contains_eager, selectinload

from app.accounts.models import ApiToken, AuditEntry, SignInFailure, SignInLink, SignInSession, User

# Every request makes one of these two: put together once, they take half the time.
_LIVE_SESSION = (
    select(SignInSession)
    .join(SignInSession.user)
    .options(contains_eager(SignInSession.user))
    .where(
        SignInSession.token_hash == bindparam("token_hash"),
        SignInSession.expires_at > bindparam("now"),
        User.disabled_at.is_(None),
    )
)
_LIVE_API_TOKEN = (
    select(ApiToken)
    .join(ApiToken.user)
    .options(contains_eager(ApiToken.user))
    .where(
        ApiToken.token_hash == bindparam("token_hash"),
        ApiToken.revoked_at.is_(None),
        or_(ApiToken.expires_at.is_(None), ApiToken.expires_at > bindparam("now")),
        User.disabled_at.is_(None),
    )
)


async def get_user_by_email(session: AsyncSession, email: str) -> User | None:
    """The person with this address, however it is capitalised."""
    return await session.scalar(select(User).where(func.lower(User.email) == email.strip().lower()))


async def list_users(session: AsyncSession) -> Sequence[User]:
    """Everybody, by address."""
    return (await session.scalars(select(User).order_by(func.lower(User.email)))).all()


async def get_live_session(
    session: AsyncSession, token_hash: bytes, now: datetime
) -> SignInSession | None:
    """The sign-in session of a cookie, if it has neither expired nor lost its person."""
    return await session.scalar(_LIVE_SESSION, {"token_hash": token_hash, "now": now})


async def get_live_api_token(
    session: AsyncSession, token_hash: bytes, now: datetime
) -> ApiToken | None:
    """An API token that is neither revoked, nor past its end, nor a disabled person's."""
    return await session.scalar(_LIVE_API_TOKEN, {"token_hash": token_hash, "now": now})


async def get_link_for_update(session: AsyncSession, token_hash: bytes) -> SignInLink | None:
    """A sign-in link, locked, so that a single-use one is used once."""
    return await session.scalar(
        select(SignInLink).where(SignInLink.token_hash == token_hash).with_for_update(of=SignInLink)
    )


async def list_api_tokens(session: AsyncSession, user: User) -> Sequence[ApiToken]:
    """A person's tokens that are not revoked, newest first; one past its end is told of too."""
    return (
        await session.scalars(
            select(ApiToken)
            .where(ApiToken.user_id == user.id, ApiToken.revoked_at.is_(None))
            .order_by(ApiToken.id.desc())
        )
    ).all()


@dataclass(frozen=True, kw_only=True)
class AuditFilter:
    """Which changes are asked for. What is empty leaves out nothing."""

    who: str = ""  # part of an address or a name
    action: str = ""
    project: str = ""  # a slug
    words: str = ""  # part of what was changed, or of its detail
    since: datetime | None = None
    before: datetime | None = None


# Changes whose subject is no project, whatever its name.
_OF_NO_PROJECT = ("user", "sign_in", "token", "policy")


def _chosen(wanted: AuditFilter) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wanted.who:
        people = select(User.id).where(
            or_(
                User.email.icontains(wanted.who, autoescape=True),
                User.name.icontains(wanted.who, autoescape=True),
            )
        )
        found.append(AuditEntry.actor_id.in_(people))
    if wanted.action:
        found.append(AuditEntry.action == wanted.action)
    if wanted.project:
        found.append(AuditEntry.subject == wanted.project)
        found += [
            AuditEntry.action.not_like(f"{each}.%")
            for each in (each.replace("_", "\\_") for each in _OF_NO_PROJECT)
        ]
    if wanted.words:
        found.append(
            or_(
                AuditEntry.subject.icontains(wanted.words, autoescape=True),
                cast(AuditEntry.detail, Text).icontains(wanted.words, autoescape=True),
            )
        )
    if wanted.since:
        found.append(AuditEntry.at >= wanted.since)
    if wanted.before:
        found.append(AuditEntry.at < wanted.before)
    return found


async def list_audit_entries(
    session: AsyncSession, wanted: AuditFilter, *, limit: int, older_than: int | None = None
) -> Sequence[AuditEntry]:
    """The newest changes first, of those that were made before an entry (by its id)."""
    query = (
        select(AuditEntry)
        .options(selectinload(AuditEntry.actor))
        .where(*_chosen(wanted))
        .order_by(AuditEntry.id.desc())
        .limit(limit)
    )
    if older_than is not None:
        query = query.where(AuditEntry.id < older_than)
    return (await session.scalars(query)).all()


async def list_audit_actions(session: AsyncSession) -> Sequence[str]:
    """Every kind of change that was ever made."""
    found = select(AuditEntry.action).distinct().order_by(AuditEntry.action)
    return (await session.scalars(found)).all()


async def count_failures(session: AsyncSession, key: bytes, since: datetime) -> int:
    """How many sign-ins have failed under this key since then."""
    return (
        await session.scalar(
            select(func.count())
            .select_from(SignInFailure)
            .where(SignInFailure.key == key, SignInFailure.at >= since)
        )
    ) or 0
