"""Exported pairs and margins are the stored comparisons: people's, imported ones and models'."""

import itertools
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from app.accounts.models import Kind
from app.accounts.service import get_or_create_ai_rater
from app.datasets.rows import pseudonym
from app.datasets.schemas import Filters, Split
from app.datasets.service import build_export
from app.db.engine import open_sessions
from app.feedback.queries import list_tasks
from app.feedback.service import Judgement, Report, store
from app.intake.service import import_prompts
from app.projects.models import Project
from app.prompts.models import Candidate
from app.prompts.parse import parse_row
from app.rating.assign import lease_next_task
from app.rating.models import Comparison, Ranking
from app.rating.schemas import RankingIn
from app.rating.submit import revise_ranking, submit_ranking
from tests.factories.accounts import create_user
from tests.factories.projects import create_project
from tests.factories.rating import LIMIT, row

# (whose, the better text, the worse text, the margin)
Pairs = Counter[tuple[str, str, str, float]]
SIZES = range(2, 10)


def draw_ranks(source: random.Random, k: int) -> list[int]:
    """Ranks as the API takes them: the best is 1, with ties and gaps."""
    ranks = [source.randint(1, k) for _ in range(k)]
    ranks[source.randrange(k)] = 1
    return ranks


async def read_stored(session: AsyncSession, project: Project) -> Pairs:
    """The strict comparisons in the table."""
    better, worse = aliased(Candidate), aliased(Candidate)
    found = await session.execute(
        select(Ranking.rater_id, better.text, worse.text, Comparison.margin)
        .join(Ranking, Ranking.id == Comparison.ranking_id)
        .join(better, better.id == Comparison.better_id)
        .join(worse, worse.id == Comparison.worse_id)
        .where(Ranking.project_id == project.id, Comparison.margin > 0)
    )
    return Counter(
        (pseudonym(project.pseudonym_salt, rater), one, other, float(margin))
        for rater, one, other, margin in found
    )


async def read_exported(session: AsyncSession, project: Project, out: Path) -> Pairs:
    """The lines of an export's comparisons."""
    whole = Split(train=1, validation=0, test=0)
    await build_export(session, project, Filters(kinds=list(Kind)), whole, out, "all")
    lines = (out / "comparisons.train.jsonl").read_text().splitlines()
    return Counter(
        (each["rater"], each["chosen"][0]["content"], each["rejected"][0]["content"], margin)
        for each in map(json.loads, lines)
        for margin in [each["margin"]]
    )


async def read_by_hand(session: AsyncSession, project: Project) -> Pairs:
    """What the stored rankings say, worked out by the rule alone."""
    texts = dict((await session.execute(select(Candidate.id, Candidate.text))).all())
    pairs: Pairs = Counter()
    for ranking in await session.scalars(select(Ranking).where(Ranking.project_id == project.id)):
        rater = pseudonym(project.pseudonym_salt, ranking.rater_id)
        for one, other in itertools.permutations(ranking.candidate_ids, 2):
            low, high = ranking.ranks[str(one)], ranking.ranks[str(other)]
            # Dense ranks: of the steps between the two, those on which some candidate stands.
            steps = {rank for rank in ranking.ranks.values() if low < rank <= high}
            apart = high - low if ranking.keep_gaps else len(steps)
            if apart > 0:
                pairs[rater, texts[one], texts[other], float(ranking.strength or apart)] += 1
    return pairs


async def rate_all(session: AsyncSession, project: Project, source: random.Random) -> set[int]:
    """A person ranks every task; the strengths that they gave."""
    rater = await create_user(session)
    strengths: set[int] = set()
    stored = None
    while lease := await lease_next_task(session, project, rater):
        ids = [each.id for each in lease.candidates]
        ranks = dict(zip(ids, draw_ranks(source, len(ids)), strict=True))
        strength = None
        if len(ids) == 2 and len(set(ranks.values())) == 2:
            strength = len(strengths) % 3 + 1
            strengths.add(strength)
        given = RankingIn(ranks=ranks, strength=strength)
        stored = await submit_ranking(session, lease.assignment_id, rater, given)
    # And thinks better of the last one.
    assert stored is not None
    other_way = {each: len(ranks) + 1 - rank for each, rank in ranks.items()}
    best = min(other_way.values())
    dense = {each: rank - best + 1 for each, rank in other_way.items()}
    await revise_ranking(session, stored.id, rater, RankingIn(ranks=dense, strength=strength))
    return strengths


