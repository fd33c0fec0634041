"""The command line as people and programs call it: exit codes, one line for a failure, JSON on request."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.settings import CHECKOUT
from tests.generation.openai_server import running_server


class Shell:
    """Runs `plackett` commands in a data directory or on a database."""

    def __init__(self, **environment: str) -> None:
        self.environment = {**os.environ, **environment}

    def __call__(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "app", *words],
            cwd=CHECKOUT,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )

    def json(self, *words: str) -> dict[str, Any]:
        done = self(*words, "--json")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))


@pytest.fixture
def plackett(fresh_database: str, tmp_path: Path) -> Shell:
    return Shell(DATABASE_URL=fresh_database, PLACKETT_DATA_DIR=str(tmp_path / "data"))


def failure(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that explains a failure."""
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.slow
def test_from_nothing_to_an_export(plackett: Shell, tmp_path: Path) -> None:
    made = plackett("user", "create", "ada@example.org", "--role", "admin", "--password-stdin",
                    stdin="a long enough password\n")  # fmt: skip
    assert made.returncode == 0, made.stderr
    invited = plackett.json("user", "create", "rob@example.org", "--role", "rater")
    assert "/sign-in/" in invited["sign_in_link"]
    assert plackett("migrate").returncode == 0
    assert plackett.json("token", "create", "ADA@example.org")["token"].startswith("plk_")
    config = tmp_path / "p.toml"
    (tmp_path / "rules.md").write_text("# Be fair\n")
    config.write_text(
        'overlap = 2\nguidelines_file = "rules.md"\n[[axes]]\nname = "helpful"\nmin = 1\nmax = 5\n'
    )
    created = plackett("project", "create", "p", "--name", "P", "--config", str(config))
    assert created.returncode == 0, created.stderr
    file = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"Q{n}", "id": f"i{n}", "chosen": "a", "rejected": "b"} for n in range(20)]
    file.write_text("\n".join(map(json.dumps, rows)))
    assert plackett.json("import", "p", str(file)) == {
        "accepted": 20, "duplicates": 0, "rejected": []
    }  # fmt: skip
    assert plackett.json("import", "p", str(file))["duplicates"] == 20
    folder = tmp_path / "public"
    folder.mkdir()
    (folder / "a.csv").write_text("history;human_ref_A;human_ref_B;labels;mood\nQ;x;y;1;fine\n")
    (folder / "notes.txt").write_text("none of ours")
    assert "mood" in failure(plackett("import", "p", str(folder)))
    keep = ("import", "p", str(folder), "--extra", "keep")
    told = plackett(*keep, "--dry-run")
    assert "read as SHP" in told.stdout
    assert "1 rows could be imported, 1 of them with ranks; 0 could not" in told.stdout
    report = plackett.json(*keep)
    assert report["accepted"] == 1
    assert report["notes"] == ["read with semicolons between its cells", "read as SHP"]
    manifest = plackett.json("export", "p", "--out", str(tmp_path / "out"), "--name", "first")
    assert sum(part["comparisons"] for part in manifest["counts"].values()) == 21
    assert manifest["guideline_version"] == 1
    assert "not empty" in failure(plackett("export", "p", "--out", str(tmp_path / "out")))


@pytest.mark.slow
def test_a_model_gives_feedback_from_the_terminal(plackett: Shell, tmp_path: Path) -> None:
    plackett("project", "create", "p", "--name", "P")
    file = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"Q{n}", "candidates": ["good good", "bad", "good"]} for n in range(4)]
    file.write_text("\n".join(map(json.dumps, rows)))
    plackett("import", "p", str(file))
    with running_server() as chat:
        where = ("--backend", "openai", "--model", "judge", "--base-url", chat.address)
        assert plackett("policy", "add", "critic", *where).returncode == 0
        words = ("p", "--policy", "critic", "--principles", "docs/principles.toml")
        assert plackett.json("feedback", "rank", *words, "--limit", "1")["ranked"] == 1
        told = plackett("feedback", "rank", *words)
        assert "3 ranked" in told.stdout
        assert "3 of 3 tasks" in told.stderr
        assert plackett.json("feedback", "revise", *words)["revised"] == 4
    assert "nobody" in failure(plackett("feedback", "rank", "p", "--policy", "nobody", *words[3:]))
    manifest = plackett.json("export", "p", "--out", str(tmp_path / "ai"), "--kind", "ai")
    assert sum(part["comparisons"] for part in manifest["counts"].values()) == 12
    assert sum(part["demonstrations"] for part in manifest["counts"].values()) == 4


