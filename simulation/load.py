"""Raters at work on a served application, and what must hold afterwards, whatever happened."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import psycopg

from app.db.engine import libpq_url
from app.settings import CHECKOUT
from simulation.stage import K, Stage

RATERS = CHECKOUT / "simulation" / "raters.py"

# What must hold at the end, whatever happened: each query counts what breaks a rule.
CHECKS = {
    "tasks_over_their_overlap": """
        SELECT count(*) FROM tasks AS task WHERE task.overlap < greatest(
            (SELECT count(*) FROM rankings WHERE task_id = task.id AND NOT surplus),
            (SELECT count(*) FROM assignments WHERE task_id = task.id AND slot IS NOT NULL))
          AND EXISTS (SELECT FROM assignments WHERE task_id = task.id)""",
    "open_slots_that_do_not_add_up": """
        SELECT count(*) FROM tasks AS task WHERE task.overlap <> task.open_slots
            + (SELECT count(*) FROM assignments WHERE task_id = task.id AND slot IS NOT NULL)""",
    "raters_twice_on_a_task": """
        SELECT count(*) FROM (
            SELECT FROM rankings GROUP BY task_id, rater_id HAVING count(*) > 1) AS twice""",
    "acknowledged_and_missing": """
        SELECT count(*) FROM acknowledged AS ours WHERE NOT EXISTS (
            SELECT FROM rankings AS kept WHERE kept.id = ours.id
               AND kept.assignment_id = ours.assignment_id AND kept.ranks = ours.ranks)""",
    "acknowledged_twice": """
        SELECT count(*) FROM (
            SELECT FROM acknowledged GROUP BY assignment_id HAVING count(*) > 1) AS twice""",
    "submitted_without_a_ranking": """
        SELECT count(*) FROM assignments AS done WHERE state IN ('submitted', 'surplus')
           AND NOT EXISTS (SELECT FROM rankings WHERE assignment_id = done.id)""",
    "rankings_without_all_their_pairs": f"""
        SELECT count(*) FROM rankings AS ranking WHERE {K * (K - 1) // 2} <>
            (SELECT count(*) FROM comparisons WHERE ranking_id = ranking.id)""",
}


class Answering(Protocol):
    """Whatever has the application's address."""

    @property
    def address(self) -> str:
        """Where it answers."""


def start_raters(
    stage: Stage, served: Answering, tokens: Sequence[str], **times: Any
) -> subprocess.Popen[str]:
    """The load, at work in a process of its own."""
    plan = {"address": served.address, "slug": stage.slug, "tokens": list(tokens), **times}
    process = subprocess.Popen(
        [sys.executable, RATERS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(plan))
    process.stdin.close()
    return process


def finish_raters(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Their log. Raises RuntimeError where they broke."""
    with process:
        assert process.stdout is not None
        text = process.stdout.read()
    if process.returncode != 0:
        raise RuntimeError("the load generator failed")
    log: dict[str, Any] = json.loads(text)
    return log


def check(url: str, acknowledged: Sequence[Sequence[Any]]) -> dict[str, int]:
    """Every rule and how often it is broken; and how many rankings the rules were held against."""
    with psycopg.connect(libpq_url(url)) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE acknowledged (id uuid, assignment_id uuid, ranks jsonb)")
        with cursor.copy("COPY acknowledged FROM STDIN") as copy:
            for ranking, assignment, ranks in acknowledged:
                copy.write_row((ranking, assignment, json.dumps(ranks)))
        cursor.execute("ANALYZE acknowledged")
        found = {}
        for name, query in {
            **CHECKS,
            "rankings": "SELECT count(*) FROM rankings",
            "acknowledged": "SELECT count(*) FROM acknowledged",
        }.items():
            row = cursor.execute(query).fetchone()
            assert row is not None
            found[name] = int(row[0])
    return found


def broken(checks: Mapping[str, int]) -> list[str]:
    """The rules that do not hold."""
    return [name for name, count in checks.items() if count and name in CHECKS]
