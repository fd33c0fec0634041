"""Projects have members

Revision: 0013, after 0012

Whoever could see a project still does: it stays open to everybody, and everybody is its member, so that
closing it later shuts nobody out. On the way back a project that is closed is paused, for then every rater
would get its tasks.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.add_column(
        "projects",
        sa.Column("members_only", sa.Boolean(), server_default=sa.false(), nullable=False),
    )
    op.create_table(
        "memberships",
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.func.now(),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["project_id"],
            ["projects.id"],
            name=op.f("fk_memberships_project_id_projects"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["users.id"],
            name=op.f("fk_memberships_user_id_users"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("project_id", "user_id", name=op.f("pk_memberships")),
    )
    op.create_index(op.f("ix_memberships_user_id"), "memberships", ["user_id"])
    op.execute(
        "INSERT INTO memberships (project_id, user_id) "
        "SELECT projects.id, users.id FROM projects CROSS JOIN users WHERE users.kind = 'person'"
    )
    # The project of the run that made a policy: who does not see the one does not see the other.
    op.add_column("policies", sa.Column("project_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(
        op.f("fk_policies_project_id_projects"),
        "policies",
        "projects",
        ["project_id"],
        ["id"],
        ondelete="SET NULL",
    )
    op.execute(
        "UPDATE policies SET project_id = runs.project_id FROM runs WHERE runs.id = policies.run_id"
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute("UPDATE projects SET paused = true WHERE members_only")
    op.drop_column("policies", "project_id")
    op.drop_table("memberships")
    op.drop_column("projects", "members_only")
