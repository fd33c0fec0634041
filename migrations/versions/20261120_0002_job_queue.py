"""The job queue's own tables and functions (Procrastinate 3).

Revision: 0002, after 0001
"""

from alembic import op
from procrastinate.schema import SchemaManager

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

DROP = """
DO $$
DECLARE name text;
BEGIN
    FOR name IN
        SELECT quote_ident(tablename) FROM pg_tables
        WHERE schemaname = current_schema() AND tablename LIKE 'procrastinate\\_%'
    LOOP
        EXECUTE 'DROP TABLE ' || name || ' CASCADE';
    END LOOP;
    FOR name IN
        SELECT p.oid::regprocedure::text FROM pg_proc p
        JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = current_schema() AND p.proname LIKE 'procrastinate\\_%'
    LOOP
        EXECUTE 'DROP FUNCTION ' || name || ' CASCADE';
    END LOOP;
    FOR name IN
        SELECT t.oid::regtype::text FROM pg_type t
        JOIN pg_namespace n ON n.oid = t.typnamespace
        WHERE n.nspname = current_schema() AND t.typname LIKE 'procrastinate\\_%'
          AND t.typtype IN ('e', 'c')
    LOOP
        EXECUTE 'DROP TYPE ' || name || ' CASCADE';
    END LOOP;
END
$$
"""


def upgrade() -> None:
    # Many statements in one string, so the driver takes them whole, without parameters.
    op.get_bind().connection.cursor().execute(SchemaManager.get_schema())


def downgrade() -> None:
    op.get_bind().connection.cursor().execute(DROP)
