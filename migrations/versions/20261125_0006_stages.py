"""Which stages there are, the trainer says; a run carries what its stage is called, makes and draws

Revision: 0006, after 0005
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# The stages that there were: what the application before knows.
TITLES = {
    "sft": "Supervised fine-tuning",
    "reward": "Reward model",
    "ppo": "PPO",
    "rloo": "RLOO",
    "dpo": "DPO",
}


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.drop_constraint(op.f("ck_runs_stage"), "runs", type_="check")
    op.add_column(
        "runs",
        sa.Column("catalogue", postgresql.JSONB(), server_default="{}", nullable=False),
    )
    for stage, title in TITLES.items():
        makes = "reward" if stage == "reward" else "policy"
        op.execute(
            sa.text(
                "UPDATE runs SET catalogue = jsonb_build_object('title', CAST(:title AS text), "
                "'makes', CAST(:makes AS text)) WHERE stage = :stage"
            ).bindparams(title=title, makes=makes, stage=stage)
        )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    # Of the stages that the application before knows, the nearest is one that makes the same.
    op.execute(
        sa.text(
            "UPDATE runs SET stage = CASE catalogue->>'makes' WHEN 'reward' THEN 'reward' "
            "ELSE 'sft' END WHERE stage != ALL (:known)"
        ).bindparams(known=list(TITLES))
    )
    known = ", ".join(f"'{stage}'" for stage in TITLES)
    op.create_check_constraint(op.f("ck_runs_stage"), "runs", f"stage IN ({known})")
    op.drop_column("runs", "catalogue")
