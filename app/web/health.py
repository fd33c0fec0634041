"""Whether the process lives, whether it can work, and its figures."""

import asyncio

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app import figures
from app.db.failures import explain, full_database_disk
from app.db.migrate import current_revision, newest_revision
from app.db.server import embedded_disk_is_full
from app.errors import Unavailable
from app.settings import Settings

router = APIRouter(include_in_schema=False)

# A sort that does not fit into so little memory goes through a file of the server's, which is gone at once:
# it leaves no row and no log behind, and finds out in milliseconds whether the disk takes a megabyte.
FEW_BYTES_OF_MEMORY = "SET LOCAL work_mem = '64kB'"
WRITE_A_MEGABYTE = """
    SELECT count(*) FROM (
        SELECT repeat(md5(n::text), 8) AS words FROM generate_series(1, 4000) AS n ORDER BY words OFFSET 0
    ) AS sorted"""


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process lives."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(request: Request) -> dict[str, str]:
    """The database answers, is at the newest schema, and its disk takes what people send."""
    settings: Settings = request.app.state.settings
    try:
        async with request.app.state.engine.connect() as connection:
            revision = await current_revision(connection)
            await connection.execute(text(FEW_BYTES_OF_MEMORY))
            await connection.execute(text(WRITE_A_MEGABYTE))
    except (SQLAlchemyError, OSError) as error:
        reason = explain(error)
        if type(reason) is not Unavailable and reason is not None:
            raise reason from error
        if embedded_disk_is_full(settings):
            raise full_database_disk() from error
        raise Unavailable("The database does not answer", field="database") from error
    if revision != newest_revision():
        raise Unavailable(
            f"The database is at revision {revision}, this code needs {newest_revision()}: "
            "run `plackett migrate`",
            field="migrations",
        )
    return {"status": "ok", "revision": revision}


@router.get("/metrics")
async def metrics() -> Response:
    """Figures for Prometheus, of every process that works on this data folder."""
    return Response(await asyncio.to_thread(figures.tell), media_type=CONTENT_TYPE_LATEST)