async def judge_all(session: AsyncSession, project: Project, source: random.Random) -> None:
    """A model ranks every task."""
    rater = await get_or_create_ai_rater(session, "critic, principles 1")
    for work in await list_tasks(session, project.id, rater.id, revise=False, after=None, limit=99):
        judgement = Judgement(work, draw_ranks(source, len(work.candidates)), "because")
        await store(session, project, rater, judgement, Report("critic"))


def imported(source: random.Random) -> Sequence[dict[str, Any]]:
    """For each number of candidates a task with an imported ranking, and some pairs with none."""
    ranked = [
        row(k, ranks=draw_ranks(source, k), rater=f"rater {k % 3}", keep_gaps=keep)
        for k in SIZES
        for keep in (False, True)
    ]
    whole = row(9, ranks=list(range(1, 10)), rater="rater 0")
    return [*ranked, whole, *(row(2) for _ in range(9))]


async def test_what_is_exported_is_what_is_stored(fresh_database: str, tmp_path: Path) -> None:
    source = random.Random(7)
    async with open_sessions(fresh_database) as sessions:
        async with sessions() as session:
            project = await create_project(session, overlap=2)
            rows = [parse_row(each, n, max_bytes=LIMIT) for n, each in enumerate(imported(source))]
            await import_prompts(session, project, rows, source="test", actor=None)
            strengths = await rate_all(session, project, source)
            await judge_all(session, project, source)
            await session.commit()
        async with sessions() as session:
            by_hand = await read_by_hand(session, project)
            stored = await read_stored(session, project)
        async with sessions() as session:
            exported = await read_exported(session, project, tmp_path / "out")
    assert stored == by_hand
    assert exported == stored
    # It was a test of something: every kind of rater, every strength, margins up to the widest.
    assert strengths == {1, 2, 3}
    assert len({rater for rater, _, _, _ in stored}) == 3 + 1 + 1
    assert {margin for _, _, _, margin in stored} == {float(n) for n in range(1, 9)}


async def test_a_gap_in_the_ranks_counts_only_where_its_sender_says_so(
    fresh_database: str, tmp_path: Path
) -> None:
    """[1, 3, 1] is the order of [1, 2, 1]: from an import, the API and the page the margin is 1."""
    ranks = [1, 3, 1]
    rows = [
        row("abc", id="plain", ranks=ranks, rater="ann"),
        row("abc", id="kept", ranks=ranks, rater="ann", keep_gaps=True),
        row("abc", id="asked"),
    ]
    async with open_sessions(fresh_database) as sessions:
        async with sessions() as session:
            project = await create_project(session, overlap=1)
            parsed = [parse_row(each, n, max_bytes=LIMIT) for n, each in enumerate(rows)]
            await import_prompts(session, project, parsed, source="test", actor=None)
            rater = await create_user(session)
            lease = await lease_next_task(session, project, rater)
            assert lease is not None
            given = {each.id: 3 if each.text == "b" else 1 for each in lease.candidates}
            await submit_ranking(session, lease.assignment_id, rater, RankingIn(ranks=given))
            await session.commit()
        async with sessions() as session:
            whole = Split(train=1, validation=0, test=0)
            out = tmp_path / "out"
            manifest = await build_export(session, project, Filters(), whole, out, "all")
        async with sessions() as session:
            stored = await session.scalars(
                select(Comparison.margin).where(Comparison.margin > 0).order_by(Comparison.margin)
            )
            assert list(stored) == [1, 1, 1, 1, 2, 2]
    pairs = [
        json.loads(line) for line in (out / "comparisons.train.jsonl").read_text().splitlines()
    ]
    margins = {each["prompt_id"]: each["margin"] for each in pairs}
    assert margins == {"plain": 1.0, "kept": 2.0, "asked": 1.0}
    # What was said stays as it was said.
    lines = [json.loads(line) for line in (out / "rankings.train.jsonl").read_text().splitlines()]
    assert all(sorted(each["rankings"][0]["ranks"].values()) == [1, 1, 3] for each in lines)
    assert "dense" in manifest["margins"]["rule"]
    assert manifest["margins"]["keep_gaps"] == 1
