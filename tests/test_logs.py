"""What is written down when something goes wrong: where, and nobody's secrets."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import httpx
import pytest
import structlog
from sqlalchemy import text

from app.accounts import service as accounts
from app.accounts.models import Role
from app.db.engine import open_sessions
from app.logs import configure_logs
from app.settings import CHECKOUT
from simulation.command import running


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


@pytest.mark.slow
async def test_one_id_goes_from_a_request_to_its_job_and_its_trainer(
    fresh_database: str, tmp_path: Path
) -> None:
    async with open_sessions(fresh_database) as sessions, sessions() as session:
        user = await accounts.create_user(session, "ada@example.org", Role.ADMIN)
        token = await accounts.create_api_token(session, user, name="test")
        await session.commit()
    headers = {"Authorization": f"Bearer {token}", "X-Request-ID": "from-the-caller"}
    with running(
        ["serve"], tmp_path, DATABASE_URL=fresh_database, PLACKETT_LOG_FORMAT="json"
    ) as it:
        it.is_ready()
        address = f"http://127.0.0.1:{it.port}/api/v1/projects"
        made = httpx.post(address, json={"slug": "p", "name": "P"}, headers=headers)
        assert made.status_code == 201
        assert made.headers["x-request-id"] == "from-the-caller"
        asked = httpx.post(f"{address}/p/exports", json={"name": "e"}, headers=headers)
        assert asked.status_code == 202
        another = httpx.get(f"{address}/p/progress", headers={"X-Request-ID": "no good: <b>"})
        assert another.headers["x-request-id"] not in ("from-the-caller", "no good: <b>")
        async with open_sessions(fresh_database) as sessions, sessions() as session:
            jobs = "SELECT args FROM procrastinate_jobs WHERE task_name = 'datasets:export'"
            args = await session.scalar(text(jobs))
        assert args["request_id"] == "from-the-caller"
        it.says("datasets:export")
        lines = [json.loads(line) for line in it.log.read_text().splitlines()]
        job = next(line for line in lines if line.get("task") == "datasets:export")
        assert job["request_id"] == "from-the-caller"
        requests = [line for line in lines if line["event"] == "request"]
        assert all(line["request_id"] for line in requests)


@pytest.mark.slow
def test_a_trainers_lines_carry_the_id_of_the_request() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "trainer",
            "sft",
            "--data",
            "/none",
            "--model",
            "/none",
            "--out",
            "/x",
        ],
        cwd=CHECKOUT,
        env=os.environ | {"PLACKETT_REQUEST_ID": "abcdef012345"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert all(line.startswith("request_id=abcdef012345 ") for line in done.stderr.splitlines())
    assert "trainer sft" in done.stderr
