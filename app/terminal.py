"""What commands share: the database, a transaction, input that is checked, and telling the outcome."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, TypeVar

import typer
from pydantic import BaseModel, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.engine import SessionMaker, open_sessions
from app.errors import InvalidInput
from app.inputs import describe
from app.settings import Settings, get_settings

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of sentences.")]
Slug = Annotated[str, typer.Argument(metavar="SLUG", help="The project's slug.")]

Answer = TypeVar("Answer")
Model = TypeVar("Model", bound=BaseModel)


@contextmanager
def database(settings: Settings, *, migrated: bool = True) -> Iterator[str]:
    """The database's URL; the embedded one is brought to the newest schema on the way."""
    from app.db.migrate import migrate
    from app.db.server import resolve_database

    with resolve_database(settings) as url:
        if migrated and settings.database_url is None:
            migrate(url)
        yield url


def with_sessions(work: Callable[[SessionMaker], Awaitable[Answer]]) -> Answer:
    """Run a piece of work that opens its sessions, and commits, itself."""

    async def connected(url: str) -> Answer:
        async with open_sessions(url) as sessions:
            return await work(sessions)

    with database(get_settings()) as url:
        return asyncio.run(connected(url))


def with_session(work: Callable[[AsyncSession], Awaitable[Answer]]) -> Answer:
    """Run a piece of work in one transaction, committed at its end."""

    async def in_session(sessions: SessionMaker) -> Answer:
        async with sessions() as session:
            answer = await work(session)
            await session.commit()
            return answer

    return with_sessions(in_session)


def say(sentence: str, result: Mapping[str, object], as_json: bool) -> None:
    """Print the outcome: a sentence for people, or an object for programs."""
    typer.echo(json.dumps(result, default=str, ensure_ascii=False) if as_json else sentence)


def validated(model: type[Model], values: Mapping[str, object]) -> Model:
    """The values as the model wants them; the first that is wrong is named."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        field, message = describe(error.errors()[0])
        raise InvalidInput(message, field=field or None) from None
