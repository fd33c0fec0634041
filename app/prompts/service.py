"""Storing prompts and the candidates that came along, and changing their place in the queue."""

import uuid
from collections.abc import Mapping, Sequence
from typing import cast

from sqlalchemy import Table, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.service import record
from app.db.types import uuid7s
from app.errors import NotFound
from app.inputs import printable
from app.policies.models import Policy
from app.policies.service import get_or_create_imported_policy
from app.projects.models import Project
from app.prompts.models import Candidate, Prompt, PromptImport, PromptState
from app.prompts.parse import PromptRow


async def add_prompts(
    session: AsyncSession,
    project: Project,
    rows: Sequence[PromptRow],
    *,
    import_id: uuid.UUID | None,
    wanted: int | None = None,
    policy_ids: Sequence[uuid.UUID] | None = None,
) -> list[tuple[PromptRow, uuid.UUID, list[uuid.UUID]]]:
    """Store a batch: (row, prompt id, candidate ids) of each that was new.

    A row whose id the project has already is left out, and so is its second appearance in the batch.
    Rows with candidates are ready at once; the others are queued for the worker.
    """
    values = [
        {
            "id": prompt_id,
            "project_id": project.id,
            "import_id": import_id,
            "external_id": row.external_id,
            "messages": row.messages,
            "content_hash": row.content_hash,
            "priority": row.priority,
            "metadata": row.metadata,
            "state": PromptState.READY if row.candidates else PromptState.QUEUED,
            "wanted": wanted,
            "policy_ids": list(policy_ids) if policy_ids else None,
        }
        for prompt_id, row in zip(uuid7s(len(rows)), rows, strict=True)
    ]
    if not values:
        return []
    table = cast(Table, Prompt.__table__)
    # The rows are parameters, not part of the statement: it is compiled once for all batches.
    statement = insert(table).on_conflict_do_nothing().returning(table.c.id)
    stored = set((await session.scalars(statement, values)).all())
    names = {each.policy for row in rows for each in row.candidates if each.policy}
    policies: Mapping[str, Policy] = {
        name: await get_or_create_imported_policy(session, name) for name in sorted(names)
    }
    added = []
    candidates = []
    for row, value in zip(rows, values, strict=True):
        if value["id"] not in stored:
            continue
        prompt_id = value["id"]
        assert isinstance(prompt_id, uuid.UUID)
        ids = [uuid.uuid4() for _ in row.candidates]
        added.append((row, prompt_id, ids))
        seen: dict[str, int] = {}
        for position, (each, candidate_id) in enumerate(zip(row.candidates, ids, strict=True)):
            candidates.append(
                {
                    "id": candidate_id,
                    "prompt_id": prompt_id,
                    "position": position,
                    "text": each.text,
                    "policy_id": policies[each.policy].id if each.policy else None,
                    "duplicate_of": seen.get(each.text.strip()),
                }
            )
            seen.setdefault(each.text.strip(), position)
    for start in range(0, len(candidates), 2000):
        await session.execute(insert(Candidate), candidates[start : start + 2000])
    return added


async def start_import(
    session: AsyncSession, project: Project, *, source: str, actor: uuid.UUID | None
) -> PromptImport:
    """The record of an import, to be filled in as its rows are read."""
    batch = PromptImport(project_id=project.id, source=printable(source)[:300], created_by=actor)
    session.add(batch)
    await session.flush()
    return batch


async def get_prompt(session: AsyncSession, project: Project, prompt_id: uuid.UUID) -> Prompt:
    """The project's prompt. Raises NotFound."""
    prompt: Prompt | None = await session.get(Prompt, prompt_id)
    if prompt is None or prompt.project_id != project.id:
        raise NotFound("The project has no such prompt", field="prompt")
    return prompt


async def set_priority(
    session: AsyncSession,
    project: Project,
    prompt_ids: Sequence[uuid.UUID],
    priority: int,
    *,
    actor: uuid.UUID | None,
) -> list[uuid.UUID]:
    """Move prompts up or down the queue; the ids of those that are this project's."""
    moved = (
        await session.scalars(
            update(Prompt)
            .where(Prompt.project_id == project.id, Prompt.id.in_(prompt_ids))
            .values(priority=priority)
            .returning(Prompt.id)
        )
    ).all()
    await record(
        session, actor, "prompts.priority", project.slug, count=len(moved), priority=priority
    )
    return list(moved)
