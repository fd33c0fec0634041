"""An export is what was collected, the same bytes each time, and loads where people load data."""

import gzip
import hashlib
import json
from collections.abc import AsyncIterator
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import Role
from app.datasets.format import Manifest
from app.datasets.rows import assign_split, pseudonym
from app.datasets.schemas import Filters, Split
from app.datasets.service import build_export
from app.db.engine import SessionMaker, create_engine, create_sessions
from app.errors import Conflict
from app.intake.service import import_prompts
from app.projects.models import Project
from app.prompts.limits import Limits
from app.prompts.parse import parse_row
from app.prompts.reading import Reading, read_file
from app.rating import assign
from app.rating.schemas import RankingIn
from app.rating.submit import submit_ranking
from app.worker import run_worker
from tests.factories.accounts import bearer, create_user
from tests.factories.projects import create_project
from tests.factories.rating import LIMIT, create_tasks, row

WHOLE = Split(train=1, validation=0, test=0)
SPLITS = ("train", "validation", "test")


@pytest.fixture
async def sessions(fresh_database: str) -> AsyncIterator[SessionMaker]:
    engine = create_engine(fresh_database, pool_size=4)
    yield create_sessions(engine)
    await engine.dispose()


async def fill(session: AsyncSession, rows: list[dict[str, Any]], **settings: Any) -> Project:
    project = await create_project(session, **settings)
    parsed = [parse_row(each, n, max_bytes=LIMIT) for n, each in enumerate(rows, start=1)]
    report = await import_prompts(session, project, parsed, source="test", actor=None)
    assert report.accepted == len(rows)
    await session.commit()
    return project


async def export(sessions: SessionMaker, project: Project, out: Path, **filters: Any) -> Manifest:
    async with sessions() as session:
        return await build_export(session, project, Filters(**filters), Split(), out, "an export")


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for split in SPLITS
        for line in (folder / f"{kind}.{split}.jsonl").read_text().splitlines()
    ]


async def test_every_permutation_and_tie_pattern_comes_out_unchanged(
    sessions: SessionMaker, tmp_path: Path
) -> None:
    patterns = [p for k in (2, 3, 4) for p in product(range(1, k + 1), repeat=k) if min(p) == 1]
    rows = [row(len(p), id=str(n), ranks=list(p), rater="ann") for n, p in enumerate(patterns)]
    async with sessions() as session:
        project = await fill(session, rows)
    await export(sessions, project, tmp_path / "out")
    found = {each["prompt_id"]: each for each in lines(tmp_path / "out", "rankings")}
    assert len(found) == len(patterns)
    for number, pattern in enumerate(patterns):
        line = found[str(number)]
        ranks = line["rankings"][0]["ranks"]
        assert [ranks[each["id"]] for each in line["candidates"]] == list(pattern)
    strict = sum(a != b for p in patterns for i, a in enumerate(p) for b in p[i + 1 :])
    assert len(lines(tmp_path / "out", "comparisons")) == strict


async def test_the_strength_of_a_preference_is_its_margin(
    sessions: SessionMaker, tmp_path: Path
) -> None:
    async with sessions() as session:
        project = await create_project(session)
        await create_tasks(session, project, 1, candidates=2)
        rater = await create_user(session)
        lease = await assign.lease_next_task(session, project, rater)
        assert lease is not None
        one, other = (each.id for each in lease.candidates)
        given = RankingIn(ranks={one: 1, other: 2}, strength=3)
        await submit_ranking(session, lease.assignment_id, rater, given)
        await session.commit()
    async with sessions() as session:
        await build_export(session, project, Filters(), WHOLE, tmp_path / "out", "all")
    (pair,) = (tmp_path / "out" / "comparisons.train.jsonl").read_text().splitlines()
    assert json.loads(pair)["margin"] == 3
    (line,) = (tmp_path / "out" / "rankings.train.jsonl").read_text().splitlines()
    assert json.loads(line)["rankings"][0]["strength"] == 3


async def test_the_same_data_gives_the_same_bytes(sessions: SessionMaker, tmp_path: Path) -> None:
    rows = [row(3, ranks=[2, 1, 2], rater=f"rater {n % 3}") for n in range(40)]
    async with sessions() as session:
        project = await fill(session, rows, guidelines="Be fair.")
    manifests = [await export(sessions, project, tmp_path / name) for name in ("one", "two")]
    assert manifests[0] == manifests[1]
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
        entry = manifests[0]["files"].get(file.name)
        if entry is not None:
            assert hashlib.sha256(file.read_bytes()).hexdigest() == entry["sha256"]
    with pytest.raises(Conflict, match="not empty"):
        await export(sessions, project, tmp_path / "one")


async def test_filters_narrow_and_people_stay_unknown(
    sessions: SessionMaker, tmp_path: Path
) -> None:
    rows = [row(2, ranks=[1, 2], rater="Ann Example"), row(2, ranks=[1, 2], gold=True)]
    async with sessions() as session:
        project = await fill(session, rows)
    await export(sessions, project, tmp_path / "plain")
    assert len(lines(tmp_path / "plain", "rankings")) == 1
    text = "".join(file.read_text(errors="replace") for file in (tmp_path / "plain").iterdir())
    assert "Ann Example" not in text
    empty = await export(sessions, project, tmp_path / "people", kinds=["person"])
    assert sum(part["rankings"] for part in empty["counts"].values()) == 0


