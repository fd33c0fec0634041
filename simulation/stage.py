"""A database full of open tasks, and raters for them."""

import asyncio
import random
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from rich.console import Console
from rich.progress import Progress

from app.accounts import service as accounts
from app.accounts.models import Role
from app.db.engine import libpq_url, open_sessions
from app.projects import service as projects
from app.projects.schemas import ProjectIn

OVERLAP = 3
K = 4
CHUNK = 25_000  # tasks in one transaction: enough to be quick, few enough to see progress
TEXT = (
    "the model answers with care and says what it knows where it is unsure it says so too and gives "
    "sources that a reader can follow step by step without having to guess at what was meant"
)

# Ids of tasks are UUIDv7 in ascending order, as an import makes them; candidates' are random.
TASKS = """
WITH made AS (
    INSERT INTO prompts (id, project_id, messages, content_hash, state)
    SELECT gen_random_uuid(), %(project)s,
           jsonb_build_array(jsonb_build_object(
               'role', 'user',
               'content', 'Question ' || n || ': ' || substr(%(words)s::text, (1 + n %% 97)::int, 300))),
           sha256(('Question ' || n)::bytea), 'ready'
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
    RETURNING id
), answers AS (
    INSERT INTO candidates (id, prompt_id, position, text)
    SELECT gen_random_uuid(), made.id, position,
           'Answer ' || position || ': ' || substr(
               %(words)s::text, 1 + (hashtext(made.id::text) & 1023) + position * 31, %(length)s::int)
    FROM made, generate_series(0, %(k)s::int - 1) AS position
)
INSERT INTO tasks (id, project_id, prompt_id, priority, overlap, open_slots)
SELECT (lpad(to_hex(%(moment)s::bigint + row_number() OVER ()), 12, '0') || '7'
           || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid,
       %(project)s, made.id, 0, %(overlap)s::int, %(overlap)s::int
FROM made
"""


@dataclass(frozen=True)
class Stage:
    """A seeded database."""

    url: str
    slug: str
    tokens: Sequence[str]


def seed(url: str, *, tasks: int, raters: int, words: int, overlap: int = OVERLAP) -> Stage:
    """A project with that many open tasks and raters, and statistics as autovacuum would have made."""

    async def people() -> tuple[uuid.UUID, str, list[str]]:
        async with open_sessions(url) as sessions, sessions() as session:
            wanted = ProjectIn(slug="bench", name="Bench", overlap=overlap, candidates_per_task=K)
            project = await projects.create_project(session, wanted)
            tokens = []
            for number in range(raters):
                user = await accounts.create_user(session, f"r{number}@example.org", Role.RATER)
                tokens.append(await accounts.create_api_token(session, user, name="bench"))
            await session.commit()
            return project.id, project.slug, tokens

    project_id, slug, tokens = asyncio.run(people())
    text = " ".join(random.Random(0).choices(TEXT.split(), k=words + 400))
    console = Console(stderr=True)
    with (
        psycopg.connect(libpq_url(url), autocommit=True) as connection,
        Progress(console=console) as bar,
    ):
        job = bar.add_task(f"{tasks:,} tasks", total=tasks)
        for first in range(0, tasks, CHUNK):
            count = min(CHUNK, tasks - first)
            values: dict[str, Any] = {
                "project": project_id,
                "words": text,
                "length": words * 6,
                "first": first,
                "last": first + count - 1,
                "k": K,
                "overlap": overlap,
                "moment": int(time.time() * 1000) - tasks + first,
            }
            connection.execute(TASKS, values)
            bar.advance(job, count)
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("CHECKPOINT")
    return Stage(url, slug, tokens)
