"""columns and states of rating have the words that the code uses

Revision: 0007, after 0006
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# (table, the name before, the name now)
COLUMNS = (
    ("assignments", "ahead", "prefetched"),
    ("assignments", "test", "qualification"),
    ("rankings", "extra", "surplus"),
)
STATES = "'leased', 'submitted', 'skipped', 'expired'"


def upgrade() -> None:
    # A migration that cannot have its lock soon must not queue everybody else behind it.
    op.execute("SET LOCAL lock_timeout = '10s'")
    # Indexes follow a column's new name by themselves.
    for table, before, now in COLUMNS:
        op.alter_column(table, before, new_column_name=now)
    _rename_state("extra", "surplus")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    for table, before, now in COLUMNS:
        op.alter_column(table, now, new_column_name=before)
    _rename_state("surplus", "extra")


def _rename_state(before: str, now: str) -> None:
    name = op.f("ck_assignments_assignmentstate")
    op.drop_constraint(name, "assignments", type_="check")
    op.execute(f"UPDATE assignments SET state = '{now}' WHERE state = '{before}'")  # noqa: S608
    op.create_check_constraint(name, "assignments", f"state IN ({STATES}, '{now}')")
