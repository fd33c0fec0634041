"""What an error of the database may say: which statement, which rule, and none of the values.

Values are people's texts and addresses, and errors are written into logs. SQLAlchemy leaves the parameters
out with `hide_parameters`; PostgreSQL itself quotes the row in an error's DETAIL, and the value that it
cannot read in the message.
"""

import re

import psycopg
from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import StatementError

# "invalid input syntax for type integer: "…"": only the class of errors about data quotes it.
DATA_EXCEPTION = "22"


def be_discreet(engine: Engine) -> None:
    """Let the engine's errors say no values."""
    event.listen(engine, "handle_error", _say_less)


def _say_less(context: ExceptionContext) -> None:
    original = context.original_exception
    # Without a state it is not the server's word on a statement: a lost connection, and all of it helps.
    if not isinstance(original, psycopg.Error) or original.sqlstate is None:
        return
    said = str(original).split("\n", 1)[0]
    if original.sqlstate.startswith(DATA_EXCEPTION):
        said = re.sub(r'".*"', '"…"', said)
    original.args = (said,)
    ours = context.sqlalchemy_exception
    if isinstance(ours, StatementError):
        kind = f"{type(original).__module__}.{type(original).__qualname__}"
        ours.args = (f"({kind}) {said}", *ours.args[1:])
