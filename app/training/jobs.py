"""The job that carries out a training run: the trainer as a process of its own, followed from its files.

The application never imports the trainer; they meet in the export that goes in and the run directory that
comes out. Metrics are copied into the database, so that every app process can show them.
"""

import asyncio
import json
import re
import signal
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog
from procrastinate import Blueprint, JobContext, RetryStrategy
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession

from app import stopping
from app.datasets.models import Export
from app.db.engine import SessionMaker
from app.db.types import utc_now
from app.inputs import storable
from app.policies.models import Policy
from app.private import make_private
from app.settings import Settings
from app.training import queries
from app.training.catalogue import TRAINER, as_arguments, read_entry
from app.training.models import Run, RunMetric, RunState
from app.training.process import AdoptedProcess, Process, adopt, start
from app.training.service import ENDED, TRAINING_LOCK, register_result

log = structlog.get_logger(__name__)

# A run that was interrupted so often, by workers that stopped or died, is ended.
MOST_ATTEMPTS = 20
POLL_SECONDS = 1.0
# From the polite signal to the other one: time to write a checkpoint.
GRACE_SECONDS = 30.0
Result = TypeVar("Result")


def create_jobs(
    *, sessions: SessionMaker, settings: Settings, trainer: Sequence[str] = TRAINER
) -> Blueprint:
    """The training room's jobs."""
    blueprint = Blueprint()

    # A worker that is stopped, or dies, leaves a checkpoint, or a trainer that goes on by itself; the next
    # try takes up either. A trainer that fails is the end of a run, and no exception.
    @blueprint.task(
        name="run",
        queue="training",
        lock=TRAINING_LOCK,
        retry=RetryStrategy(max_attempts=MOST_ATTEMPTS + 1, wait=5),
        pass_context=True,
    )
    async def run(context: JobContext, run_id: str) -> None:
        """Carry out one run."""
        follower = Follower(sessions, settings, trainer, uuid.UUID(run_id))
        if context.job.attempts >= MOST_ATTEMPTS:
            await follower.give_up(f"It was interrupted {context.job.attempts} times")
        else:
            await follower.follow()

    return blueprint


class Interrupted(Exception):  # noqa: N818
    """The worker was told to stop while a run was under way: it goes on later."""


