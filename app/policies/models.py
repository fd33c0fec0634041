"""The registry of models that can speak: where each one lives and what trained it."""

import uuid
from enum import StrEnum

from sqlalchemy import ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.db.types import CreatedAt, Id, JsonObject, Moment, choice


class Backend(StrEnum):
    """How a policy is asked to speak."""

    TRANSFORMERS = "transformers"
    OPENAI = "openai"
    # Its responses came along with imported prompts; it cannot be asked for more.
    IMPORTED = "imported"


class Policy(Base):
    """A model under a name. Registered once; what it is never changes under the same name."""

    __tablename__ = "policies"

    id: Mapped[Id]
    name: Mapped[str] = mapped_column(String(200), unique=True)
    backend: Mapped[Backend] = mapped_column(choice(Backend))
    # A path or hub id (transformers), or the model's name at the server (openai).
    model: Mapped[str] = mapped_column(Text, default="", server_default="")
    base_url: Mapped[str | None] = mapped_column(Text)
    # The name of the environment variable that holds the server's key; never the key itself.
    api_key_variable: Mapped[str | None] = mapped_column(String(100))
    parent_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("policies.id"))
    # The training run that made it. Runs live in a room above, so this is no foreign key.
    run_id: Mapped[uuid.UUID | None]
    # The project of that run: who does not see the one does not see the other.
    project_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("projects.id", ondelete="SET NULL")
    )
    notes: Mapped[JsonObject]
    retired_at: Mapped[Moment | None]
    created_at: Mapped[CreatedAt]


class ProjectPolicy(Base):
    """A policy that writes candidates for a project; candidates are dealt round-robin."""

    __tablename__ = "project_policies"

    project_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True
    )
    policy_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("policies.id"), primary_key=True)
    created_at: Mapped[CreatedAt]
