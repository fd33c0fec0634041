"""Keys of models' servers are in variables of one prefix

Revision: 0005, after 0004
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A policy never changes under its name, so those that are there get the new name of their variable. The
    # worker says which one it misses until it has it.
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute(
        """
        UPDATE policies SET api_key_variable = left('PLACKETT_KEY_' || api_key_variable, 93)
        WHERE api_key_variable NOT LIKE 'PLACKETT_KEY\\_%'
        """
    )


def downgrade() -> None:
    pass  # the application before takes any name
