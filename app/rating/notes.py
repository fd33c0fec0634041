"""Raters' notes to the admins about a task, and what admins do with them."""

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.models import User
from app.accounts.service import record
from app.errors import InvalidInput, NotFound
from app.projects.models import Project
from app.prompts.models import Prompt
from app.rating import assignments
from app.rating.assign import no_such_assignment
from app.rating.models import NoteKind, Task, TaskNote

LONGEST_NOTE = 2000  # characters


class Note(NamedTuple):
    """A note as admins read it."""

    id: uuid.UUID
    kind: NoteKind
    text: str
    rater: str
    prompt_id: uuid.UUID
    asked: str
    at: datetime
    resolved_at: datetime | None


async def create_note(
    session: AsyncSession, assignment_id: uuid.UUID, rater: User, kind: str, text: str
) -> str:
    """Tell the admins about a task, whatever becomes of the assignment; the project's slug.

    The same again, as long as nobody is done with it, changes nothing. Raises NotFound, InvalidInput
    for another kind, or a note of no kind that says nothing.
    """
    assignment = await assignments.find_assignment(session, assignment_id, rater.id)
    if assignment is None:
        raise no_such_assignment()
    words = text.replace("\r\n", "\n").strip()
    if kind not in set(NoteKind):
        raise InvalidInput(f"is not one of {', '.join(NoteKind)}", field="kind")
    if "\x00" in words or len(words) > LONGEST_NOTE:
        raise InvalidInput(f"takes {LONGEST_NOTE} characters, and no NUL", field="text")
    if kind == NoteKind.OTHER and not words:
        raise InvalidInput("say what is the matter", field="text")
    same = select(TaskNote.id).where(
        TaskNote.task_id == assignment.task_id,
        TaskNote.rater_id == rater.id,
        TaskNote.kind == kind,
        TaskNote.text == words,
        TaskNote.resolved_at.is_(None),
    )
    if await session.scalar(same.limit(1)) is None:
        session.add(
            TaskNote(
                project_id=assignment.project_id,
                task_id=assignment.task_id,
                rater_id=rater.id,
                kind=NoteKind(kind),
                text=words,
            )
        )
        await session.flush()
    return assignment.slug


async def list_notes(
    session: AsyncSession,
    project: Project,
    *,
    prompt_id: uuid.UUID | None = None,
    limit: int = 100,
    offset: int = 0,
) -> Sequence[Note]:
    """A project's notes (or one prompt's), those that wait first, then the newest."""
    rows = select(TaskNote, User, Prompt).where(TaskNote.project_id == project.id)
    rows = (
        rows.join(Task, Task.id == TaskNote.task_id)
        .join(Prompt, Prompt.id == Task.prompt_id)
        .join(User, User.id == TaskNote.rater_id)
        .order_by(TaskNote.resolved_at.is_not(None), TaskNote.id.desc())
        .limit(limit)
        .offset(offset)
    )
    if prompt_id is not None:
        rows = rows.where(Prompt.id == prompt_id)
    return [
        Note(
            id=note.id,
            kind=note.kind,
            text=note.text,
            rater=rater.display_name,
            prompt_id=prompt.id,
            asked=str(prompt.messages[-1]["content"]),
            at=note.created_at,
            resolved_at=note.resolved_at,
        )
        for note, rater, prompt in await session.execute(rows)
    ]


async def count_notes(session: AsyncSession, project: Project) -> tuple[int, int]:
    """(a project's notes that wait for an admin, all of them)."""
    row = (
        await session.execute(
            select(func.count().filter(TaskNote.resolved_at.is_(None)), func.count()).where(
                TaskNote.project_id == project.id
            )
        )
    ).one()
    return row[0], row[1]


async def set_resolved(
    session: AsyncSession,
    project: Project,
    note_id: uuid.UUID,
    resolved: bool,
    *,
    actor: uuid.UUID,
) -> None:
    """An admin is done with a note, or is not after all. Raises NotFound."""
    found = await session.scalar(
        update(TaskNote)
        .where(TaskNote.id == note_id, TaskNote.project_id == project.id)
        .values(resolved_at=func.now() if resolved else None)
        .returning(TaskNote.id)
    )
    if found is None:
        raise NotFound("There is no such note", field="note")
    done = "note.resolve" if resolved else "note.reopen"
    await record(session, actor, done, project.slug, note=str(note_id))
