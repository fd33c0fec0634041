"""Projects say how responses are shown at first

Revision: 0010, after 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A migration that cannot have its lock soon must not queue everybody else behind it.
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.add_column(
        "projects",
        sa.Column("first_view", sa.String(16), server_default="rendered", nullable=False),
    )
    op.create_check_constraint(
        op.f("ck_projects_first_view"), "projects", "first_view IN ('rendered', 'source')"
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.drop_constraint(op.f("ck_projects_first_view"), "projects", type_="check")
    op.drop_column("projects", "first_view")
