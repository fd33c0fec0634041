"""People: making them, signing them in, giving their programs tokens, recording what they change."""

import asyncio
import re
import uuid
from collections.abc import Collection
from datetime import timedelta
from enum import StrEnum
from ipaddress import ip_address, ip_network

from sqlalchemy import delete, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts import queries
from app.accounts.models import (
    ApiToken,
    AuditEntry,
    Kind,
    Role,
    Scope,
    SignInFailure,
    SignInLink,
    SignInSession,
    User,
)
from app.accounts.secrets import (
    API_TOKEN_PREFIX,
    hash_password,
    hash_token,
    new_token,
    verify_password,
)
from app.db.types import utc_now
from app.errors import Conflict, InvalidInput, NotFound, NotSignedIn, TooManyTries
from app.inputs import find_unstorable, printable


class Access(StrEnum):
    """A way in beside the password."""

    SESSIONS = "sessions"
    TOKENS = "tokens"
    LINKS = "links"


# One @ with something on both sides: whether the address works, only a message to it can tell.
LONGEST_SUBJECT = 200
EMAIL = re.compile(r"[^@\s]+@[^@\s]+")


async def record(
    session: AsyncSession,
    actor: uuid.UUID | None,
    action: str,
    subject: str = "",
    **detail: object,
) -> None:
    """Write a change into the audit log, in the transaction that makes it."""
    told = {
        name: printable(value) if isinstance(value, str) else value
        for name, value in detail.items()
    }
    # An address may be longer than the log's column, and a file's name be no text at all.
    subject = printable(subject)[:LONGEST_SUBJECT]
    session.add(AuditEntry(actor_id=actor, action=action, subject=subject, detail=told))
    await session.flush()


async def create_user(
    session: AsyncSession,
    email: str,
    role: Role,
    *,
    name: str = "",
    password: str | None = None,
    kind: Kind = Kind.PERSON,
    actor: uuid.UUID | None = None,
) -> User:
    """A new person. Raises InvalidInput for a bad address or password, Conflict for a known one."""
    email = email.strip()
    if not EMAIL.fullmatch(email) or len(email) > 320 or find_unstorable(email):
        raise InvalidInput(f"{email!r} is not an e-mail address", field="email")
    if await queries.get_user_by_email(session, email) is not None:
        raise Conflict(f"There is already somebody with the address {email}", field="email")
    hashed = None
    if password is not None:
        hashed = await asyncio.to_thread(hash_password, password, (email, name))
    user = User(
        email=email,
        role=role,
        name=name.strip()[:200],
        kind=kind,
        password_hash=hashed,
    )
    session.add(user)
    await session.flush()
    await record(session, actor, "user.create", email, role=role.value)
    return user


async def get_user(session: AsyncSession, user_id: uuid.UUID) -> User:
    """The person. Raises NotFound."""
    user = await session.get(User, user_id)
    if user is None:
        raise NotFound("There is no such person", field="person")
    return user


async def get_or_create_imported_rater(session: AsyncSession, name: str) -> User:
    """The rater behind imported rankings that name them; one for each name."""
    return await _get_or_create_stand_in(session, name, Kind.IMPORTED)


async def get_or_create_ai_rater(session: AsyncSession, name: str) -> User:
    """The rater behind a model's rankings; one for each name. Nobody can sign in as one."""
    return await _get_or_create_stand_in(session, name, Kind.AI)


async def _get_or_create_stand_in(session: AsyncSession, name: str, kind: Kind) -> User:
    address = f"{uuid.uuid5(uuid.NAMESPACE_OID, name).hex}@{kind.value}.invalid"
    await session.execute(
        insert(User)
        .values(email=address, role=Role.RATER, kind=kind, name=name[:200])
        .on_conflict_do_nothing()
    )
    user = await queries.get_user_by_email(session, address)
    assert user is not None
    return user


