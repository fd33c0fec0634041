"""The migrations make what the models say, and go up and down with rows in the tables."""

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import (
    ARRAY,
    Boolean,
    Connection,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    NullPool,
    Uuid,
    create_engine,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import IntegrityError
from sqlalchemy.types import DateTime, Float

from app.db.engine import sqlalchemy_url
from app.db.migrate import alembic_config, is_ours
from app.settings import CHECKOUT

REVISIONS = [
    script.revision
    for script in reversed(list(ScriptDirectory(str(CHECKOUT / "migrations")).walk_revisions()))
]

# Values that a CHECK constraint asks for; everything else may be anything of its type.
PARTICULAR: dict[tuple[str, str], Any] = {
    ("users", "role"): "rater",
    ("policies", "backend"): "imported",
    ("prompts", "state"): "ready",
    ("assignments", "state"): "submitted",
    ("assignments", "slot"): 1,
    ("tasks", "overlap"): 1,
    ("tasks", "open_slots"): 0,
    ("runs", "stage"): "reward",
    ("qualifications", "state"): "passed",
    ("rankings", "strength"): 1,
    ("task_notes", "kind"): "broken",
    ("projects", "first_view"): "source",
}


@pytest.fixture
def engine(server_url: str) -> Any:
    """An engine on a database with nothing in it."""
    from simulation.cluster import new_database

    with new_database(server_url, f"empty_{uuid.uuid4().hex[:8]}") as url:
        engine = create_engine(sqlalchemy_url(url), poolclass=NullPool)
        yield engine
        engine.dispose()


def step(engine: Engine, action: Any, revision: str) -> None:
    with engine.connect() as connection:
        action(alembic_config(connection), revision)
        connection.commit()


def value_for(table: str, column: Any, ids: dict[str, list[uuid.UUID]]) -> Any:
    if (table, column.name) in PARTICULAR:
        return PARTICULAR[table, column.name]
    kind = column.type
    if column.foreign_keys:
        return ids[next(iter(column.foreign_keys)).column.table.name][0]
    if isinstance(kind, ARRAY):
        return []
    for types, value in (
        (Uuid, uuid.uuid4()),
        (JSONB, {}),
        (LargeBinary, uuid.uuid4().bytes * 2),
        (DateTime, datetime.now(UTC)),
        (Boolean, False),
        ((Integer, Float), 2),
    ):
        if isinstance(kind, types):
            return value
    return "word"


def fill(connection: Connection) -> dict[str, int]:
    """A row in each table of ours that has none yet; how many each has then."""
    found = MetaData()
    found.reflect(connection, only=lambda name, _: "procrastinate" not in name)
    ids: dict[str, list[uuid.UUID]] = {}
    counts = {}
    for table in found.sorted_tables:
        if table.name == "alembic_version":
            continue
        if connection.scalar(select(func.count()).select_from(table)) == 0:
            needed = [
                column
                for column in table.columns
                if not column.nullable and column.server_default is None and not column.identity
            ]
            row = {column.name: value_for(table.name, column, ids) for column in needed}
            if table.name == "assignments":
                row["slot"] = 1
            if table.name == "comparisons":
                row["worse_id"] = ids["candidates"][1]
            connection.execute(table.insert().values(row))
            if table.name == "candidates":
                connection.execute(
                    table.insert().values({**row, "id": uuid.uuid4(), "position": 9})
                )
        if "id" in table.c:
            ids[table.name] = list(connection.scalars(select(table.c.id)))
        counts[table.name] = connection.scalar(select(func.count()).select_from(table)) or 0
    connection.commit()
    return counts


def test_models_and_migrations_agree(engine: Engine) -> None:
    step(engine, command.upgrade, "head")
    with engine.connect() as connection:
        command.check(alembic_config(connection))


@pytest.mark.parametrize("revision", REVISIONS)
def test_every_migration_goes_up_and_down_on_a_database_with_rows(
    engine: Engine, revision: str
) -> None:
    position = REVISIONS.index(revision)
    before = {}
    if position:
        step(engine, command.upgrade, REVISIONS[position - 1])
        with engine.connect() as connection:
            before = fill(connection)
    step(engine, command.upgrade, revision)
    with engine.connect() as connection:
        after = fill(connection)
    assert all(after[table] == count for table, count in before.items() if table in after)
    step(engine, command.downgrade, REVISIONS[position - 1] if position else "base")
    with engine.connect() as connection:
        left = MetaData()
        left.reflect(connection)
        if not position:
            assert set(left.tables) <= {"alembic_version"}
            kinds = connection.exec_driver_sql(
                "SELECT count(*) FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace "
                "WHERE n.nspname = 'public' AND t.typtype IN ('e', 'c') AND t.typrelid = 0"
            ).scalar()
            assert kinds == 0
    step(engine, command.upgrade, "head")


def test_downgrading_everything_leaves_nothing_behind(engine: Engine) -> None:
    step(engine, command.upgrade, "head")
    with engine.connect() as connection:
        fill(connection)
        connection.exec_driver_sql(
            "INSERT INTO procrastinate_jobs (queue_name, task_name) VALUES ('q', 't')"
        )
        connection.commit()
    step(engine, command.downgrade, "base")
    with engine.connect() as connection:
        functions = connection.exec_driver_sql(
            "SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace "
            "WHERE n.nspname = 'public'"
        ).scalar()
        assert functions == 0
    step(engine, command.upgrade, "head")


def test_new_names_keep_what_stood_under_the_old_ones(engine: Engine) -> None:
    def read(columns: str) -> list[tuple[object, ...]]:
        statement = f"SELECT {columns} FROM assignments a JOIN rankings r ON r.assignment_id = a.id"
        with engine.connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(statement)]

    step(engine, command.upgrade, "0006")
    with engine.connect() as connection:
        fill(connection)
        connection.exec_driver_sql(
            "UPDATE assignments SET state = 'extra', slot = NULL, ahead = true, test = true"
        )
        connection.exec_driver_sql(
            "UPDATE rankings SET extra = true, assignment_id = (SELECT id FROM assignments)"
        )
        connection.commit()
    step(engine, command.upgrade, "0007")
    now = "a.state, a.prefetched, a.qualification, r.surplus"
    assert read(now) == [("surplus", True, True, True)]
    with engine.connect() as connection, pytest.raises(IntegrityError):
        connection.exec_driver_sql("UPDATE assignments SET state = 'extra'")
    step(engine, command.downgrade, "0006")
    assert read("a.state, a.ahead, a.test, r.extra") == [("extra", True, True, True)]


