"""Tasks, assignments (leases), rankings and comparisons; who has read the rules and qualified.

States of an assignment, and what moves it from one to the next:

| from      | event                              | to        | the task's slot                      |
| --------- | ---------------------------------- | --------- | ------------------------------------ |
| (none)    | a rater leases the task            | leased    | taken: the lowest free number        |
| (none)    | it is prefetched, for afterwards    | leased    | taken; `prefetched` until its turn    |
| leased    | the ranking arrives                | submitted | kept for good                        |
| leased    | the rater skips                    | skipped   | free again                           |
| leased    | the lease runs out                 | expired   | free again                           |
| leased    | the rater puts it off              | expired   | free again; `deferred_at` is set      |
| expired   | the same rater leases it again     | leased    | taken                                |
| expired   | a late ranking, a slot still free  | submitted | taken, and kept                      |
| expired   | a late ranking, no slot free       | surplus   | none: a surplus ranking, marked      |
| expired   | the rater skips it                 | skipped   | none was held                        |

`submitted`, `skipped` and `surplus` are final: a repeated submit changes nothing. The database holds
the rules: one assignment for each task and rater, one holder for each slot, one lease for each rater
and project (and one prefetched), and a task's count of open slots never below zero nor above its overlap.

A stored ranking may be changed by its rater for as long as the project allows; what it said before is
kept as a revision.
"""

import uuid
from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
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

# More raters than any project has: a gold task is for every one of them.
GOLD_SLOTS = 1000


class Task(Base):
    """A prompt with its candidates, waiting for `overlap` different raters."""

    __tablename__ = "tasks"

    id: Mapped[Id]
    project_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    prompt_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("prompts.id", ondelete="CASCADE"), unique=True
    )
    priority: Mapped[int] = mapped_column(default=0, server_default="0")
    overlap: Mapped[int]
    open_slots: Mapped[int]
    gold: Mapped[bool] = mapped_column(default=False, server_default="false")
    # A gold task has slots enough for every rater: `overlap` is GOLD_SLOTS.
    # {candidate_id: rank}, what a gold task's answer should be.
    gold_ranks: Mapped[dict[str, int] | None] = mapped_column(JSONB)
    # Handed out no more, whatever slots are open.
    retired_at: Mapped[Moment | None]
    created_at: Mapped[CreatedAt]

    __table_args__ = (
        CheckConstraint("open_slots BETWEEN 0 AND overlap", name="open_slots"),
        CheckConstraint("overlap >= 0", name="overlap"),
        # The order in which tasks are handed out: urgent ones, then those that few have had, then old ones.
        Index(
            "ix_tasks_open",
            "project_id",
            "gold",
            text("priority DESC"),
            text("(overlap - open_slots)"),
            "id",
            postgresql_where=text("open_slots > 0"),
        ),
    )


class AssignmentState(StrEnum):
    """Where an assignment stands; the module's docstring has the transitions."""

    LEASED = "leased"
    SUBMITTED = "submitted"
    SKIPPED = "skipped"
    EXPIRED = "expired"
    SURPLUS = "surplus"


class Assignment(Base):
    """One rater's hold on one task, with the order in which they see the candidates."""

    __tablename__ = "assignments"

    id: Mapped[Id]
    task_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"))
    project_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    rater_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id"))
    state: Mapped[AssignmentState] = mapped_column(choice(AssignmentState))
    # Leased for afterwards, while the rater is at another task.
    prefetched: Mapped[bool] = mapped_column(default=False, server_default="false")
    # One of the gold tasks of the rater's qualification.
    qualification: Mapped[bool] = mapped_column(default=False, server_default="false")
    slot: Mapped[int | None]
    # Candidate ids in the order shown, shuffled with `seed`.
    presented: Mapped[list[uuid.UUID]] = mapped_column(ARRAY(Uuid))
    seed: Mapped[int] = mapped_column(BigInteger)
    guideline_version: Mapped[int]
    leased_at: Mapped[Moment]
    expires_at: Mapped[Moment]
    finished_at: Mapped[Moment | None]
    skip_reason: Mapped[str | None] = mapped_column(Text)
    # When the rater put it off, to come back to them after some others: expired, until they lease it again.
    deferred_at: Mapped[Moment | None]
    # What the rater has put down so far; survives a reload and an expired lease.
    draft: Mapped[dict[str, object] | None] = mapped_column(JSONB)

    __table_args__ = (
        UniqueConstraint("task_id", "rater_id"),
        CheckConstraint(
            "(slot IS NOT NULL) = (state IN ('leased', 'submitted'))", name="slot_is_held"
        ),
        Index("uq_assignments_slot", "task_id", "slot", unique=True),
        Index(
            "uq_assignments_one_lease",
            "project_id",
            "rater_id",
            "prefetched",
            unique=True,
            postgresql_where=text("state = 'leased'"),
        ),
        Index(
            "ix_assignments_expiry",
            "project_id",
            "expires_at",
            postgresql_where=text("state = 'leased'"),
        ),
        Index("ix_assignments_rater", "rater_id", text("leased_at DESC")),
        Index(
            "ix_assignments_deferred",
            "project_id",
            "rater_id",
            "deferred_at",
            postgresql_where=text("state = 'expired' AND deferred_at IS NOT NULL"),
        ),
    )


