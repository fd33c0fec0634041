"""What is written down when something goes wrong: where, and nobody's secrets."""

import json
import logging
from collections.abc import Iterator
from typing import Literal

import pytest
import structlog

from app.logs import configure_logs


@pytest.fixture
def untouched() -> Iterator[None]:
    """The loggers as they were, whatever the test configures."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    yield
    root.handlers, root.level = before[0], before[1]
    structlog.reset_defaults()


@pytest.mark.parametrize("how", ["console", "json"])
def test_a_traceback_tells_where_and_shows_no_values(
    how: Literal["console", "json"], untouched: None, capfd: pytest.CaptureFixture[str]
) -> None:
    configure_logs(how)
    password = "correct " + "horse battery"
    try:
        len(password) / 0
    except ZeroDivisionError:
        structlog.get_logger("test").exception("an unexpected error", reference="abc")
    written = capfd.readouterr().err
    assert "ZeroDivisionError" in written
    assert "test_logs.py" in written
    assert "horse battery" not in written.replace('"horse battery"', "")
    if how == "json":
        assert json.loads(written)["reference"] == "abc"
