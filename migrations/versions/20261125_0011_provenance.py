"""A ranking says how it came about: what is not known is not made up

Revision: 0011, after 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.alter_column("rankings", "presented", nullable=True)
    op.add_column("rankings", sa.Column("blind", sa.Boolean()))
    op.add_column(
        "rankings", sa.Column("timed", sa.Boolean(), server_default="false", nullable=False)
    )
    # Who was asked here saw the order that was drawn and no policy. A model was told no policy either,
    # but asked about pairs both ways round. Of an import nothing is known: its order was the file's.
    op.execute("UPDATE rankings SET blind = true, timed = true WHERE NOT imported")
    op.execute("UPDATE rankings SET presented = NULL WHERE assignment_id IS NULL")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    # The application before takes the candidates' own order where it knows none.
    op.execute(
        """
        UPDATE rankings
        SET presented = ARRAY(SELECT candidate.id FROM candidates AS candidate
                              JOIN tasks AS task ON task.prompt_id = candidate.prompt_id
                              WHERE task.id = rankings.task_id ORDER BY candidate.position)
        WHERE presented IS NULL
        """
    )
    op.drop_column("rankings", "timed")
    op.drop_column("rankings", "blind")
    op.alter_column("rankings", "presented", nullable=False)