async def set_password(
    session: AsyncSession, user: User, password: str, *, keep: Collection[Access] = ()
) -> None:
    """Give a person a new password, and end every other way in but those that they keep."""
    # Judging and hashing take a good part of a second: not on the loop, where everybody waits.
    user.password_hash = await asyncio.to_thread(hash_password, password, (user.email, user.name))
    now = utc_now()
    if Access.SESSIONS not in keep:
        await session.execute(delete(SignInSession).where(SignInSession.user_id == user.id))
    if Access.TOKENS not in keep:
        await session.execute(
            update(ApiToken)
            .where(ApiToken.user_id == user.id, ApiToken.revoked_at.is_(None))
            .values(revoked_at=now)
        )
    if Access.LINKS not in keep:
        await session.execute(
            update(SignInLink)
            .where(SignInLink.user_id == user.id, SignInLink.expires_at > now)
            .values(expires_at=now)
        )
    kept = sorted(each.value for each in keep)
    await record(session, user.id, "user.password", user.email, kept=kept)


async def change_own_password(
    session: AsyncSession, user: User, *, current: str, new: str, keep: Collection[Access] = ()
) -> None:
    """A new password, for whoever knows the current one (or has none yet). Raises InvalidInput."""
    stored = user.password_hash
    if stored is not None and not await asyncio.to_thread(verify_password, current, stored):
        raise InvalidInput("This is not your current password", field="current")
    if stored is not None and new == current:
        raise InvalidInput("This is the password that you have already", field="password")
    await set_password(session, user, new, keep=keep)


async def change_role(session: AsyncSession, user: User, role: Role, *, actor: uuid.UUID) -> None:
    """Let a person do other things. Nobody takes their own admin role away by mistake."""
    if user.id == actor and role is not Role.ADMIN:
        raise Conflict("Another admin has to change your role", field="role")
    await record(session, actor, "user.role", user.email, before=user.role.value, after=role.value)
    user.role = role
    await session.flush()


async def set_disabled(
    session: AsyncSession, user: User, disabled: bool, *, actor: uuid.UUID
) -> None:
    """Shut a person out, at once and everywhere, or let them in again."""
    if user.id == actor and disabled:
        raise Conflict("Another admin has to disable your account", field="user")
    user.disabled_at = utc_now() if disabled else None
    if disabled:
        await session.execute(delete(SignInSession).where(SignInSession.user_id == user.id))
    action = "user.disable" if disabled else "user.enable"
    await record(session, actor, action, user.email)


# In how much time how many sign-ins may fail: for an address from one source (a network address), for an
# address from anywhere, and from one source for any address. A sign-in link works all the while.
TRY_WINDOW = timedelta(minutes=15)
MOST_FAILURES = {"pair": 10, "address": 50, "source": 100}
IPV6_SITE = 64  # bits: whoever has one IPv6 address has the 2^64 beside it


def _site(source: str) -> str:
    """The network that one client is taken to have to itself."""
    try:
        found = ip_address(source.partition("%")[0])
    except ValueError:
        return source
    return str(ip_network((found, IPV6_SITE), strict=False)) if found.version == 6 else source


def _failure_keys(email: str, source: str) -> dict[str, bytes]:
    address, source = email.strip().lower(), _site(source)
    return {
        "pair": hash_token(f"pair {source} {address}"),
        "address": hash_token(f"address {address}"),
        "source": hash_token(f"place {source}"),
    }


async def refuse_guessing(session: AsyncSession, email: str, source: str) -> None:
    """Raise TooManyTries where too many sign-ins have failed for this address or from this source."""
    since = utc_now() - TRY_WINDOW
    for kind, key in _failure_keys(email, source).items():
        if await queries.count_failures(session, key, since) >= MOST_FAILURES[kind]:
            raise TooManyTries(
                "Too many sign-ins failed. Wait a quarter of an hour, or ask for a sign-in link.",
                field="password",
            )


async def note_failure(session: AsyncSession, email: str, source: str) -> None:
    """Remember a sign-in that failed; for the limits, what is older than a day is forgotten.

    The audit log names an account, never what was typed for one: it may be a password in the wrong field.
    """
    user = await queries.get_user_by_email(session, email)
    subject = user.email if user is not None else "an unknown address"
    await record(session, None, "sign_in.failure", subject, source=source)
    keys = _failure_keys(email, source).values()
    session.add_all(SignInFailure(key=key) for key in keys)
    await session.execute(
        delete(SignInFailure).where(SignInFailure.at < utc_now() - timedelta(days=1))
    )


