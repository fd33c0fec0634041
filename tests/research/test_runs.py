"""A finished run's page: its figures, accuracy by slice, and the trainer's report, shown apart."""

from pathlib import Path

import httpx
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import Role
from app.datasets.models import Export, ExportState
from app.policies.models import Backend
from app.training.models import Run, RunState
from tests.factories.accounts import create_user, sign_in
from tests.factories.projects import create_policy, create_project

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


async def test_a_report_is_for_researchers_and_only_where_it_is(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    run = await create_run(session, None)
    await sign_in(client, session, await create_user(session, Role.RATER))
    assert (await client.get(f"/research/runs/{run.id}/report")).status_code == 403
    await sign_in(client, session, await create_user(session, Role.RESEARCHER))
    assert (await client.get(f"/research/runs/{run.id}/report")).status_code == 404
    assert "Full report" not in (await client.get(f"/research/runs/{run.id}")).text
