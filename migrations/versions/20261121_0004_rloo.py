"""RLOO is a stage of its own

Revision: 0004, after 0003
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _allow("'sft', 'reward', 'ppo', 'rloo', 'dpo'")


def downgrade() -> None:
    # The application before knows no such stage; of those it knows, this one is the nearest.
    op.execute("UPDATE runs SET stage = 'ppo' WHERE stage = 'rloo'")
    _allow("'sft', 'reward', 'ppo', 'dpo'")


def _allow(stages: str) -> None:
    # A migration that cannot have its lock soon must not queue everybody else behind it.
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.drop_constraint(op.f("ck_runs_stage"), "runs", type_="check")
    op.create_check_constraint(op.f("ck_runs_stage"), "runs", f"stage IN ({stages})")