def test_margins_that_are_there_stay_and_say_how_they_were_counted(engine: Engine) -> None:
    step(engine, command.upgrade, "0008")
    with engine.connect() as connection:
        fill(connection)
        connection.exec_driver_sql("""UPDATE rankings SET ranks = '{"a": 1, "b": 3, "c": 1}'""")
        connection.exec_driver_sql("UPDATE comparisons SET margin = 2")
        connection.commit()
    step(engine, command.upgrade, "0009")
    read = "SELECT r.keep_gaps, c.margin FROM rankings r JOIN comparisons c ON c.ranking_id = r.id"
    with engine.connect() as connection:
        assert [tuple(row) for row in connection.exec_driver_sql(read)] == [(True, 2)]
    step(engine, command.downgrade, "0008")
    with engine.connect() as connection:
        connection.exec_driver_sql("""UPDATE rankings SET ranks = '{"a": 1, "b": 2, "c": 1}'""")
        connection.commit()
    step(engine, command.upgrade, "0009")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT keep_gaps FROM rankings").scalar() is False


def run(engine: Engine, statement: str) -> list[tuple[object, ...]]:
    """A statement of its own transaction, and the rows that it gives."""
    with engine.connect() as connection:
        found = connection.exec_driver_sql(statement)
        rows = [tuple(row) for row in found] if found.returns_rows else []
        connection.commit()
    return rows


