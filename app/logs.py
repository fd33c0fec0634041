"""How log lines look: readable in a terminal, JSON for machines; our own and the libraries'."""

import logging
import secrets
import sys
from typing import Literal

import structlog

from app.redaction import redact

# Long enough that no two of a log are the same, short enough to be read to somebody.
ID_BYTES = 8


def name_request(request_id: str | None = None) -> str:
    """Have every log line from here on carry the id of the request that all this is done for.

    A new one where none is given. What a request sets off (a job, a trainer) goes on under its id.
    """
    name = request_id or secrets.token_hex(ID_BYTES)
    structlog.contextvars.bind_contextvars(request_id=name)
    return name


def get_request_id() -> str | None:
    """The id that log lines carry here."""
    name: str | None = structlog.contextvars.get_contextvars().get("request_id")
    return name


class DiscreetFormatter(structlog.stdlib.ProcessorFormatter):
    """Lines, tracebacks included, without what looks like a secret."""

    def format(self, record: logging.LogRecord) -> str:
        """The line as it is written."""
        return redact(super().format(record))


def configure_logs(style: Literal["console", "json"], *, level: int = logging.INFO) -> None:
    """Send every log line of this process to stderr, in one form."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Tracebacks without the values of variables: those may be passwords and other people's texts, and
    # to lay out megabytes of them stops everything else for seconds.
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if style == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    final: list[structlog.typing.Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta
    ]
    if style == "json":
        plain = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        final.append(structlog.processors.ExceptionRenderer(plain))
    handler.setFormatter(DiscreetFormatter(foreign_pre_chain=shared, processors=[*final, renderer]))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # Every poll and request of these is a line that nobody reads.
    for name in ("httpx", "httpcore", "uvicorn.access", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("procrastinate", "psycopg.pool"):
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
