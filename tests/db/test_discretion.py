"""An error of the database names the rule that was broken, and none of the values that broke it."""

import traceback
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError

from app.accounts.models import Role, User
from app.db.embedded import EmbeddedServer
from app.db.engine import create_engine, create_sessions
from app.prompts.models import Prompt

PLANTED = "a text that somebody wrote"

BROKEN: list[tuple[Any, dict[str, Any], str]] = [
    # A rule that is broken quotes the whole row in its DETAIL.
    (insert(User), {"email": f"{PLANTED}@x", "name": PLANTED, "role": None}, "role"),
    (insert(Prompt), {"messages": [PLANTED], "digest": b"x"}, "not-null"),
    # A value that cannot be read stands in the message itself.
    (text("SELECT CAST(:value AS integer)"), {"value": PLANTED}, "invalid input syntax"),
    (text("SELECT CAST(:value AS jsonb)"), {"value": PLANTED}, "invalid input syntax"),
]


@pytest.mark.parametrize(("statement", "values", "said"), BROKEN)
async def test_an_error_says_what_is_wrong_and_quotes_nothing(
    fresh_database: str, statement: Any, values: dict[str, Any], said: str
) -> None:
    engine = create_engine(fresh_database, pool_size=1)
    try:
        async with create_sessions(engine)() as session:
            with pytest.raises(DBAPIError) as caught:
                await session.execute(statement, values)
    finally:
        await engine.dispose()
    written = "".join(traceback.format_exception(caught.value))
    assert said in written
    assert PLANTED not in written.replace(__file__, "")


async def test_a_key_that_is_there_already_is_not_quoted(fresh_database: str) -> None:
    engine = create_engine(fresh_database, pool_size=1)
    row = {"email": "planted@example.org", "role": Role.RATER}
    try:
        async with create_sessions(engine)() as session:
            await session.execute(insert(User), row)
            with pytest.raises(DBAPIError) as caught:
                await session.execute(insert(User), row)
    finally:
        await engine.dispose()
    assert "uq_users_email_lower" in str(caught.value)
    assert "planted" not in str(caught.value)
    assert getattr(caught.value.orig, "sqlstate", None) == "23505"


async def test_a_lost_connection_says_all_that_it_knows() -> None:
    engine = create_engine("postgresql://nobody@127.0.0.1:9/none")
    async with create_sessions(engine)() as session:
        with pytest.raises(DBAPIError, match=r"127\.0\.0\.1"):
            await session.execute(select(1))
    await engine.dispose()


def test_the_embedded_servers_log_quotes_nothing(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "db")
    with server as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE t (a int NOT NULL, b text)")
            with pytest.raises(psycopg.errors.NotNullViolation):
                connection.execute("INSERT INTO t VALUES (NULL, %s)", [PLANTED])
        written = server._cluster().with_name("server.log").read_text()
    assert "violates not-null constraint" in written
    assert PLANTED not in written
