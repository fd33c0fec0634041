"""What the generation worker tried, and what came of it."""

import uuid

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.db.types import CreatedAt, Id


class GenerationFailure(Base):
    """One failed try to write a prompt's candidates: the progress page tells why from these."""

    __tablename__ = "generation_failures"

    id: Mapped[Id]
    prompt_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("prompts.id", ondelete="CASCADE"), index=True
    )
    project_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    policy_name: Mapped[str] = mapped_column(String(200), default="", server_default="")
    attempt: Mapped[int]
    message: Mapped[str] = mapped_column(Text)
    created_at: Mapped[CreatedAt]

    __table_args__ = (Index("ix_generation_failures_project_id_id", "project_id", "id"),)
