"""Everything on one machine: a model of our own, a sample project, the web application, the worker."""

import asyncio
import fcntl
import os
import subprocess
import sys
import time
import webbrowser
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
from rich.console import Console
from rich.panel import Panel
from sqlalchemy.ext.asyncio import AsyncSession

from app import stopping
from app.accounts import service as accounts
from app.accounts.models import Role, User
from app.accounts.queries import get_user_by_email
from app.db.engine import open_sessions
from app.errors import Conflict, Unavailable
from app.generation.service import enqueue_waiting
from app.intake.service import import_prompts
from app.policies import service as policies
from app.policies.models import Backend
from app.policies.queries import find_policy
from app.policies.schemas import PolicyIn
from app.projects import service as projects
from app.projects.models import Project
from app.projects.queries import find_project
from app.projects.schemas import ProjectIn
from app.prompts.limits import Limits
from app.prompts.reading import Reading, read_file
from app.settings import CHECKOUT, Settings

SLUG = "stories"
STORY_TELLER = "story-teller"
PEOPLE = {
    Role.RATER: ("rater@demo.example", "Robin Rater"),
    Role.ADMIN: ("admin@demo.example", "Alex Admin"),
    Role.RESEARCHER: ("researcher@demo.example", "Rita Researcher"),
}
# A link printed by the demo works as long as somebody may reasonably leave it running.
LINK_LIFETIME = timedelta(days=7)
READY_SECONDS = 90

GUIDELINES = """\
# Which little story is better?

You see one request and several stories written for it. Put the story that you would rather read to a \
child **first**, the next best second, and so on. Two stories may share a place.

1. **Does it do what was asked?** The right hero, place and thing; the mood and length that were wished for.
2. **Does it hold together?** One thing follows from another, and people stay who they are.
3. **Is it a pleasure to read?** Something happens, somebody speaks, and the ending feels like one.

Do not reward length for its own sake. Where all are equally poor, give them the same place. Skip a task \
only when you cannot judge it, and say why.
"""


@dataclass(frozen=True)
class Links:
    """The addresses that sign each role in."""

    by_role: Mapping[Role, str]


def run_demo(
    url: str, settings: Settings, *, port: int, open_browser: bool, model: str | None
) -> int:
    """Run until Ctrl-C. The exit code: 0, or 1 where a part died on its own."""
    console = Console(stderr=True)
    address = f"http://127.0.0.1:{port}"
    with _the_only_one(settings.data_dir / f"demo-{port}.lock", address):
        _check_port(port)
        with _one_at_a_time(settings.data_dir / "demo.lock", console):
            teller = None if model else make_story_teller(settings, console)
            links = asyncio.run(_prepare(url, settings, address, model=model, teller=teller))
        return _run_parts(settings, console, address, links, open_browser=open_browser)