@pytest.mark.slow
def test_failures_are_one_line_and_usage_errors_are_two(plackett: Shell, tmp_path: Path) -> None:
    assert "no project 'none'" in failure(plackett("import", "none", __file__))
    assert "EMAIL: There is nobody" in failure(plackett("token", "create", "x@example.org"))
    plackett("user", "create", "x@example.org", "--role", "rater")
    assert "already somebody" in failure(
        plackett("user", "create", "X@example.org", "--role", "rater")
    )
    assert "not an e-mail address" in failure(plackett("user", "create", "x", "--role", "rater"))
    plackett("project", "create", "p", "--name", "P")
    assert "already a project" in failure(plackett("project", "create", "p", "--name", "P"))
    assert "slug" in failure(plackett("project", "create", "Not a slug", "--name", "P"))
    assert "slug: 'history' is" in failure(plackett("project", "create", "history", "--name", "P"))
    broken = tmp_path / "rows.jsonl"
    broken.write_text('{"prompt": "ok"}\n{"prompt": 1}\n')
    told = plackett("import", "p", str(broken))
    assert "1 accepted" in told.stdout
    assert f"{broken}:2: 1 of 2 rows were not imported" in failure(told)
    assert "no such file" in failure(plackett("import", "p", str(tmp_path / "none.jsonl")))
    config = tmp_path / "p.toml"
    config.write_text("overlap = 'two'")
    told = plackett("project", "create", "q", "--name", "Q", "--config", str(config))
    assert "overlap" in failure(told)
    assert "no rankings" not in plackett("run", "start", "p", "--stage", "ppo").stdout
    for words in (
        ["fly"],
        ["user", "create", "x@example.org"],
        ["user", "create", "x@example.org", "--role", "king"],
        ["worker", "--queue", "none"],
        ["policy", "add", "x", "--backend", "magic", "--model", "m"],
        ["import", "p"],
    ):
        assert plackett(*words).returncode == 2, words


@pytest.mark.slow
def test_a_run_needs_what_it_needs(plackett: Shell, tmp_path: Path) -> None:
    plackett("project", "create", "p", "--name", "P")
    told = failure(plackett("run", "start", "p", "--stage", "reward"))
    assert "no local policy" in told
    config = tmp_path / "run.toml"
    for text, place in (("steps = 0", "config.steps"), ("stops = 3", "config.stops")):
        config.write_text(text)
        told = failure(plackett("run", "start", "p", "--stage", "reward", "--config", str(config)))
        assert place in told


def test_a_database_that_is_down_is_said_so() -> None:
    shell = Shell(DATABASE_URL="postgresql://nobody@127.0.0.1:9/none")
    assert "the database does not answer" in failure(shell("token", "create", "x@example.org"))
    shell = Shell(DATABASE_URL="sqlite:///x.db")
    assert "postgresql://" in failure(shell("migrate"))


@pytest.mark.parametrize(
    "words",
    [
        *([], ["demo"], ["serve"], ["worker"], ["migrate"], ["user", "create"]),
        *(["token", "create"], ["project", "create"], ["policy", "add"], ["import"]),
        *(["export"], ["run", "start"]),
    ],
)  # fmt: skip
def test_every_command_has_help_with_an_example(plackett: Shell, words: list[str]) -> None:
    done = plackett(*words, "--help")
    assert done.returncode == 0
    if words:
        assert f"Example: {'DATABASE_URL' if words == ['migrate'] else 'plackett'}" in done.stdout


@pytest.mark.slow
def test_commands_share_one_embedded_server(tmp_path: Path) -> None:
    shell = Shell(PLACKETT_DATA_DIR=str(tmp_path))
    shell.environment.pop("DATABASE_URL", None)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "app", "user", "create", f"u{n}@example.org", "--role", "rater"],
            cwd=CHECKOUT, env=shell.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for n in range(4)
    ]  # fmt: skip
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert shell.json("token", "create", "u3@example.org")["token"]