async def sign_in(
    session: AsyncSession, email: str, password: str, *, days: int, source: str
) -> tuple[User, str]:
    """The person and the new session's token. Raises NotSignedIn, without saying what was wrong."""
    user = await queries.get_user_by_email(session, email)
    stored = user.password_hash if user else None
    right = await asyncio.to_thread(verify_password, password, stored)
    if user is None or not right or user.disabled_at is not None:
        raise NotSignedIn("The address or the password is not right", field="password")
    await record(session, user.id, "sign_in", user.email, source=source, by="password")
    return user, await create_session(session, user, days=days)


async def create_session(session: AsyncSession, user: User, *, days: int) -> str:
    """A new session's token, for the browser's cookie."""
    token = new_token()
    now = utc_now()
    await session.execute(
        delete(SignInSession).where(
            SignInSession.user_id == user.id, SignInSession.expires_at <= now
        )
    )
    session.add(
        SignInSession(
            token_hash=hash_token(token),
            csrf_token=new_token(),
            user_id=user.id,
            expires_at=now + timedelta(days=days),
        )
    )
    await session.flush()
    return token


async def sign_out(session: AsyncSession, token: str) -> None:
    """End the session of a cookie."""
    await session.execute(
        delete(SignInSession).where(SignInSession.token_hash == hash_token(token))
    )


async def create_sign_in_link(
    session: AsyncSession, user: User, *, lifetime: timedelta, reusable: bool = False
) -> str:
    """A link's token: it signs its holder in, once or until it expires."""
    token = new_token()
    session.add(
        SignInLink(
            token_hash=hash_token(token),
            user_id=user.id,
            reusable=reusable,
            expires_at=utc_now() + lifetime,
        )
    )
    await session.flush()
    return token


async def note_spent_link(session: AsyncSession, token: str, source: str) -> None:
    """Write into the audit log that a link was tried in vain, and whose it was.

    One that nobody was ever sent is no door that was tried: programs ask for any address there is.
    """
    link = await queries.get_link_for_update(session, hash_token(token))
    if link is not None:
        await record(session, None, "sign_in.failure", link.user.email, source=source, by="link")


async def is_reusable_link(session: AsyncSession, token: str) -> bool:
    """Whether following this link uses it up (an unknown one does: the person shall be asked)."""
    link = await queries.get_link_for_update(session, hash_token(token))
    return link is not None and link.reusable


async def use_sign_in_link(
    session: AsyncSession, token: str, *, days: int, source: str
) -> tuple[User, str]:
    """The person of a link and a new session's token. Raises NotSignedIn for a spent link."""
    link = await queries.get_link_for_update(session, hash_token(token))
    now = utc_now()
    spent = link is None or link.expires_at <= now or (link.used_at and not link.reusable)
    if link is None or spent or link.user.disabled_at is not None:
        raise NotSignedIn("This sign-in link has expired or was used already", field="link")
    link.used_at = now
    await record(session, link.user.id, "sign_in", link.user.email, source=source, by="link")
    return link.user, await create_session(session, link.user, days=days)


async def create_api_token(
    session: AsyncSession,
    user: User,
    *,
    name: str = "",
    scopes: Collection[Scope] = tuple(Scope),
    lifetime: timedelta | None = None,
) -> str:
    """A new API token, to be shown once. Raises InvalidInput for one that could do nothing."""
    if not scopes:
        raise InvalidInput("Choose what the token may do", field="scopes")
    token = API_TOKEN_PREFIX + new_token()
    session.add(
        ApiToken(
            token_hash=hash_token(token),
            prefix=token[: len(API_TOKEN_PREFIX) + 6],
            name=name.strip()[:100],
            scopes=[scope.value for scope in Scope if scope in scopes],
            expires_at=None if lifetime is None else utc_now() + lifetime,
            user_id=user.id,
        )
    )
    await record(session, user.id, "token.create", user.email, name=name, scopes=sorted(scopes))
    return token


async def revoke_api_token(session: AsyncSession, user: User, token_id: uuid.UUID) -> None:
    """Make a token of this person's worthless. Raises NotFound."""
    token = await session.get(ApiToken, token_id)
    if token is None or token.user_id != user.id or token.revoked_at is not None:
        raise NotFound("You have no such token", field="token")
    token.revoked_at = utc_now()
    await record(session, user.id, "token.revoke", user.email, name=token.name)
