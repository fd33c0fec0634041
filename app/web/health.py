"""Whether the process lives, whether it can work, and its figures."""

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy.exc import SQLAlchemyError

from app.db.migrate import current_revision, newest_revision
from app.errors import Unavailable

router = APIRouter(include_in_schema=False)


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process lives."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(request: Request) -> dict[str, str]:
    """The database answers and is at the newest schema."""
    try:
        async with request.app.state.engine.connect() as connection:
            revision = await current_revision(connection)
    except (SQLAlchemyError, OSError) as error:
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
    """Figures for Prometheus."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