def test_a_policys_key_gets_the_prefix_and_one_that_has_it_stays(engine: Engine) -> None:
    step(engine, command.upgrade, "0004")
    keys = {"a": "'DATABASE_URL'", "b": "'PLACKETT_KEY_B'", "c": "NULL", "d": "repeat('D', 100)"}
    for name, key in keys.items():
        run(
            engine,
            "INSERT INTO policies (id, name, backend, api_key_variable) "
            f"VALUES (gen_random_uuid(), '{name}', 'openai', {key})",
        )
    step(engine, command.upgrade, "0005")
    assert run(engine, "SELECT name, api_key_variable FROM policies ORDER BY name") == [
        ("a", "PLACKETT_KEY_DATABASE_URL"),
        ("b", "PLACKETT_KEY_B"),
        ("c", None),
        ("d", "PLACKETT_KEY_" + "D" * 80),
    ]


def test_tokens_keep_what_they_could_and_none_can_do_more_after_a_way_back(engine: Engine) -> None:
    step(engine, command.upgrade, "0007")
    with engine.connect() as connection:
        fill(connection)
    run(engine, "UPDATE api_tokens SET name = 'old'")
    step(engine, command.upgrade, "0008")
    read = "SELECT name, scopes, expires_at, revoked_at FROM api_tokens"
    assert run(engine, read) == [("old", ["rate", "read", "export", "admin"], None, None)]
    for name, scopes, end in (
        ("narrow", "{read}", "NULL"),
        ("ends", "{rate,read,export,admin}", "now() + interval '3 days'"),
    ):
        run(
            engine,
            "INSERT INTO api_tokens (id, token_hash, prefix, name, user_id, scopes, expires_at) "
            f"SELECT gen_random_uuid(), '{name}', prefix, '{name}', user_id, '{scopes}', {end} "
            "FROM api_tokens WHERE name = 'old'",
        )
    step(engine, command.downgrade, "0007")
    left = run(engine, "SELECT name, revoked_at IS NULL FROM api_tokens ORDER BY name")
    assert left == [("ends", False), ("narrow", False), ("old", True)]


def test_of_imported_rankings_a_migration_makes_nothing_up(engine: Engine) -> None:
    step(engine, command.upgrade, "0010")
    with engine.connect() as connection:
        fill(connection)
        connection.exec_driver_sql(
            "UPDATE rankings SET presented = ARRAY(SELECT id FROM candidates ORDER BY id)"
        )
        connection.commit()
    one = "SELECT cardinality(presented), blind, timed FROM rankings"
    for change, known in (
        ("imported = true", (None, None, False)),
        ("imported = false", (None, True, True)),  # a model's: it came by no assignment
        ("assignment_id = (SELECT id FROM assignments)", (2, True, True)),
    ):
        with engine.connect() as connection:
            connection.exec_driver_sql(f"UPDATE rankings SET {change}")
            connection.commit()
        step(engine, command.upgrade, "0011")
        with engine.connect() as connection:
            assert connection.exec_driver_sql(one).one() == known
        step(engine, command.downgrade, "0010")
        with engine.connect() as connection:
            back = connection.exec_driver_sql("SELECT cardinality(presented) FROM rankings")
            assert back.scalar() == 2


def test_the_queues_own_tables_are_not_ours_to_compare() -> None:
    assert not is_ours(None, "procrastinate_jobs", "table", False, None)
    assert is_ours(None, "rankings", "table", False, None)


def test_whoever_saw_a_project_is_its_member_and_a_closed_one_is_paused_on_the_way_back(
    engine: Engine,
) -> None:
    step(engine, command.upgrade, "0012")
    with engine.connect() as connection:
        fill(connection)
    run(
        engine,
        "INSERT INTO users (id, email, role, kind) VALUES "
        "(gen_random_uuid(), 'b', 'researcher', 'person'), (gen_random_uuid(), 'c', 'rater', 'ai')",
    )
    run(engine, "UPDATE policies SET run_id = (SELECT id FROM runs)")
    step(engine, command.upgrade, "0013")
    people = "SELECT email FROM memberships JOIN users ON users.id = user_id ORDER BY email"
    assert run(engine, people) == [("b",), ("word",)]
    assert run(engine, "SELECT members_only, paused FROM projects") == [(False, False)]
    made = "SELECT policies.project_id = projects.id FROM policies, projects"
    assert run(engine, made) == [(True,)]
    run(engine, "UPDATE projects SET members_only = true")
    step(engine, command.downgrade, "0012")
    assert run(engine, "SELECT paused FROM projects") == [(True,)]