class Ranking(Base):
    """What one rater said of one task's candidates. Written once."""

    __tablename__ = "rankings"

    id: Mapped[Id]
    project_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    task_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"))
    assignment_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("assignments.id", ondelete="CASCADE"), unique=True
    )
    rater_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id"))
    # {candidate_id: rank}; 1 is best, equal ranks are ties.
    ranks: Mapped[dict[str, int]] = mapped_column(JSONB)
    # The candidates in the order in which the rater saw them; None where that is not known.
    presented: Mapped[list[uuid.UUID] | None] = mapped_column(ARRAY(Uuid))
    # Those whose end has been on the rater's screen; None where that is not known.
    seen: Mapped[list[uuid.UUID] | None] = mapped_column(ARRAY(Uuid))
    # Whether they did not see who wrote what; None where that is not known.
    blind: Mapped[bool | None]
    # Whether `created_at` is when it was judged, and not just when it came in.
    timed: Mapped[bool] = mapped_column(default=False, server_default="false")
    axes: Mapped[JsonObject]
    flags: Mapped[list[str]] = mapped_column(ARRAY(String(64)), default=list, server_default="{}")
    # Of two candidates, how much better the one is: 1 slightly, 2, 3 much. None where nobody was asked.
    strength: Mapped[int | None]
    rationale: Mapped[str | None] = mapped_column(Text)
    rewrite: Mapped[str | None] = mapped_column(Text)
    seconds: Mapped[float | None]
    # The margins of its comparisons are by the ranks as they were given, not by dense ones.
    keep_gaps: Mapped[bool] = mapped_column(default=False, server_default="false")
    guideline_version: Mapped[int] = mapped_column(default=0, server_default="0")
    # Came after its slot had gone to somebody else: kept, and marked.
    surplus: Mapped[bool] = mapped_column(default=False, server_default="false")
    imported: Mapped[bool] = mapped_column(default=False, server_default="false")
    created_at: Mapped[CreatedAt]
    revised_at: Mapped[Moment | None]

    @property
    def candidate_ids(self) -> list[uuid.UUID]:
        """Its candidates: in the order shown, or by their ids where that is not known."""
        return self.presented or sorted(uuid.UUID(each) for each in self.ranks)

    __table_args__ = (
        UniqueConstraint("task_id", "rater_id"),
        CheckConstraint("strength BETWEEN 1 AND 3", name="strength"),
        Index("ix_rankings_project_id_id", "project_id", "id"),
        Index("ix_rankings_rater_id_id", "rater_id", "id"),
        CheckConstraint("seconds >= 0", name="seconds"),
    )


class Comparison(Base):
    """One pair of a ranking: `better` over `worse`, or a tie of the two (margin 0)."""

    __tablename__ = "comparisons"

    ranking_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("rankings.id", ondelete="CASCADE"), primary_key=True
    )
    better_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("candidates.id"), primary_key=True)
    worse_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("candidates.id"), primary_key=True)
    # How many dense ranks apart, or the strength where one was given: 0 is a tie. See Ranking.keep_gaps.
    margin: Mapped[int]

    __table_args__ = (
        CheckConstraint("margin >= 0", name="margin"),
        CheckConstraint("better_id <> worse_id", name="two_candidates"),
        Index("ix_comparisons_better_id", "better_id"),
        Index("ix_comparisons_worse_id", "worse_id"),
    )


class RankingRevision(Base):
    """What a ranking said before its rater changed it."""

    __tablename__ = "ranking_revisions"

    id: Mapped[Id]
    ranking_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("rankings.id", ondelete="CASCADE"))
    # {ranks, strength, axes, flags, rationale, rewrite, seconds, keep_gaps}
    content: Mapped[JsonObject]
    replaced_at: Mapped[CreatedAt]

    __table_args__ = (Index("ix_ranking_revisions_ranking_id", "ranking_id"),)


class NoteKind(StrEnum):
    """What a rater has to say of a task."""

    AMBIGUOUS = "ambiguous"
    BROKEN = "broken"
    OTHER = "other"


class TaskNote(Base):
    """A rater's note to the admins about a task: it can be ranked, skipped or put off all the same."""

    __tablename__ = "task_notes"

    id: Mapped[Id]
    project_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    task_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"))
    rater_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id"))
    kind: Mapped[NoteKind] = mapped_column(choice(NoteKind))
    text: Mapped[str] = mapped_column(Text)
    created_at: Mapped[CreatedAt]
    # When an admin was done with it.
    resolved_at: Mapped[Moment | None]

    __table_args__ = (
        Index("ix_task_notes_project_id_id", "project_id", "id"),
        Index("ix_task_notes_task_id", "task_id"),
    )


class GuidelineReading(Base):
    """The newest version of a project's guidelines that a rater says they have read."""

    __tablename__ = "guideline_readings"

    project_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True
    )
    rater_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True
    )
    version: Mapped[int]
    read_at: Mapped[CreatedAt]


class QualificationState(StrEnum):
    """How a rater's qualification came out. Nobody has a row before its end."""

    PASSED = "passed"
    FAILED = "failed"


class Qualification(Base):
    """A rater's finished qualification on a project's gold tasks."""

    __tablename__ = "qualifications"

    project_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True
    )
    rater_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True
    )
    state: Mapped[QualificationState] = mapped_column(choice(QualificationState))
    # The share of pairs that came out as the gold ranks have them; None where an admin let them pass.
    accuracy: Mapped[float | None]
    decided_at: Mapped[CreatedAt]
