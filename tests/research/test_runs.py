"""A finished run's page: its figures, accuracy by slice, and the trainer's report, shown apart."""

import json
import re
from pathlib import Path

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import Role
from app.datasets.models import Export, ExportState
from app.db.engine import create_engine, create_sessions
from app.policies.models import Backend, Policy
from app.policies.queries import list_project_policies
from app.policies.service import set_project_policies
from app.projects.models import Project
from app.research.runs import as_writer
from app.training.jobs import Follower
from app.training.models import Run, RunState
from app.training.service import register_result
from tests.factories.accounts import create_user, sign_in
from tests.factories.projects import create_policy, create_project

IN_FORCE: dict[str, object] = {"kl_coef": 0.2, "batch_size": 16, "packing": True, "eval_data": None}
RESULT = {
    "test": {
        "accuracy": 0.75,
        "human": None,
        "calibration": [{"confidence": 0.6, "accuracy": 0.5, "pairs": 4}],
        "slices": {
            "rater": {"r-1<b>": {"pairs": 4, "accuracy": 0.75, "accuracy_interval": [0.3, 0.95]}}
        },
    }
}


async def create_run(session: AsyncSession, path: Path | None) -> Run:
    project = await create_project(session)
    policy = await create_policy(session, backend=Backend.TRANSFORMERS, model="m", base_url=None)
    export = Export(
        project_id=project.id, name="first", filters={}, split={}, state=ExportState.READY
    )
    session.add(export)
    await session.flush()
    run = Run(
        project_id=project.id, stage="reward", state=RunState.SUCCEEDED, export_id=export.id,
        base_policy_id=policy.id, config={}, result=RESULT, path=str(path) if path else None,
    )  # fmt: skip
    session.add(run)
    await session.flush()
    return run


async def test_a_runs_page_tells_accuracy_by_slice_and_shows_the_report_apart(
    client: httpx.AsyncClient, session: AsyncSession, tmp_path: Path
) -> None:
    (tmp_path / "report.html").write_text("<!doctype html><style>p {}</style><p>A report</p>")
    run = await create_run(session, tmp_path)
    await sign_in(client, session, await create_user(session, Role.RESEARCHER))
    page = (await client.get(f"/research/runs/{run.id}")).text
    assert "Accuracy by slice" in page
    assert "r-1&lt;b&gt;" in page
    assert "0.30–0.95" in page
    assert "slices.rater" not in page
    assert f"/research/runs/{run.id}/report" in page
    report = await client.get(f"/research/runs/{run.id}/report")
    assert report.status_code == 200
    assert "A report" in report.text
    # It is a file of another program: no script of it runs, and it is of no origin.
    assert report.headers["content-security-policy"].startswith("sandbox; default-src 'none'")


async def test_a_runs_page_shows_the_settings_in_force_for_people(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    run = await create_run(session, None)
    run.config = {"flags": {"kl-coef": 0.2}, "serve": True, "in_force": IN_FORCE}
    await sign_in(client, session, await create_user(session, Role.RESEARCHER))
    page = " ".join((await client.get(f"/research/runs/{run.id}")).text.split())
    assert '<th scope="row">kl coef</th> <td>0.2</td> <td> chosen for this run </td>' in page
    assert '<th scope="row">batch size</th> <td>16</td> <td> </td>' in page
    assert '<th scope="row">packing</th> <td>yes</td>' in page
    assert '<th scope="row">eval data</th> <td>–</td>' in page
    assert "Writes beside the one it started from" in page
    assert "{&#34;" not in page


async def test_the_settings_in_force_are_those_of_the_run_directory(
    session: AsyncSession, fresh_database: str, tmp_path: Path
) -> None:
    engine = create_engine(fresh_database)
    sessions = create_sessions(engine)
    async with sessions() as own:
        run = await create_run(own, tmp_path)
        run.config = {"flags": {"lr": 0.1}}
        await own.commit()
    (tmp_path / "config.json").write_text(json.dumps({"total_steps": 3, "config": IN_FORCE}))
    follower = object.__new__(Follower)
    follower.sessions, follower.run_id = sessions, run.id
    await follower._copy_metrics(tmp_path)
    async with sessions() as own:
        stored = await own.get_one(Run, run.id)
        assert stored.config == {"flags": {"lr": 0.1}, "in_force": IN_FORCE}
        assert stored.total_steps == 3
    await engine.dispose()


async def test_train_on_it_preselects_the_exports_own_project(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    """For every project, not only for the one that stands first."""
    runs = [await create_run(session, None) for _ in range(3)]
    await sign_in(client, session, await create_user(session, Role.RESEARCHER))
    for run in runs:
        # Where an export's page leads to.
        page = (await client.get(f"/research/runs?export={run.export_id}")).text
        chosen = re.findall(r'<option value="([^"]+)" selected', page)
        project = await session.get_one(Project, run.project_id)
        assert project.slug in chosen
        assert str(run.export_id) in chosen
        assert "beside" in chosen
    assert (await client.get("/research/runs?export=none")).status_code == 404
    assert (await client.get(f"/research/runs?export={runs[0].id}")).status_code == 404


@pytest.mark.parametrize(
    ("writes", "wanted"),
    [
        ("beside", {"new", "base"}),
        ("instead", {"new"}),
        ("not", {"base"}),
        ("", {"new", "base"}),
    ],
)
async def test_what_becomes_of_the_new_policy_is_what_the_form_says(
    session: AsyncSession, tmp_path: Path, writes: str, wanted: set[str]
) -> None:
    run = await create_run(session, tmp_path)
    run.stage, run.catalogue = "dpo", {"title": "DPO", "makes": "policy", "needs": []}
    choice = as_writer(writes)
    run.config = {"name": "new", "serve": choice["serve"], "replace": choice["replace"]}
    base = await session.get_one(Policy, run.base_policy_id)
    base.name = "base"
    project = await session.get_one(Project, run.project_id)
    await set_project_policies(session, project, [base])
    await register_result(session, run, tmp_path)
    serving = await list_project_policies(session, project.id)
    assert {policy.name for policy in serving} == wanted


async def test_no_project_has_more_writers_than_a_task_has_candidates(
    session: AsyncSession, tmp_path: Path
) -> None:
    run = await create_run(session, tmp_path)
    run.stage, run.catalogue = "dpo", {"title": "DPO", "makes": "policy", "needs": []}
    base = await session.get_one(Policy, run.base_policy_id)
    project = await session.get_one(Project, run.project_id)
    others = [await create_policy(session) for _ in range(8)]
    await set_project_policies(session, project, [base, *others])
    new = await register_result(session, run, tmp_path)
    serving = await list_project_policies(session, project.id)
    assert len(serving) == 9
    assert new in serving
    assert base not in serving


async def test_a_report_is_for_researchers_and_only_where_it_is(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    run = await create_run(session, None)
    await sign_in(client, session, await create_user(session, Role.RATER))
    assert (await client.get(f"/research/runs/{run.id}/report")).status_code == 403
    await sign_in(client, session, await create_user(session, Role.RESEARCHER))
    assert (await client.get(f"/research/runs/{run.id}/report")).status_code == 404
    assert "Full report" not in (await client.get(f"/research/runs/{run.id}")).text
