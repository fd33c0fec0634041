"""Prompts, the candidates that answer them, and the files they came in."""

import uuid
from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.db.types import CreatedAt, Id, JsonObject, Moment, choice


class PromptState(StrEnum):
    """Where a prompt stands on its way to raters."""

    QUEUED = "queued"  # waits for the worker
    GENERATING = "generating"  # a worker holds it until claimed_until
    READY = "ready"  # has its candidates
    FAILED = "failed"  # given up, for the reason in `failure`


class PromptImport(Base):
    """One file or request that brought prompts in, and what became of its rows."""

    __tablename__ = "prompt_imports"

    id: Mapped[Id]
    project_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("projects.id", ondelete="CASCADE"), index=True
    )
    source: Mapped[str] = mapped_column(String(300), default="", server_default="")
    created_by: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("users.id", ondelete="SET NULL")
    )
    accepted: Mapped[int] = mapped_column(default=0)
    duplicates: Mapped[int] = mapped_column(default=0)
    # [{line, field, message}], the first hundred of them; rejected_count has them all.
    rejected: Mapped[list[dict[str, object]]] = mapped_column(
        JSONB, default=list, server_default="[]"
    )
    rejected_count: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[CreatedAt]


class Prompt(Base):
    """A conversation that waits for, or has, candidate responses."""

    __tablename__ = "prompts"

    id: Mapped[Id]
    project_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    import_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("prompt_imports.id", ondelete="SET NULL")
    )
    # The sender's own id: importing it twice adds it once.
    external_id: Mapped[str | None] = mapped_column(String(200))
    messages: Mapped[list[dict[str, str]]] = mapped_column(JSONB)
    # SHA-256 of the canonical messages: what train, validation and test are split by.
    content_hash: Mapped[bytes] = mapped_column(LargeBinary(32))
    priority: Mapped[int] = mapped_column(default=0, server_default="0")
    # `metadata` in the import format; SQLAlchemy keeps that attribute name for itself.
    extra: Mapped[JsonObject] = mapped_column("metadata")
    state: Mapped[PromptState] = mapped_column(choice(PromptState))
    # How many candidates to write, and by whom; unset, the project's settings hold.
    wanted: Mapped[int | None]
    policy_ids: Mapped[list[uuid.UUID] | None] = mapped_column(ARRAY(Uuid))
    attempts: Mapped[int] = mapped_column(default=0, server_default="0")
    # While queued: not before this moment. While generating: a stalled claim ends here.
    due_at: Mapped[Moment | None]
    claimed_until: Mapped[Moment | None]
    failure: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[CreatedAt]

    __table_args__ = (
        UniqueConstraint("project_id", "external_id"),
        CheckConstraint("wanted BETWEEN 2 AND 9", name="wanted"),
        Index("ix_prompts_project_id_state", "project_id", "state"),
        Index("ix_prompts_project_id_id", "project_id", "id"),
        Index(
            "ix_prompts_waiting",
            "project_id",
            text("priority DESC"),
            "id",
            postgresql_where=text("state IN ('queued', 'generating')"),
        ),
    )


class Candidate(Base):
    """One response to a prompt. Its id is random, so that it tells a rater nothing."""

    __tablename__ = "candidates"

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True, default=uuid.uuid4)
    prompt_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("prompts.id", ondelete="CASCADE"))
    position: Mapped[int]
    text: Mapped[str] = mapped_column(Text)
    policy_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("policies.id"), index=True)
    # {temperature, top_p, max_new_tokens}; seed, finish reason and counts have their own columns.
    sampling: Mapped[JsonObject]
    seed: Mapped[int | None] = mapped_column(BigInteger)
    finish_reason: Mapped[str | None] = mapped_column(String(32))
    prompt_tokens: Mapped[int | None]
    completion_tokens: Mapped[int | None]
    # The position of an earlier candidate with the same text, where resampling did not help.
    duplicate_of: Mapped[int | None]
    created_at: Mapped[CreatedAt]

    __table_args__ = (UniqueConstraint("prompt_id", "position"),)
