"""An export claims of a ranking what the ranking itself says of how it came about, and nothing more."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.datasets.format import RankingLine
from app.datasets.schemas import Filters, Split
from app.datasets.service import build_export
from app.db.engine import SessionMaker, open_sessions
from app.intake.service import import_prompts
from app.projects.models import Project
from app.prompts.parse import FieldError, parse_row
from app.rating.assign import lease_next_task
from app.rating.models import Ranking
from app.rating.schemas import RankingIn
from app.rating.submit import submit_ranking
from tests.factories.accounts import create_user
from tests.factories.projects import create_project
from tests.factories.rating import LIMIT, row


async def fill(session: AsyncSession, rows: list[dict[str, Any]]) -> Project:
    project = await create_project(session, overlap=1)
    parsed = [parse_row(each, n, max_bytes=LIMIT) for n, each in enumerate(rows)]
    await import_prompts(session, project, parsed, source="test", actor=None)
    return project


async def rate_last_shown_first(session: AsyncSession, project: Project) -> None:
    """A person prefers what was shown last."""
    rater = await create_user(session)
    while lease := await lease_next_task(session, project, rater):
        ids = [each.id for each in lease.candidates]
        given = RankingIn(ranks={ids[0]: 2, ids[1]: 1}, seconds=4)
        await submit_ranking(session, lease.assignment_id, rater, given)


async def read(
    sessions: SessionMaker, project: Project, out: Path
) -> tuple[dict[str, RankingLine], str]:
    """An export's rankings by prompt, and its datasheet with its lines joined."""
    async with sessions() as session:
        whole = Split(train=1, validation=0, test=0)
        await build_export(session, project, Filters(), whole, out, "all")
    lines = (out / "rankings.train.jsonl").read_text().splitlines()
    sheet = " ".join((out / "datasheet.md").read_text().split())
    return {each["prompt_id"]: each for each in map(json.loads, lines)}, sheet


async def test_of_imported_rankings_nothing_is_known_and_nothing_is_claimed(
    fresh_database: str, tmp_path: Path
) -> None:
    pair = {"prompt": "Which?", "chosen": "this", "rejected": "that"}
    rows = [pair | {"id": str(n), "prompt": f"Which of {n}?"} for n in range(5)]
    async with open_sessions(fresh_database) as sessions:
        async with sessions() as session:
            project = await fill(session, rows)
            await session.commit()
        lines, sheet = await read(sessions, project, tmp_path / "out")
        async with sessions() as session:
            stored = list(await session.scalars(select(Ranking)))
    assert [(each.presented, each.blind, each.timed) for each in stored] == [
        (None, None, False)
    ] * 5
    for line in lines.values():
        (ranking,) = line["rankings"]
        assert ranking["presented"] is None
        assert ranking["blind"] is None
        assert ranking["timed"] is False
        assert ranking["seconds"] is None
    assert "who saw the responses blind" not in sheet
    assert "0 of 5 rankings; not blind: 0; not known: 5." in sheet
    assert "The order in which the responses were shown is known of 0 of 5." in sheet
    assert "When it was judged is known of 0 of 5; how long it took, of 0." in sheet
    assert "the candidate shown earlier was preferred: no such pairs." in sheet


async def test_what_is_known_is_said_of_those_of_whom_it_is_known(
    fresh_database: str, tmp_path: Path
) -> None:
    told = {"presented": [1, 0], "blind": False, "seconds": 7.5}
    rows = [
        row("ab", id="unknown", ranks=[1, 2], rater="ann"),
        row("ab", id="told", ranks=[1, 2], rater="bob", **told),
        row("ab", id="here"),
        row("ab", id="here too"),
    ]
    async with open_sessions(fresh_database) as sessions:
        async with sessions() as session:
            project = await fill(session, rows)
            await rate_last_shown_first(session, project)
            await session.commit()
        lines, sheet = await read(sessions, project, tmp_path / "out")
    ids = {each["text"]: each["id"] for each in lines["told"]["candidates"]}
    (ranking,) = lines["told"]["rankings"]
    assert ranking["presented"] == [ids["b"], ids["a"]]
    assert (ranking["blind"], ranking["timed"], ranking["seconds"]) == (False, False, 7.5)
    (ranking,) = lines["here"]["rankings"]
    assert (ranking["blind"], ranking["timed"], ranking["seconds"]) == (True, True, 4)
    assert "2 of 4 rankings; not blind: 1; not known: 1." in sheet
    assert "is known of 3 of 4." in sheet
    assert "When it was judged is known of 2 of 4; how long it took, of 3." in sheet
    # All three whose order is known prefer what was shown last; the fourth says nothing about it.
    assert "the candidate shown earlier was preferred in 0 of 3 cases" in sheet


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"presented": [0, 0]}, "presented"),
        ({"presented": [1, 2]}, "presented"),
        ({"presented": [True, False]}, "presented"),
        ({"presented": "AB"}, "presented"),
        ({"blind": "yes"}, "blind"),
        ({"seconds": -1}, "seconds"),
        ({"seconds": float("nan")}, "seconds"),
        ({"seconds": True}, "seconds"),
        ({"keep_gaps": 1}, "keep_gaps"),
        ({"gold": True, "rater": None, "presented": [0, 1]}, "presented"),
        ({"ranks": None, "rater": None, "blind": True}, "blind"),
    ],
)
def test_what_an_import_says_of_a_ranking_is_checked(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(FieldError) as caught:
        parse_row(row("ab", **({"ranks": [1, 2], "rater": "ann"} | fields)), 1, max_bytes=LIMIT)
    assert caught.value.field == named