async def test_it_loads_in_one_line_and_in_the_preference_format(
    sessions: SessionMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows = [row(3, ranks=[1, 2, 3], rater="r") for _ in range(60)]
    async with sessions() as session:
        project = await fill(session, rows)
    out = tmp_path / "out"
    await export(sessions, project, out)
    from datasets import load_dataset

    for kind in ("parquet", "jsonl"):
        files = {split: str(out / f"comparisons.{split}.{kind}") for split in SPLITS}
        found = load_dataset(
            "json" if kind == "jsonl" else kind, data_files=files, cache_dir=str(tmp_path / "hf")
        )
        assert sum(len(found[split]) for split in SPLITS) == 180
        first = found["train"][0]
        for side in ("prompt", "chosen", "rejected"):
            assert [set(message) for message in first[side]] == [{"role", "content"}]
        assert first["chosen"][0]["role"] == "assistant"
        assert first["prompt"][0]["role"] == "user"
    parts = [{each["prompt"][0]["content"] for each in found[split]} for split in SPLITS]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]


async def test_the_real_pairs_export_to_the_same_transcripts(
    sessions: SessionMaker, real_data: Path, tmp_path: Path
) -> None:
    file = real_data / "hh-harmless" / "pairs.jsonl.gz"
    plain = gzip.decompress(file.read_bytes()).splitlines() if file.exists() else []
    source = tmp_path / "pairs.jsonl"
    source.write_bytes(b"\n".join(plain))
    async with sessions() as session:
        project = await create_project(session)
        rows = list(read_file(source, Reading(limits=Limits(text_bytes=256 * 1024))))
        report = await import_prompts(session, project, rows, source="hh", actor=None)
        await session.commit()
    assert (report.accepted, report.rejected) == (len(plain), [])
    await export(sessions, project, tmp_path / "out")
    wanted = sorted((r["chosen"], r["rejected"]) for r in map(json.loads, plain))
    found = sorted((r["chosen"], r["rejected"]) for r in lines(tmp_path / "out", "hh"))
    assert found == wanted


def test_a_prompt_is_in_one_split_and_shares_are_kept() -> None:
    hashes = [hashlib.sha256(str(n).encode()).digest() for n in range(4000)]
    split = Split(train=0.6, validation=0.3, test=0.1)
    found = [assign_split(each, split) for each in hashes]
    assert found == [assign_split(each, split) for each in hashes]
    assert abs(found.count("train") / 4000 - 0.6) < 0.03
    assert abs(found.count("test") / 4000 - 0.1) < 0.02
    other = Split(train=0.6, validation=0.3, test=0.1, seed=1)
    assert found != [assign_split(each, other) for each in hashes]
    whole = Split(train=1, validation=0, test=0)
    assert {assign_split(each, whole) for each in hashes} == {"train"}


def test_a_pseudonym_is_stable_within_a_project_alone() -> None:
    import uuid

    rater = uuid.uuid4()
    assert pseudonym(b"a" * 32, rater) == pseudonym(b"a" * 32, rater)
    assert pseudonym(b"a" * 32, rater) != pseudonym(b"b" * 32, rater)


async def test_through_the_api_an_export_is_made_read_and_downloaded(
    sessions: SessionMaker, fresh_database: str, tmp_path: Path
) -> None:
    from app.main import create_app
    from app.settings import Settings

    settings = Settings(database_url=fresh_database, data_dir=tmp_path)
    app = create_app(settings)
    app.state.sessions = sessions
    transport = httpx.ASGITransport(app)
    async with (
        sessions() as session,
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        project = await fill(session, [row(2, ranks=[1, 2], rater="r") for _ in range(5)])
        headers = await bearer(session, await create_user(session, Role.RESEARCHER))
        address = f"/api/v1/projects/{project.slug}/exports"
        bad = await client.post(
            address, headers=headers, json={"name": "x", "split": {"train": 0.5}}
        )
        assert bad.status_code == 422
        unknown = {"name": "x", "filters": {"colour": 1}}
        assert (await client.post(address, headers=headers, json=unknown)).status_code == 422
        made = await client.post(address, headers=headers, json={"name": "x"})
        assert made.status_code == 202
        export_id = made.json()["id"]
        early = await client.get(
            f"/api/v1/exports/{export_id}/files/manifest.json", headers=headers
        )
        assert early.status_code == 409
        await run_worker(fresh_database, settings, queues=["datasets"], wait=False)
        ready = (await client.get(f"/api/v1/exports/{export_id}", headers=headers)).json()
        assert ready["state"] == "ready"
        for name in [*ready["manifest"]["files"], "manifest.json"]:
            file = await client.get(f"/api/v1/exports/{export_id}/files/{name}", headers=headers)
            assert file.status_code == 200
        for name in ("passwd", "..%2F..%2Fetc%2Fpasswd"):
            gone = await client.get(f"/api/v1/exports/{export_id}/files/{name}", headers=headers)
            assert gone.status_code in (404, 307)