@dataclass
class Follower:
    """Starts the trainer for one run, or finds the one that a dead worker started, and follows it."""

    sessions: SessionMaker
    settings: Settings
    trainer: Sequence[str]
    run_id: uuid.UUID

    async def follow(self) -> None:
        """Start or adopt, follow, record the end. Raises Interrupted where the worker has to stop."""
        prepared = await self._prepare()
        if prepared is None:
            return
        command, folder = prepared
        make_private(folder)
        if (folder / "result.json").exists() and adopt(folder) is None:
            await self._copy_metrics(folder)  # it ended while nobody looked
            await self._finish(folder, 0, cancelled=False)
            return
        process = adopt(folder) or await start(command, folder)
        adopted = isinstance(process, AdoptedProcess)
        log.info(
            "a run goes on" if adopted else "a run starts", run=str(self.run_id), pid=process.pid
        )
        try:
            cancelled = await self._watch(process, folder)
        except asyncio.CancelledError:
            # The worker ends, and waits a little less long than for a run that somebody has cancelled.
            await stop(process, seconds=stopping.JOB_SECONDS - 1)
            raise Interrupted from None
        code = await process.wait()
        await patiently(lambda: self._copy_metrics(folder))
        await patiently(lambda: self._finish(folder, code, cancelled))

    async def give_up(self, reason: str) -> None:
        """End the run as failed."""
        async with self.sessions() as session:
            run = await queries.get_run_for_update(session, self.run_id)
            if run is not None and run.state not in ENDED:
                run.state, run.error, run.finished_at = RunState.FAILED, reason, utc_now()
            await session.commit()

    async def _prepare(self) -> tuple[list[str], Path] | None:
        async with self.sessions() as session:
            run = await queries.get_run_for_update(session, self.run_id)
            if run is None or run.state in ENDED:
                return None
            folder = self.settings.runs_dir / str(run.id)
            if run.cancel_requested and adopt(folder) is None:  # asked for while nobody looked
                run.state, run.finished_at = RunState.CANCELLED, utc_now()
                await session.commit()
                return None
            run.state = RunState.RUNNING
            run.started_at = run.started_at or utc_now()
            run.path = str(folder)
            command = await self._command(session, run, folder)
            await session.commit()
        return command, folder

    async def _command(self, session: AsyncSession, run: Run, folder: Path) -> list[str]:
        export = await session.get_one(Export, run.export_id)
        base = await session.get_one(Policy, run.base_policy_id)
        command = [
            *self.trainer,
            run.stage,
            *("--data", str(export.path), "--model", base.model, "--out", str(folder)),
            *("--device", self.settings.trainer_device),
        ]
        if run.reward_run_id is not None:
            reward = await session.get_one(Run, run.reward_run_id)
            command += ["--reward", str(Path(reward.path or "") / "model")]
        command += as_arguments(run.config.get("flags", {}))
        if any((folder / "checkpoints").glob("*")):
            command.append("--resume")
        return command

    async def _watch(self, process: Process, folder: Path) -> bool:
        """Follow the process; whether it was cancelled."""
        cancelled = False
        while True:
            try:
                await asyncio.wait_for(asyncio.shield(process.wait()), POLL_SECONDS)
            except TimeoutError:
                pass
            else:
                return cancelled
            wanted = await patiently(lambda: self._copy_metrics(folder))
            if wanted and not cancelled:
                cancelled = True
                await stop(process)

    async def _copy_metrics(self, folder: Path) -> bool:
        """Store new lines of metrics.jsonl; whether somebody wants the run cancelled."""
        async with self.sessions() as session:
            known = await queries.count_metrics(session, self.run_id)
            lines = read_metrics(folder / "metrics.jsonl")
            rows = [
                {"run_id": self.run_id, "line": number, "data": data}
                for number, data in enumerate(lines)
                if number >= known
            ]
            for start in range(0, len(rows), 1000):
                await session.execute(
                    insert(RunMetric).on_conflict_do_nothing(), rows[start : start + 1000]
                )
            run = await session.get_one(Run, self.run_id)
            if lines:
                step = lines[-1].get("step")
                run.step = step if isinstance(step, int) else run.step
            if run.total_steps is None or "in_force" not in run.config:
                description = read_json(folder / "config.json")
                total = description.get("total_steps")
                run.total_steps = total if isinstance(total, int) else None
                run.catalogue = read_entry(description.get("catalogue")) or run.catalogue
                used = description.get("config")
                if isinstance(used, dict):
                    run.config = {**run.config, "in_force": used}
            wanted = run.cancel_requested
            await session.commit()
            return wanted

    async def _finish(self, folder: Path, code: int, cancelled: bool) -> None:
        async with self.sessions() as session:
            run = await queries.get_run_for_update(session, self.run_id)
            assert run is not None
            run.finished_at = utc_now()
            if cancelled:
                run.state = RunState.CANCELLED
            elif code != 0:
                run.state = RunState.FAILED
                run.error = last_line(folder / "trainer.log") or f"exit code {code}"
            else:
                run.state = RunState.SUCCEEDED
                run.result = read_json(folder / "result.json")
                await register_result(session, run, folder / "model")
            log.info("a run ended", run=str(run.id), state=run.state.value, error=run.error)
            await session.commit()


async def stop(process: Process, *, seconds: float = GRACE_SECONDS) -> None:
    """Ask the process to end, with time for a checkpoint; then make it."""
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), seconds)
    except TimeoutError:
        process.kill()
        await process.wait()


async def patiently(call: Callable[[], Awaitable[Result]]) -> Result:
    """What the call gives, tried again while the database is away: the trainer goes on meanwhile."""
    while True:
        try:
            return await call()
        except (OperationalError, InterfaceError, PoolTimeout) as error:
            log.warning("a run cannot be written down yet", error=str(error).split("\n", 1)[0])
            await asyncio.sleep(POLL_SECONDS)


def read_metrics(path: Path) -> list[dict[str, object]]:
    """The whole lines of a metrics file; one that is being written waits for the next look."""
    if not path.exists():
        return []
    whole, _, _ = path.read_text(errors="replace").rpartition("\n")
    return [json.loads(line) for line in whole.split("\n") if line.strip()]


def read_json(path: Path) -> dict[str, object]:
    """A JSON object from a file; an empty one where the file is not there yet."""
    try:
        found: dict[str, object] = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return found


def last_line(path: Path) -> str:
    """The last line of a log: the trainer explains a failure in one."""
    try:
        lines = path.read_text(errors="replace").strip().splitlines()
    except FileNotFoundError:
        return ""
    return re.sub(r"^request_id=\S+ ", "", storable(lines[-1]))[:2000] if lines else ""
