"""Secrets are planted wherever people and programs bring them, and looked for in all that is said."""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from app.db.embedded import EmbeddedServer
from app.redaction import redact
from app.settings import CHECKOUT
from simulation.served import children, free_port, wait_until_ready
from tests.accounts.test_sign_in import TOKEN
from tests.generation.openai_server import running_server

EMAIL = "ada@example.org"


def plant(kind: str) -> str:
    return f"planted-{kind}-{secrets.token_hex(8)}"


@contextmanager
def process(words: list[str], log: Path, environment: Mapping[str, str]) -> Iterator[int]:
    with log.open("ab") as out:
        started = subprocess.Popen(
            [sys.executable, "-m", "app", *words],
            cwd=CHECKOUT,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        yield started.pid
    finally:
        started.send_signal(signal.SIGTERM)
        started.wait(timeout=60)


def command(
    words: list[str], environment: Mapping[str, str], *, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app", *words],
        cwd=CHECKOUT,
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def command_lines(pids: list[int]) -> str:
    """What `ps` shows of these processes and of all that they started."""
    waiting, found = list(pids), []
    while waiting:
        pid = waiting.pop()
        waiting += children(pid)
        found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
    return "\n".join(found)


def every_row(url: str) -> str:
    """All that the database holds, as text."""
    with psycopg.connect(url) as connection:
        names = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        ).fetchall()
        rows = [
            str(row[0])
            for (name,) in names
            for row in connection.execute(
                psycopg.sql.SQL("SELECT t::text FROM {} t").format(psycopg.sql.Identifier(name))
            )
        ]
    return "\n".join(rows)


class Visitor:
    """A browser that remembers its secrets."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self.csrf: set[str] = set()

    def send(self, form: str, address: str, **fields: str) -> httpx.Response:
        found = TOKEN.search(self.client.get(form).text)
        assert found
        self.csrf.add(found[1])
        return self.client.post(address, data={"csrf_token": found[1], **fields})


def use_everything(
    address: str, planted: dict[str, str], token: str, link: str, chat: str, url: str
) -> set[str]:
    """Every way in, and every mistake on the way; the browsers' own secrets come back."""
    with ExitStack() as stack:
        visitors = [
            Visitor(stack.enter_context(httpx.Client(base_url=address, timeout=60)))
            for _ in range(3)
        ]
        headers = {"Authorization": f"Bearer {token}"}
        api = stack.enter_context(
            httpx.Client(base_url=f"{address}/api/v1", headers=headers, timeout=60)
        )
        return _use(visitors, api, planted, token, link, chat, url)


def _use(
    visitors: list[Visitor],
    api: httpx.Client,
    planted: dict[str, str],
    token: str,
    link: str,
    chat: str,
    url: str,
) -> set[str]:
    visitor, guest, late = visitors
    first = {"email": EMAIL, "password": planted["first password"]}
    wrong = {"email": EMAIL, "password": planted["wrong password"]}
    assert visitor.send("/sign-in", "/sign-in", **wrong).status_code == 401
    swapped = {"email": planted["swapped password"], "password": EMAIL}
    assert visitor.send("/sign-in", "/sign-in", **swapped).status_code == 401
    assert visitor.send("/sign-in", "/sign-in", **first).status_code == 303
    new = {"current": planted["first password"], "password": planted["second password"]}
    new["keep"] = "tokens"
    assert visitor.send("/account", "/account/password", **new).status_code == 303
    cookies = set(visitor.client.cookies.values())

    for slip in ("/", "/x", "?x=1", "."):
        guest.client.get(f"/sign-in/{link}{slip}")
    assert guest.send(f"/sign-in/{link}", f"/sign-in/{link}").status_code == 303
    assert guest.client.get(f"/sign-in/{link}").status_code in (200, 401)
    cookies |= set(guest.client.cookies.values())

    policy = {"name": "teller", "backend": "openai", "model": "tell-tale", "base_url": chat}
    wanted = policy | {"api_key_variable": "PLACKETT_KEY_PLANTED"}
    assert api.post("/policies", json=wanted).status_code == 201
    project = {"slug": "p", "name": "P", "policies": ["teller"]}
    assert api.post("/projects", json=project).status_code == 201
    assert api.post("/projects/p/prompts", json=[{"prompt": "Hello"}]).status_code == 201
    assert api.get("/projects", headers={"Authorization": f"Bearer {token}x"}).status_code == 401
    api.request(planted["method"].upper(), "/projects")

    deadline = time.monotonic() + 60
    with psycopg.connect(url, autocommit=True) as connection:
        while connection.execute("SELECT count(*) FROM generation_failures").fetchone() == (0,):
            assert time.monotonic() < deadline, "the worker has not asked the server"
            time.sleep(0.2)
        # An error that nobody expects, in the middle of signing in.
        connection.execute(
            "ALTER TABLE audit_log ADD CONSTRAINT broken CHECK (action <> 'sign_in') NOT VALID"
        )
    second = {"email": EMAIL, "password": planted["second password"]}
    assert late.send("/sign-in", "/sign-in", **second).status_code == 500
    return cookies | visitor.csrf | guest.csrf


@pytest.mark.slow
def test_no_secret_is_in_anything_that_is_written(tmp_path: Path) -> None:
    planted = {
        name: plant(name.replace(" ", "-"))
        for name in ("first password", "second password", "wrong password", "swapped password")
    }
    planted |= {"server key": plant("key"), "method": "PLANTED" + secrets.token_hex(4)}
    environment = {
        **os.environ,
        "PLACKETT_DATA_DIR": str(tmp_path / "data"),
        "PLACKETT_KEY_PLANTED": planted["server key"],
    }
    environment.pop("DATABASE_URL", None)
    port, address = free_port(), ""
    address = f"http://127.0.0.1:{port}"
    web, worker = tmp_path / "web.log", tmp_path / "worker.log"
    written: dict[str, str] = {}
    database = EmbeddedServer(tmp_path / "data")
    with ExitStack() as stack:
        chat = stack.enter_context(running_server())
        url = stack.enter_context(database)
        admin = ["user", "create", EMAIL, "--role", "admin"]
        done = command([*admin, "--password-stdin"], environment, stdin=planted["first password"])
        assert done.returncode == 0, done.stderr
        written["user create"] = done.stdout + done.stderr
        token = command(["token", "create", EMAIL], environment).stdout.strip()
        guest = ["user", "create", "guest@example.org", "--role", "rater", "--json"]
        link = json.loads(command(guest, environment).stdout)["sign_in_link"].rpartition("/")[2]
        serve = ["serve", "--port", str(port)]
        json_lines = environment | {"PLACKETT_LOG_FORMAT": "json"}
        pids = [
            stack.enter_context(process(serve, web, json_lines)),
            stack.enter_context(process(["worker"], worker, environment)),
        ]
        wait_until_ready(address, web)
        browser = use_everything(address, planted, token, link, chat.address, url)
        written["metrics"] = httpx.get(f"{address}/metrics").text
        written["processes"] = command_lines(pids)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("ALTER TABLE audit_log DROP CONSTRAINT broken")
        written["rows"] = every_row(url)
        written["database's log"] = database._cluster().with_name("server.log").read_text()
        password = json.loads((tmp_path / "data/postgres/connection.json").read_text())["password"]
    written |= {"web": web.read_text(), "worker": worker.read_text()}
    for number, broken in enumerate(
        (
            "postgresql://ada:{}@127.0.0.1:9/none",
            "mysql://ada:{}@127.0.0.1/none",
            "postgresql://ada:{}@127.0.0.1:no/none",
        )
    ):
        database_url = {"DATABASE_URL": broken.format(planted["first password"])}
        done = command(["migrate"], environment | database_url)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1, done.stderr
        written[f"a bad address {number}"] = done.stdout + done.stderr
    # All of it has happened, and is told of:
    assert '"path": "/sign-in/{token}"' in written["web"]
    assert "IntegrityError" in written["web"]
    assert "tell-tale" in written["rows"]
    assert "plackett_http_requests_total" in written["metrics"]
    secret = {**planted, "API token": token, "sign-in link": link, "database password": password}
    secret |= {f"browser's {number}": value for number, value in enumerate(sorted(browser))}
    found = [
        (name, place)
        for place, text in written.items()
        for name, value in secret.items()
        if value in text
        # The session's own half of its forms' token is kept where it is compared with.
        and not (place == "rows" and name.startswith("browser's") and is_stored(value, text))
    ]
    assert found == []


def is_stored(value: str, rows: str) -> bool:
    return re.search(rf'\(\S+,"?\\\\x[0-9a-f]{{64}}"?,{re.escape(value)},', rows) is not None


@pytest.mark.parametrize(
    ("line", "written"),
    [
        ("token plk_AbCdEf012345678901234567", "token plk_…"),
        ("GET /sign-in/AbCdEf012345678901234567/x", "GET /sign-in/…/x"),
        ("Authorization: Bearer abcdefgh.ijkl", "Authorization: Bearer …"),
        ("postgresql://ada:secret@host/db", "postgresql://ada:…@host/db"),
        ("host=h user=u password=secret dbname=d", "host=h user=u password=… dbname=d"),
        ("user=u password = 'secret'", "user=u password = '…'"),
        ("plackett_session=abc; a=b", "plackett_session=…; a=b"),
        ("nothing of the kind: /sign-in, http://host:80/x@y", None),
    ],
)
def test_what_looks_like_a_secret_is_not_written(line: Any, written: Any) -> None:
    assert redact(line) == (written or line)


@pytest.mark.parametrize(
    "part", ["a+", "http://", "a://:", "a:b@", "plk_", "password=", "Bearer ", "/sign-in/", "x"]
)
def test_a_line_of_megabytes_is_looked_through_in_no_time(part: str) -> None:
    line = part * (1_000_000 // len(part))
    began = time.process_time()
    redact(line)
    assert time.process_time() - began < 1
