"""leases ahead, gold at a rate, qualification, revisions, readings, failed sign-ins

Revision: 0003, after 0002
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

GOLD_SLOTS = 1000


def upgrade() -> None:
    # A migration that cannot have its lock soon must not queue everybody else behind it.
    op.execute("SET LOCAL lock_timeout = '10s'")
    for column in (
        sa.Column("edit_seconds", sa.Integer(), server_default="900", nullable=False),
        sa.Column("gold_rate", sa.Float(), server_default="0.05", nullable=False),
        sa.Column("qualification_tasks", sa.Integer(), server_default="0", nullable=False),
        sa.Column("qualification_accuracy", sa.Float(), server_default="0.75", nullable=False),
    ):
        op.add_column("projects", column)
    for name, condition in (
        ("edit_seconds", "edit_seconds BETWEEN 0 AND 604800"),
        ("gold_rate", "gold_rate BETWEEN 0 AND 1"),
        ("qualification_tasks", "qualification_tasks BETWEEN 0 AND 100"),
        ("qualification_accuracy", "qualification_accuracy BETWEEN 0 AND 1"),
    ):
        op.create_check_constraint(op.f(f"ck_projects_{name}"), "projects", condition)
    for name in ("ahead", "test"):
        op.add_column(
            "assignments", sa.Column(name, sa.Boolean(), server_default="false", nullable=False)
        )
    op.drop_index("uq_assignments_one_lease", table_name="assignments")
    op.create_index(
        "uq_assignments_one_lease",
        "assignments",
        ["project_id", "rater_id", "ahead"],
        unique=True,
        postgresql_where=sa.text("state = 'leased'"),
    )
    op.add_column("rankings", sa.Column("strength", sa.Integer(), nullable=True))
    op.create_check_constraint(op.f("ck_rankings_strength"), "rankings", "strength BETWEEN 1 AND 3")
    op.add_column("rankings", sa.Column("revised_at", sa.DateTime(timezone=True), nullable=True))
    # Gold tasks are for every rater, not for the first few.
    op.execute(
        f"UPDATE tasks SET open_slots = open_slots + {GOLD_SLOTS} - overlap, overlap = {GOLD_SLOTS} "  # noqa: S608
        f"WHERE gold AND overlap < {GOLD_SLOTS}"
    )
    op.drop_index("ix_tasks_open", table_name="tasks")
    op.create_index(
        "ix_tasks_open",
        "tasks",
        ["project_id", "gold", sa.text("priority DESC"), sa.text("(overlap - open_slots)"), "id"],
        postgresql_where=sa.text("open_slots > 0"),
    )
    op.create_table(
        "ranking_revisions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("ranking_id", sa.Uuid(), nullable=False),
        sa.Column(
            "content", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False
        ),
        sa.Column(
            "replaced_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["ranking_id"],
            ["rankings.id"],
            name=op.f("fk_ranking_revisions_ranking_id_rankings"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ranking_revisions")),
    )
    op.create_index("ix_ranking_revisions_ranking_id", "ranking_revisions", ["ranking_id"])
    op.create_table(
        "guideline_readings",
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("rater_id", sa.Uuid(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column(
            "read_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["project_id"],
            ["projects.id"],
            name=op.f("fk_guideline_readings_project_id_projects"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["rater_id"],
            ["users.id"],
            name=op.f("fk_guideline_readings_rater_id_users"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("project_id", "rater_id", name=op.f("pk_guideline_readings")),
    )
    op.create_table(
        "qualifications",
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("rater_id", sa.Uuid(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "passed",
                "failed",
                name="qualificationstate",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("accuracy", sa.Float(), nullable=True),
        sa.Column(
            "decided_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["project_id"],
            ["projects.id"],
            name=op.f("fk_qualifications_project_id_projects"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["rater_id"],
            ["users.id"],
            name=op.f("fk_qualifications_rater_id_users"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("project_id", "rater_id", name=op.f("pk_qualifications")),
    )
    op.create_table(
        "sign_in_failures",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("key", sa.LargeBinary(length=32), nullable=False),
        sa.Column(
            "at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sign_in_failures")),
    )
    op.create_index("ix_sign_in_failures_key_at", "sign_in_failures", ["key", "at"])
    op.create_index("ix_sign_in_failures_at", "sign_in_failures", ["at"])


def downgrade() -> None:
    op.drop_table("sign_in_failures")
    for table in ("qualifications", "guideline_readings", "ranking_revisions"):
        op.drop_table(table)
    op.drop_index("ix_tasks_open", table_name="tasks")
    op.create_index(
        "ix_tasks_open",
        "tasks",
        ["project_id", sa.text("priority DESC"), "id"],
        postgresql_where=sa.text("open_slots > 0"),
    )
    op.drop_column("rankings", "revised_at")
    op.drop_column("rankings", "strength")
    # One lease for each rater and project again: what was fetched ahead goes back.
    op.execute(
        "WITH back AS (UPDATE assignments SET state = 'expired', slot = NULL "
        "WHERE state = 'leased' AND ahead RETURNING task_id) "
        "UPDATE tasks SET open_slots = open_slots + 1 FROM back WHERE back.task_id = tasks.id"
    )
    op.drop_index("uq_assignments_one_lease", table_name="assignments")
    op.create_index(
        "uq_assignments_one_lease",
        "assignments",
        ["project_id", "rater_id"],
        unique=True,
        postgresql_where=sa.text("state = 'leased'"),
    )
    op.drop_column("assignments", "test")
    op.drop_column("assignments", "ahead")
    for name in ("qualification_accuracy", "qualification_tasks", "gold_rate", "edit_seconds"):
        op.drop_column("projects", name)
