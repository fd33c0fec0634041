"""Exports: immutable snapshots of what was collected."""

import uuid
from enum import StrEnum

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.datasets.format import Manifest
from app.db.base import Base
from app.db.types import CreatedAt, Id, JsonObject, Moment, choice


class ExportState(StrEnum):
    """Where an export stands."""

    PENDING = "pending"
    READY = "ready"
    FAILED = "failed"


class Export(Base):
    """A directory of files with hashes, made once from a filter and a split rule."""

    __tablename__ = "exports"

    id: Mapped[Id]
    project_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(200))
    filters: Mapped[JsonObject]
    # {train, validation, test, seed}: shares that add up to 1, and what varies the hash.
    split: Mapped[JsonObject]
    state: Mapped[ExportState] = mapped_column(
        choice(ExportState), default=ExportState.PENDING, server_default="pending"
    )
    manifest: Mapped[Manifest | None] = mapped_column(JSONB)
    content_hash: Mapped[str | None] = mapped_column(String(64))
    path: Mapped[str | None] = mapped_column(Text)
    error: Mapped[str | None] = mapped_column(Text)
    created_by: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("users.id", ondelete="SET NULL")
    )
    created_at: Mapped[CreatedAt]
    finished_at: Mapped[Moment | None]

    __table_args__ = (Index("ix_exports_project_id_id", "project_id", "id"),)
