"""API tokens have scopes and an end

Revision: 0008, after 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    # Tokens that are there keep what they could do; new ones are given what they are made for.
    op.add_column(
        "api_tokens",
        sa.Column(
            "scopes",
            sa.ARRAY(sa.String(16)),
            nullable=False,
            server_default="{rate,read,export,admin}",
        ),
    )
    op.alter_column("api_tokens", "scopes", server_default=None)
    op.add_column("api_tokens", sa.Column("expires_at", sa.DateTime(timezone=True)))
    op.create_check_constraint(
        op.f("ck_api_tokens_scopes"),
        "api_tokens",
        "scopes <@ ARRAY['rate', 'read', 'export', 'admin']::varchar[]",
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    # The application before knows neither: a token that could do less must not be able to do more.
    op.execute(
        """
        UPDATE api_tokens SET revoked_at = now()
        WHERE revoked_at IS NULL
          AND (expires_at IS NOT NULL OR NOT scopes @> '{rate,read,export,admin}'::varchar[])
        """
    )
    op.drop_constraint(op.f("ck_api_tokens_scopes"), "api_tokens", type_="check")
    op.drop_column("api_tokens", "expires_at")
    op.drop_column("api_tokens", "scopes")
