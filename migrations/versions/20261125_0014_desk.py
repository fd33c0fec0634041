"""What raters saw, put off and noted

Revision: 0014, after 0013
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    for name in ("require_seen", "show_gold_results"):
        op.add_column(
            "projects", sa.Column(name, sa.Boolean(), server_default=sa.false(), nullable=False)
        )
    # Of rankings before this, nobody knows.
    op.add_column("rankings", sa.Column("seen", postgresql.ARRAY(sa.Uuid())))
    op.add_column("assignments", sa.Column("deferred_at", sa.DateTime(timezone=True)))
    op.create_index(
        "ix_assignments_deferred",
        "assignments",
        ["project_id", "rater_id", "deferred_at"],
        postgresql_where=sa.text("state = 'expired' AND deferred_at IS NOT NULL"),
    )
    op.create_table(
        "task_notes",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("rater_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.func.now(),
            nullable=False,
        ),
        sa.Column("resolved_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint(
            "kind IN ('ambiguous', 'broken', 'other')", name=op.f("ck_task_notes_notekind")
        ),
        sa.ForeignKeyConstraint(
            ["project_id"],
            ["projects.id"],
            name=op.f("fk_task_notes_project_id_projects"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["task_id"], ["tasks.id"], name=op.f("fk_task_notes_task_id_tasks"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["rater_id"], ["users.id"], name=op.f("fk_task_notes_rater_id_users")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_task_notes")),
    )
    op.create_index("ix_task_notes_project_id_id", "task_notes", ["project_id", "id"])
    op.create_index(op.f("ix_task_notes_task_id"), "task_notes", ["task_id"])


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.drop_table("task_notes")
    op.drop_index("ix_assignments_deferred", table_name="assignments")
    op.drop_column("assignments", "deferred_at")
    op.drop_column("rankings", "seen")
    op.drop_column("projects", "show_gold_results")
    op.drop_column("projects", "require_seen")
