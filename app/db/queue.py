"""The job queue: Procrastinate in the same PostgreSQL.

A room's `jobs.py` has `create_jobs(…) -> Blueprint`, a function that takes what the jobs need (sessions,
settings) and defines them; the composition root gathers the blueprints into one application. Whoever
queues a job names it and its queue, on the connection of the session that stores the job's reason, so
that either both are there or neither.
"""

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache

from procrastinate import App, Blueprint, PsycopgConnector
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job
from procrastinate.manager import JobManager
from procrastinate.tasks import configure_task
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.engine import libpq_url
from app.logs import get_request_id

# Beside a job's own arguments.
REQUEST_ID = "request_id"


def take_request_id(job: Job) -> str | None:
    """The id of the request that wanted the job; what is left are the arguments of its function."""
    name = job.task_kwargs.pop(REQUEST_ID, None)
    return name if isinstance(name, str) else None


def create_job_app(url: str, blueprints: Mapping[str, Blueprint], *, pool_size: int = 4) -> App:
    """The queue's application. A job's name is its namespace, a colon and its function's name."""
    connector = PsycopgConnector(
        conninfo=lambda: libpq_url(url),  # asked for each connection
        min_size=1,
        max_size=pool_size,
        kwargs={"application_name": "plackett-jobs", "connect_timeout": 5},
    )
    jobs = App(connector=connector)
    for namespace, blueprint in blueprints.items():
        jobs.add_tasks_from(blueprint, namespace=namespace)
    return jobs


# One statement, so that of many who look at once each job is given back by one: the row is locked, and
# looked at again once it is.
RETRY_STALLED = """
SELECT job.id, job.task_name AS task, job.attempts,
       procrastinate_retry_job_v2(job.id, now(), NULL, NULL, NULL)::text AS done
FROM (
    SELECT id, task_name, attempts FROM procrastinate_jobs
    WHERE status = 'doing' AND NOT EXISTS (
        SELECT FROM procrastinate_workers AS worker
        WHERE worker.id = worker_id
          AND worker.last_heartbeat >= now() - make_interval(secs => %(seconds)s)
    )
    FOR UPDATE SKIP LOCKED
) AS job
"""


async def retry_stalled(jobs: App, *, seconds: float) -> list[dict[str, object]]:
    """Give back to the queue every job whose worker gave no sign of life for so long: (id, task, attempts).

    Whoever carries out such a job has to expect traces of its first try.
    """
    rows = await jobs.connector.execute_query_all_async(RETRY_STALLED, seconds=seconds)
    return [{name: row[name] for name in ("id", "task", "attempts")} for row in rows]


@lru_cache
def _manager() -> JobManager:
    # Its own connections are never opened: every job is deferred on a session's.
    return JobManager(PsycopgConnector())


async def defer(
    session: AsyncSession,
    name: str,
    *,
    queue: str,
    arguments: Mapping[str, str],
    not_before: datetime | None = None,
    lock: str | None = None,
) -> None:
    """Queue the job `name` in the session's own transaction. `lock`: one such job at a time.

    The id of the request that wants it goes with it (`take_request_id`).
    """
    connection = await session.connection()
    raw = await connection.get_raw_connection()
    deferrer = configure_task(
        name=name,
        job_manager=_manager(),
        queue=queue,
        schedule_at=not_before,
        lock=lock,
        connection=raw.driver_connection,
    )
    try:
        await deferrer.defer_async(**arguments, **{REQUEST_ID: get_request_id()})
    except ConnectorException as error:
        # The database's own word (a lock, a full disk) is what our callers know how to tell.
        raise error.__cause__ or error from None
