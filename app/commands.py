"""The commands that run the whole: the demo, the web application, the worker, migrations."""

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from app.settings import get_settings
from app.terminal import database


def demo(
    port: Annotated[int, typer.Option(help="The port of the web application.")] = 8000,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where everything is kept [default: .plackett].")
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Open no browser.")] = False,
    model: Annotated[
        str | None,
        typer.Option(help="A chat model to use instead of the little story-teller: path or id."),
    ] = None,
) -> None:
    """Everything on one machine: database, sample project, web application and worker.

    Example: plackett demo --port 8080
    """
    from app.demo import run_demo

    if data_dir is not None:
        os.environ["PLACKETT_DATA_DIR"] = str(data_dir)
        get_settings.cache_clear()
    settings = get_settings()
    with database(settings) as url:
        raise typer.Exit(
            run_demo(url, settings, port=port, open_browser=not no_browser, model=model)
        )


def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="How many processes.")] = 1,
) -> None:
    """The web application.

    Example: plackett serve --host 0.0.0.0 --port 8000 --workers 4
    """
    from app.logs import configure_logs
    from app.serve import serve as run_server

    settings = get_settings()
    configure_logs(settings.log_format)
    # Each process that is started holds the embedded server itself, and helps to keep it alive.
    with database(settings):
        run_server(host, port, workers)


def worker(
    queue: Annotated[
        list[str] | None,
        typer.Option(help="A queue to work on, given once for each [default: all of them]."),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Jobs at the same time.")] = 2,
) -> None:
    """Write candidates, train, make exports.

    Example: plackett worker --queue generation --concurrency 4
    """
    from app import figures
    from app.logs import configure_logs
    from app.worker import QUEUES, run_worker

    settings = get_settings()
    configure_logs(settings.log_format)
    queues = tuple(queue or QUEUES)
    unknown = set(queues) - set(QUEUES)
    if unknown:
        raise typer.BadParameter(
            f"there is no queue {sorted(unknown)[0]!r}; there are {', '.join(QUEUES)}",
            param_hint="--queue",
        )
    figures.share(settings.figures_dir)
    with database(settings) as url:
        asyncio.run(run_worker(url, settings, queues=queues, concurrency=concurrency))


def migrate() -> None:
    """Bring the database to the newest schema.

    Example: DATABASE_URL=postgresql://… plackett migrate
    """
    from app.db.migrate import migrate as upgrade
    from app.db.migrate import newest_revision

    with database(get_settings(), migrated=False) as url:
        upgrade(url)
    typer.echo(f"The database is at revision {newest_revision()}.")
