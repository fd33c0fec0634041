"""Projects: what is asked of raters, how often, and by which rules."""

import secrets
import uuid

from sqlalchemy import CheckConstraint, ForeignKey, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.db.types import CreatedAt, Id, JsonList, JsonObject


def _salt() -> bytes:
    return secrets.token_bytes(32)


class Project(Base):
    """A collection of prompts that one group of raters ranks under one set of guidelines."""

    __tablename__ = "projects"

    id: Mapped[Id]
    slug: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str] = mapped_column(String(200))
    description: Mapped[str] = mapped_column(Text, default="", server_default="")
    candidates_per_task: Mapped[int] = mapped_column(default=4, server_default="4")
    overlap: Mapped[int] = mapped_column(default=1, server_default="1")
    lease_seconds: Mapped[int] = mapped_column(default=1800, server_default="1800")
    # How long a rater may change a stored ranking; 0 forbids it.
    edit_seconds: Mapped[int] = mapped_column(default=900, server_default="900")
    # The share of a rater's tasks that are gold ones, as long as both kinds are left for them.
    gold_rate: Mapped[float] = mapped_column(default=0.05, server_default="0.05")
    # Gold tasks that a rater must answer before the others (0: none), and the share of their pairs
    # that must come out right.
    qualification_tasks: Mapped[int] = mapped_column(default=0, server_default="0")
    qualification_accuracy: Mapped[float] = mapped_column(default=0.75, server_default="0.75")
    # How responses are shown at first; a rater may switch each of them, or all.
    first_view: Mapped[str] = mapped_column(
        String(16), default="rendered", server_default="rendered"
    )
    # Whether the page waits with a ranking until the end of each response has been on the screen.
    require_seen: Mapped[bool] = mapped_column(default=False, server_default="false")
    # Whether raters are told how their answers to gold tasks came out, all together.
    show_gold_results: Mapped[bool] = mapped_column(default=False, server_default="false")
    # [{name, question, min, max, per}]: scored for the best response, or for each one.
    axes: Mapped[JsonList]
    # [{name, label}]: what a rater may mark a task with.
    flags: Mapped[JsonList]
    # {temperature, max_new_tokens, top_p}: how candidates are sampled.
    sampling: Mapped[JsonObject]
    paused: Mapped[bool] = mapped_column(default=False, server_default="false")
    # Whether its members alone see it, and admins; otherwise everybody does who is signed in.
    members_only: Mapped[bool] = mapped_column(default=False, server_default="false")
    guideline_version: Mapped[int] = mapped_column(default=0, server_default="0")
    # Makes raters' pseudonyms stable within the project and meaningless outside it.
    pseudonym_salt: Mapped[bytes] = mapped_column(LargeBinary(32), default=_salt)
    created_at: Mapped[CreatedAt]

    __table_args__ = (
        CheckConstraint("candidates_per_task BETWEEN 2 AND 9", name="candidates_per_task"),
        CheckConstraint("overlap BETWEEN 1 AND 100", name="overlap"),
        CheckConstraint("lease_seconds BETWEEN 1 AND 604800", name="lease_seconds"),
        CheckConstraint("edit_seconds BETWEEN 0 AND 604800", name="edit_seconds"),
        CheckConstraint("gold_rate BETWEEN 0 AND 1", name="gold_rate"),
        CheckConstraint("qualification_tasks BETWEEN 0 AND 100", name="qualification_tasks"),
        CheckConstraint("qualification_accuracy BETWEEN 0 AND 1", name="qualification_accuracy"),
        CheckConstraint("first_view IN ('rendered', 'source')", name="first_view"),
    )


class Membership(Base):
    """Somebody who sees a project that is closed to others. What they may do there, their role says."""

    __tablename__ = "memberships"

    project_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True
    )
    user_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    created_at: Mapped[CreatedAt]


class Guideline(Base):
    """One version of a project's instructions to raters, in Markdown. Never edited."""

    __tablename__ = "guidelines"

    id: Mapped[Id]
    project_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    version: Mapped[int]
    text: Mapped[str] = mapped_column(Text)
    created_by: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("users.id", ondelete="SET NULL")
    )
    created_at: Mapped[CreatedAt]

    __table_args__ = (UniqueConstraint("project_id", "version"),)


DEFAULT_SAMPLING: dict[str, object] = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 256}
