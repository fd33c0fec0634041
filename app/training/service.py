"""Training runs: starting them, following them, registering what they make."""

import uuid
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import User
from app.accounts.service import record
from app.datasets.models import Export, ExportState
from app.datasets.queries import find_newest_ready_export
from app.datasets.service import get_export
from app.db.queue import defer
from app.errors import Conflict, InvalidInput, NotFound
from app.generation.service import enqueue_waiting
from app.policies.models import Backend, Policy
from app.policies.queries import find_policy, list_project_policies, sees_policy
from app.policies.schemas import PolicyIn
from app.policies.service import (
    get_policy,
    no_such_policy,
    register_policy,
    set_project_policies,
)
from app.projects.models import Project
from app.projects.queries import sees_project
from app.training import catalogue, queries
from app.training.models import REWARD, Run, RunMetric, RunState
from app.training.schemas import RunIn

# One run at a time: a run takes all of a machine's cores, or its GPU.
TRAINING_LOCK = "training"
# As many as candidates of a task: with more, some would never meet.
MOST_WRITERS = 9
ENDED = (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)


async def start_run(
    session: AsyncSession,
    project: Project,
    wanted: RunIn,
    *,
    actor: uuid.UUID | None,
    viewer: User | None = None,
) -> Run:
    """A queued run, and the job that carries it out.

    With a `viewer`, nothing goes into it that they do not see (without, whoever runs the machine asks).

    Raises NotFound or Conflict, naming what is missing: an export that is ready, a local policy to
    start from, a reward model to train against; InvalidInput for settings that the trainer refuses.
    """
    stage = await catalogue.get_stage(wanted.stage)
    flags = await catalogue.check_flags(wanted.stage, wanted.config)
    export = await _choose_export(session, project, wanted)
    base = await _choose_base(session, project, wanted, viewer)
    reward = await _choose_reward(session, project, wanted, stage, viewer)
    run = Run(
        project_id=project.id,
        stage=wanted.stage,
        catalogue=stage.entry,
        export_id=export.id,
        base_policy_id=base.id,
        reward_run_id=reward.id if reward else None,
        config={
            "flags": flags,
            "name": wanted.name,
            "serve": wanted.serve,
            "replace": wanted.replace,
        },
        created_by=actor,
    )
    if wanted.name and await find_policy(session, wanted.name) is not None:
        raise Conflict(f"There is already a policy {wanted.name!r}", field="name")
    session.add(run)
    await session.flush()
    await record(session, actor, "run.start", project.slug, stage=wanted.stage)
    await defer(
        session,
        "training:run",
        queue="training",
        arguments={"run_id": str(run.id)},
        lock=TRAINING_LOCK,
    )
    return run


async def _choose_export(session: AsyncSession, project: Project, wanted: RunIn) -> Export:
    if wanted.export is None:
        export = await find_newest_ready_export(session, project.id)
        if export is None:
            raise Conflict(
                "The project has no export that is ready: make one first", field="export"
            )
        return export
    export = await get_export(session, wanted.export)
    if export.project_id != project.id:
        raise NotFound("The project has no such export", field="export")
    if export.state is not ExportState.READY:
        raise Conflict(f"The export is {export.state.value}", field="export")
    return export


async def _choose_base(
    session: AsyncSession, project: Project, wanted: RunIn, viewer: User | None
) -> Policy:
    if wanted.policy is not None:
        policy = await get_policy(session, wanted.policy)
        if viewer is not None and not await sees_policy(session, viewer, policy.id):
            raise no_such_policy(wanted.policy)
        if policy.backend is not Backend.TRANSFORMERS:
            raise InvalidInput(
                f"{policy.name!r} is not a local model; only those can be trained", field="policy"
            )
        return policy
    serving = await list_project_policies(session, project.id)
    local = [policy for policy in serving if policy.backend is Backend.TRANSFORMERS]
    if not local:
        raise Conflict("The project has no local policy to start from", field="policy")
    return local[0]


async def _choose_reward(
    session: AsyncSession,
    project: Project,
    wanted: RunIn,
    stage: catalogue.Stage,
    viewer: User | None,
) -> Run | None:
    if REWARD not in stage.needs:
        if wanted.reward is not None:
            raise InvalidInput(f"{stage.title} takes no reward model", field="reward")
        return None
    if wanted.reward is None:
        reward = await queries.find_newest_reward_run(session, project.id)
        if reward is None:
            raise Conflict("The project has no reward model: train one first", field="reward")
        return reward
    if viewer is None:
        reward = await get_run(session, wanted.reward)
    else:
        reward = await get_run_for(session, viewer, wanted.reward)
    if not reward.makes_reward_model or reward.state is not RunState.SUCCEEDED:
        raise Conflict("That run is no reward model that succeeded", field="reward")
    return reward


async def get_run(session: AsyncSession, run_id: uuid.UUID) -> Run:
    """The run. Raises NotFound."""
    run = await session.get(Run, run_id)
    if run is None:
        raise NotFound("There is no such run", field="run")
    return run


async def get_run_for(session: AsyncSession, viewer: User, run_id: uuid.UUID) -> Run:
    """The run, for somebody who sees its project. Raises NotFound."""
    run = await get_run(session, run_id)
    if not await sees_project(session, viewer, run.project_id):
        raise NotFound("There is no such run", field="run")
    return run


async def request_cancel(session: AsyncSession, run: Run, *, actor: uuid.UUID | None) -> None:
    """Ask a run to stop. One that waits stops at once; one that runs writes a checkpoint first."""
    locked = await queries.get_run_for_update(session, run.id)
    assert locked is not None
    if locked.state in ENDED:
        raise Conflict(f"The run is over: {locked.state.value}", field="run")
    locked.cancel_requested = True
    if locked.state is RunState.QUEUED:
        locked.state = RunState.CANCELLED
    project = await session.get_one(Project, run.project_id)
    await record(session, actor, "run.cancel", project.slug, run=str(run.id))
    await session.flush()


async def list_metrics(session: AsyncSession, run: Run, *, after: int = -1) -> Sequence[RunMetric]:
    """The run's metrics after this line."""
    return await queries.list_metrics(session, run.id, after=after)


async def register_result(session: AsyncSession, run: Run, model: Path) -> Policy | None:
    """Register what a succeeded run made as a policy, and let it serve if the run says so.

    A reward model is no policy: it cannot speak.
    """
    if run.makes_reward_model:
        return None
    project = await session.get_one(Project, run.project_id)
    base = await session.get_one(Policy, run.base_policy_id)
    name = run.config.get("name") or await _free_name(session, project, run)
    policy = await register_policy(
        session,
        PolicyIn(
            name=name,
            backend=Backend.TRANSFORMERS,
            model=str(model),
            notes={"stage": run.stage},
        ),
        parent=base,
        run_id=run.id,
        project=project,
        actor=run.created_by,
    )
    run.policy_id = policy.id
    if run.config.get("serve", True):
        serving = await list_project_policies(session, project.id)
        replaced = run.config.get("replace", False) or len(serving) >= MOST_WRITERS
        others = [each for each in serving if not replaced or each.id != base.id]
        await set_project_policies(session, project, [policy, *others], actor=run.created_by)
        await enqueue_waiting(session, project.id)
    return policy


async def _free_name(session: AsyncSession, project: Project, run: Run) -> str:
    number = await queries.count_runs(session, project.id)
    while True:
        name = f"{project.slug}-{run.stage}-{number}"
        if await find_policy(session, name) is None:
            return name
        number += 1
