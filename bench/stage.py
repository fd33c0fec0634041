"""The stage of bench/rating.py: a database full of open tasks, raters, the application as a process."""

import asyncio
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.progress import Progress
from sqlalchemy.engine import make_url

from app.accounts import service as accounts
from app.accounts.models import Role
from app.db.engine import libpq_url, open_sessions
from app.db.migrate import migrate
from app.projects import service as projects
from app.projects.schemas import ProjectIn

CHECKOUT = Path(__file__).resolve().parent.parent
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


@contextmanager
def new_database(server: str, name: str) -> Iterator[str]:
    """A migrated database for the time of the bench."""
    with psycopg.connect(libpq_url(server), autocommit=True) as admin:
        admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        admin.execute(f'CREATE DATABASE "{name}"')
    url = make_url(server).set(database=name).render_as_string(hide_password=False)
    try:
        migrate(url)
        yield url
    finally:
        with psycopg.connect(libpq_url(server), autocommit=True) as admin:
            admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


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


@dataclass(frozen=True)
class Served:
    """The running application."""

    address: str
    process: subprocess.Popen[bytes]
    log: Path
    began: int  # where in the log this run's words begin

    def started(self) -> int:
        """How many processes have ever said that they are up."""
        with self.log.open("rb") as text:
            text.seek(self.began)
            return len(re.findall(rb"Application startup complete", text.read()))

    def workers(self) -> list[int]:
        """The processes that answer requests."""
        return [
            pid
            for pid in children(self.process.pid)
            if b"spawn_main" in _read(f"/proc/{pid}/cmdline")
        ] or [self.process.pid]


@contextmanager
def serving(checkout: Path, url: str, *, workers: int, log: Path) -> Iterator[Served]:
    """`plackett serve` of a checkout, until the context ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"DATABASE_URL": url, "PLACKETT_DATA_DIR": str(log.parent)}
    with log.open("ab") as out:
        began = out.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "serve", "--port", str(port), "--workers", str(workers)],
            cwd=checkout,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    served = Served(f"http://127.0.0.1:{port}", process, log, began)
    try:
        wait_for(lambda: served.started() >= workers and answers(served.address), process)
        yield served
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_for(ready: Any, process: subprocess.Popen[bytes], *, seconds: float = 60) -> None:
    """Until it is so. Raises RuntimeError when the process ends, or time does, before."""
    deadline = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the application is not ready (exit code {process.poll()})")
        time.sleep(0.1)


def answers(address: str) -> bool:
    """Whether the application says that it is ready."""
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def children(pid: int) -> list[int]:
    """The processes that a process started (Linux)."""
    found = b"".join(_read(str(path)) for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return [int(child) for child in found.split()]


def cpu_seconds(pid: int) -> float:
    """What a process, its children, and those of them that have ended, have computed so far (Linux)."""
    stat = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    if not stat:
        return 0.0
    own = sum(int(ticks) for ticks in stat[11:15]) / os.sysconf("SC_CLK_TCK")
    return own + sum(cpu_seconds(child) for child in children(pid))


def machine_cpu_seconds() -> float:
    """What the whole machine has computed since it started, all its cores together (Linux)."""
    ticks = [int(each) for each in _read("/proc/stat").split(b"\n", 1)[0].split()[1:8]]
    idle = sum(ticks[3:5])  # idle and waiting for a disk
    return (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK")


def wait_for_quiet(until: float, *, cores: float = 0.2, seconds: float = 3) -> None:
    """Until the machine has next to nothing to do for some seconds, or the moment (monotonic) is past."""
    while time.monotonic() < until:
        before = machine_cpu_seconds()
        time.sleep(seconds)
        if machine_cpu_seconds() - before < cores * seconds:
            return


def tell(words: str) -> None:
    """A line for whoever waits."""
    print(words, file=sys.stderr, flush=True)
