"""People, the ways they prove who they are, and the record of what they changed."""

import uuid
from enum import StrEnum

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    String,
    Text,
    func,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.db.base import Base
from app.db.types import CreatedAt, Id, Moment, choice


class Role(StrEnum):
    """What a person may do. An admin may do everything that the other two may."""

    RATER = "rater"
    ADMIN = "admin"
    RESEARCHER = "researcher"


class Scope(StrEnum):
    """What a program's token may do, of what its owner may."""

    RATE = "rate"  # take tasks and rank them
    READ = "read"  # projects, progress, figures, runs
    EXPORT = "export"  # make and download exports, start runs
    ADMIN = "admin"  # make projects, register policies, bring prompts


class Kind(StrEnum):
    """Whose judgement it is: figures about people never mix with the other two unasked."""

    PERSON = "person"
    AI = "ai"
    IMPORTED = "imported"


class User(Base):
    """Somebody who rates, administers or researches, or an imported or artificial rater."""

    __tablename__ = "users"

    id: Mapped[Id]
    email: Mapped[str] = mapped_column(String(320))
    name: Mapped[str] = mapped_column(String(200), default="", server_default="")
    role: Mapped[Role] = mapped_column(choice(Role))
    kind: Mapped[Kind] = mapped_column(choice(Kind), default=Kind.PERSON, server_default="person")
    password_hash: Mapped[str | None] = mapped_column(Text)
    disabled_at: Mapped[Moment | None]
    created_at: Mapped[CreatedAt]

    __table_args__ = (Index("uq_users_email_lower", func.lower(email), unique=True),)

    @property
    def display_name(self) -> str:
        """The name, or the address where no name was given."""
        return self.name or self.email


class SignInSession(Base):
    """A browser that is signed in. The cookie holds a token; only its hash is stored."""

    __tablename__ = "sign_in_sessions"

    id: Mapped[Id]
    token_hash: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    csrf_token: Mapped[str] = mapped_column(String(64))
    user_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), index=True
    )
    expires_at: Mapped[Moment] = mapped_column(index=True)
    created_at: Mapped[CreatedAt]

    user: Mapped[User] = relationship(lazy="joined", innerjoin=True)


class ApiToken(Base):
    """A program's key. Shown once when it is made; only its hash is stored."""

    __tablename__ = "api_tokens"

    id: Mapped[Id]
    token_hash: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    prefix: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(100), default="", server_default="")
    scopes: Mapped[list[str]] = mapped_column(ARRAY(String(16)))
    expires_at: Mapped[Moment | None]
    user_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), index=True
    )
    last_used_at: Mapped[Moment | None]
    revoked_at: Mapped[Moment | None]
    created_at: Mapped[CreatedAt]

    user: Mapped[User] = relationship(lazy="joined", innerjoin=True)

    __table_args__ = (
        CheckConstraint("scopes <@ ARRAY['rate', 'read', 'export', 'admin']::varchar[]", "scopes"),
    )


class SignInLink(Base):
    """A link that signs its holder in: an invitation (once), or the demo's (until it expires)."""

    __tablename__ = "sign_in_links"

    id: Mapped[Id]
    token_hash: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    user_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), index=True
    )
    reusable: Mapped[bool] = mapped_column(default=False, server_default="false")
    expires_at: Mapped[Moment]
    used_at: Mapped[Moment | None]
    created_at: Mapped[CreatedAt]

    user: Mapped[User] = relationship(lazy="joined", innerjoin=True)


class SignInFailure(Base):
    """A sign-in that failed, under a hash of whom or where it was tried for. Kept for a day."""

    __tablename__ = "sign_in_failures"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    key: Mapped[bytes] = mapped_column(LargeBinary(32))
    at: Mapped[CreatedAt]

    __table_args__ = (
        Index("ix_sign_in_failures_key_at", "key", "at"),
        Index("ix_sign_in_failures_at", "at"),
    )


class AuditEntry(Base):
    """One change that somebody made: who, what, to which thing, when."""

    __tablename__ = "audit_log"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    at: Mapped[CreatedAt]
    actor_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("users.id", ondelete="SET NULL"), index=True
    )
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(200), default="", server_default="")
    detail: Mapped[dict[str, object]] = mapped_column(JSONB, default=dict, server_default="{}")

    actor: Mapped[User | None] = relationship(lazy="raise")

    __table_args__ = (
        Index("ix_audit_log_subject_id", "subject", "id"),
        Index("ix_audit_log_action_id", "action", "id"),
    )
