"""Prompts with candidates, tasks and rankings for tests."""

import itertools
from collections.abc import Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from app.intake.service import import_prompts
from app.projects.models import Project
from app.prompts.parse import parse_row

_numbers = itertools.count(1)
LIMIT = 256 * 1024


def row(candidates: int | Sequence[Any] = 4, **fields: Any) -> dict[str, Any]:
    """A row of the import format, with its own text."""
    number = next(_numbers)
    if isinstance(candidates, int):
        candidates = [f"Answer {letter} to {number}" for letter in "ABCDEFGHI"[:candidates]]
    found: dict[str, Any] = {"prompt": f"Question {number}"} | fields
    return {**found, "candidates": list(candidates)} if candidates else found


async def create_tasks(
    session: AsyncSession,
    project: Project,
    count: int = 1,
    *,
    candidates: int | Sequence[Any] = 4,
    **fields: Any,
) -> None:
    """Tasks that wait for raters."""
    rows = [
        parse_row(row(candidates, **fields), line, max_bytes=LIMIT) for line in range(1, count + 1)
    ]
    await import_prompts(session, project, rows, source="test", actor=None)
