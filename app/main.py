"""create_app(): middleware, routers, lifespan; nothing else."""

import gc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import APIRouter, Depends, FastAPI
from fastapi.middleware.gzip import GZipMiddleware

from app import __version__, figures
from app.accounts import pages as accounts_pages
from app.accounts.guards import SESSION_COOKIE, identify
from app.admin import (
    audit,
    generation,
    guidelines,
    imports,
    leaderboard,
    members,
    notes,
    people,
    policies,
    projects,
    prompts,
    raters,
)
from app.datasets import api as datasets_api
from app.db.engine import create_engine, create_sessions
from app.db.server import resolve_database
from app.intake import api as intake_api
from app.logs import configure_logs
from app.policies import api as policies_api
from app.projects import api as projects_api
from app.projects.frame import find_frame, recognise
from app.quality import api as quality_api
from app.rating import api as rating_api
from app.rating import pages as rating_pages
from app.research import exports, runs
from app.settings import Settings, get_settings
from app.training import api as training_api
from app.web import health, static
from app.web.addresses import UnderPrefix
from app.web.csrf import check_csrf
from app.web.edge import refuse_unstorable
from app.web.errors import LastResort, install_error_handlers
from app.web.middleware import (
    AccessLog,
    BodyLimit,
    Deadline,
    ReadersLanguage,
    RequestId,
    SecurityHeaders,
)
from app.web.openapi import describe
from app.web.proxies import TrustedProxies
from app.worker import working_inside

# No two routers hold the same address, so their order decides nothing but speed: routes are tried one by
# one, and those that raters call all day come first.
ROUTERS: Sequence[APIRouter] = (
    rating_api.api,
    rating_pages.router,
    accounts_pages.router,
    projects_api.api,
    intake_api.api,
    policies_api.api,
    quality_api.api,
    datasets_api.api,
    training_api.api,
    projects.router,
    prompts.router,
    notes.router,
    generation.router,
    raters.router,
    guidelines.router,
    imports.router,
    leaderboard.router,
    members.router,
    policies.router,
    people.router,
    audit.router,
    exports.router,
    runs.router,
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Connect on start; on stop, close what was opened (and the embedded server, if it is ours)."""
    settings: Settings = app.state.settings
    with resolve_database(settings) as url:
        engine = create_engine(
            url, pool_size=settings.pool_size, statement_seconds=settings.statement_seconds
        )
        app.state.engine = engine
        app.state.sessions = create_sessions(engine)
        try:
            async with working_inside(url, settings):
                yield
        finally:
            await engine.dispose()


def create_served_app() -> FastAPI:
    """The factory of `plackett serve`: each of its processes logs as the first does, and counts for all."""
    configure_logs(get_settings().log_format)
    figures.share(get_settings().figures_dir)
    app = create_app()
    # What was imported stays for good; to look through all of it for garbage takes the loop 100 ms.
    gc.collect()
    gc.freeze()
    return app


def create_app(settings: Settings | None = None) -> FastAPI:
    """The web application."""
    settings = settings or get_settings()
    app = FastAPI(
        title="Plackett",
        version=__version__,
        description="Collect human rankings of language-model outputs, and train with them.",
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.settings = settings
    app.add_middleware(LastResort)
    app.add_middleware(BodyLimit, limit=settings.max_request_bytes)
    # Pages and scripts shrink to a quarter; what is smaller fits into one packet anyway.
    app.add_middleware(GZipMiddleware, minimum_size=1400, compresslevel=6)
    app.add_middleware(Deadline, seconds=settings.request_seconds)
    app.add_middleware(ReadersLanguage)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(AccessLog)  # outside those: it sees what the others took, and answered
    app.add_middleware(UnderPrefix, prefix=settings.root_path)
    app.add_middleware(TrustedProxies, trusted=settings.trusted_proxies)
    app.add_middleware(RequestId)
    install_error_handlers(app, recognise)
    # FastAPI's own way to another description is to put a function in the place of its own.
    app.openapi = describe(app, session_cookie=SESSION_COOKIE)  # type: ignore[method-assign]
    app.include_router(health.router)
    static.mount(app, settings)
    for router in ROUTERS:
        app.include_router(
            router,
            dependencies=[
                Depends(identify),
                Depends(check_csrf),
                Depends(refuse_unstorable),
                Depends(find_frame),
            ],
        )
    return app
