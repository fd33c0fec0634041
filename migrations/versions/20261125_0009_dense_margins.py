"""Margins are by dense ranks; a ranking says where they are not

Revision: 0009, after 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.add_column(
        "rankings",
        sa.Column("keep_gaps", sa.Boolean(), server_default="false", nullable=False),
    )
    # Comparisons that are there stay what they were, and exports that were made of them stay right: a
    # ranking whose ranks have a gap says that its margins were counted with it.
    op.execute(
        """
        UPDATE rankings SET keep_gaps = true
        WHERE (SELECT max(given.rank::int) > count(DISTINCT given.rank::int)
               FROM jsonb_each_text(rankings.ranks) AS given (candidate, rank))
        """
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.drop_column("rankings", "keep_gaps")