def _run_parts(
    settings: Settings, console: Console, address: str, links: Links, *, open_browser: bool
) -> int:
    """The web application and the worker, until told to stop or one of them ends."""
    environment = {
        # On one's own machine a model's server is likely to be another program of it (Ollama, llama.cpp).
        "PLACKETT_POLICY_PRIVATE_HOSTS": "localhost,127.0.0.0/8,::1",
        **os.environ,
        "PLACKETT_DATA_DIR": str(settings.data_dir),
        "PLACKETT_BASE_URL": address,
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    logs = settings.data_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    parts: dict[str, subprocess.Popen[bytes]] = {}
    try:
        port = address.rpartition(":")[2]
        parts["web"] = _start(["serve", "--port", port], logs / "web.log", environment)
        parts["worker"] = _start(["worker"], logs / "worker.log", environment)
        _wait_until_ready(address, parts)
        _announce(links, address, logs)
        if open_browser and _has_screen():
            webbrowser.open(links.by_role[Role.RATER])
        return _watch(parts, logs, console)
    except KeyboardInterrupt:
        console.print("\nStopping; everything is kept for the next start.")
        return 0
    finally:
        _stop(parts)


@contextmanager
def _the_only_one(path: Path, address: str) -> Iterator[None]:
    """Raise Unavailable where a demo of this folder has the address, or is about to."""
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unavailable(
                f"the demo of this folder runs already at {address}, or is being started there; "
                "choose another port with --port to have it twice",
                field="--port",
            ) from None
        yield


@contextmanager
def _one_at_a_time(path: Path, console: Console) -> Iterator[None]:
    """Wait while another demo prepares this folder: it makes what we would make."""
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print("Another demo is preparing this folder; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_story_teller(settings: Settings, console: Console) -> Path:
    """The directory of the demo's own model, trained from nothing the first time.

    The demo's trainer does it in a process of its own: this package never imports it.
    """
    folder = settings.models_dir / STORY_TELLER
    if not (folder / "info.json").exists():
        console.print(
            "Training a small story-teller from scratch, once (about a minute and a half)."
        )
        command = [sys.executable, "-m", "demo", "--out", str(folder)]
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
        done = subprocess.run(
            command, cwd=CHECKOUT, stdout=subprocess.DEVNULL, env=environment, check=False
        )
        if done.returncode != 0:
            raise Unavailable(
                f"the story-teller could not be trained (exit code {done.returncode})",
                field=str(folder),
            )
    return folder


async def _prepare(
    url: str, settings: Settings, address: str, *, model: str | None, teller: Path | None
) -> Links:
    async with open_sessions(url) as sessions, sessions() as session:
        people = {role: await _person(session, role) for role in PEOPLE}
        project = await _project(session, people[Role.ADMIN])
        await _policy(session, project, model or str(teller and teller / "model"), model)
        if teller is not None:
            await import_prompts(
                session,
                project,
                read_file(teller / "prompts.jsonl", Reading(limits=Limits.of(settings))),
                source="demo",
                actor=people[Role.ADMIN].id,
            )
        await enqueue_waiting(session, project.id)
        links = {
            role: await accounts.create_sign_in_link(
                session, user, lifetime=LINK_LIFETIME, reusable=True
            )
            for role, user in people.items()
        }
        await session.commit()
    return Links({role: f"{address}/sign-in/{token}" for role, token in links.items()})


async def _person(session: AsyncSession, role: Role) -> User:
    email, name = PEOPLE[role]
    known = await get_user_by_email(session, email)
    return known or await accounts.create_user(session, email, role, name=name)


async def _project(session: AsyncSession, admin: User) -> Project:
    known = await find_project(session, SLUG)
    if known is not None:
        return known
    wanted = ProjectIn.model_validate(
        {
            "slug": SLUG,
            "name": "Little stories",
            "description": "Short stories by a small model, trained on this machine.",
            "candidates_per_task": 4,
            "overlap": 1,
            "axes": [
                {"name": "follows", "question": "Does it do what was asked?", "min": 1, "max": 5},
                {"name": "pleasure", "question": "Is it a pleasure to read?", "min": 1, "max": 5},
            ],
            "sampling": {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 160},
            "guidelines": GUIDELINES,
        }
    )
    return await projects.create_project(session, wanted, actor=admin.id)


async def _policy(session: AsyncSession, project: Project, path: str, model: str | None) -> None:
    """Register the model under its name and let it write; one registered before stays as it is."""
    name = STORY_TELLER if model is None else Path(model).name or model
    known = await find_policy(session, name)
    if known is not None:
        if model is not None and known.model != path:
            raise Conflict(
                f"the registry has another model under the name {name!r}: {known.model}",
                field="--model",
            )
        return
    policy = await policies.register_policy(
        session, PolicyIn(name=name, backend=Backend.TRANSFORMERS, model=path)
    )
    await policies.set_project_policies(session, project, [policy])


def _start(
    arguments: list[str], log: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C reaches the demo alone, which then stops its parts in order.
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "app", *arguments],
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=dict(environment),
            start_new_session=True,
        )


def _wait_until_ready(address: str, parts: Mapping[str, subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        for name, part in parts.items():
            if part.poll() is not None:
                raise Unavailable(f"the {name} process ended at once; see its log", field=name)
        try:
            if httpx.get(f"{address}/readyz", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise Unavailable(f"the web application did not answer within {READY_SECONDS} s", field="web")


def _announce(links: Links, address: str, logs: Path) -> None:
    console = Console()
    lines = [f"[bold]Plackett runs at {address}[/bold]", "", "Sign in as"]
    lines += [f"  {role.value:<11}{link}" for role, link in links.by_role.items()]
    lines += ["", f"Logs are in {logs}. Ctrl-C stops it; the next start goes on from here."]
    if console.is_terminal and console.width > 100:
        console.print(Panel.fit("\n".join(lines), padding=(1, 2)), soft_wrap=True)
    else:
        for line in lines:
            console.print(line, soft_wrap=True, highlight=False)


def _watch(parts: Mapping[str, subprocess.Popen[bytes]], logs: Path, console: Console) -> int:
    while True:
        for name, part in parts.items():
            code = part.poll()
            if code is not None:
                console.print(f"The {name} process ended (exit code {code}); see {logs}.")
                return 1
        time.sleep(0.5)


def _stop(parts: Mapping[str, subprocess.Popen[bytes]]) -> None:
    with stopping.deferred():
        for part in parts.values():
            part.terminate()
        deadline = time.monotonic() + stopping.PROCESS_SECONDS
        for part in parts.values():
            try:
                part.wait(timeout=max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                part.kill()
                part.wait()


def _check_port(port: int) -> None:
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise Unavailable(
                f"port {port} is taken by another program; choose one with --port", field="--port"
            ) from None


def _has_screen() -> bool:
    """Whether a browser window can open: on a server, a text browser would take the terminal."""
    return sys.platform == "darwin" or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
