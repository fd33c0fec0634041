"""Each check of `checks/` fails on a planted breach, and lets the allowed thing beside it pass."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from checks import imports, sessions, typing, unused
from checks.sources import Breach, Source

Check = Callable[[Source], Iterator[Breach]]
QUERIES = """
async def page(session: RequestSession, db: AsyncSession) -> None:
    await {call}
"""


def rules(check: Check, path: str, text: str) -> list[str]:
    """What the check says of a file with that text."""
    return [breach.rule for breach in check(Source(path, ast.parse(text)))]


@pytest.mark.parametrize(
    "path", ["app/rating/api.py", "app/rating/pages.py", "app/admin/people.py"]
)
@pytest.mark.parametrize(
    "call",
    [
        "session.execute(statement)",
        "session.get(Task, 1)",
        "session.get_one(Task, 1)",
        "(await session.scalars(statement)).all()",
        "db.scalar(statement)",
        "request.state.session.execute(statement)",
    ],
)
def test_a_query_in_a_route_is_found(path: str, call: str) -> None:
    text = QUERIES.format(call=call)
    assert len(rules(sessions.queries_in_routes, path, text)) == 1
    assert rules(sessions.queries_in_routes, "app/rating/queries.py", text) == []


@pytest.mark.parametrize(
    "call", ["session.commit()", "queries.get(session)", "client.get('/')", "answers.get('x')"]
)
def test_what_only_looks_like_a_query_passes(call: str) -> None:
    text = QUERIES.format(call=call)
    assert rules(sessions.queries_in_routes, "app/rating/api.py", text) == []


@pytest.mark.parametrize("path", ["app/rating/service.py", "app/rating/submit.py", "app/main.py"])
def test_a_commit_in_a_service_is_found(path: str) -> None:
    text = QUERIES.format(call="session.commit()")
    assert rules(sessions.commits_in_services, path, text) == [
        "a service commits: flush, and let the caller commit"
    ]
    assert rules(sessions.commits_in_services, path, text.replace("session.", "savepoint.")) == []


@pytest.mark.parametrize(
    "path", ["app/rating/api.py", "app/admin/people.py", "app/rating/jobs.py", "tests/test_x.py"]
)
def test_routes_jobs_and_tests_may_commit(path: str) -> None:
    text = QUERIES.format(call="session.commit()")
    assert rules(sessions.commits_in_services, path, text) == []


@pytest.mark.parametrize(
    ("path", "line", "told"),
    [
        ("app/web/pages.py", "import torch", "torch is imported by"),
        ("app/web/pages.py", "from transformers import AutoModel", "transformers is imported by"),
        ("app/main.py", "def f():\n    import torch.nn", "torch is imported by"),
        ("app/main.py", "from tests.factories import x", "app never imports tests"),
        ("trainer/ppo.py", "import simulation.load", "trainer never imports simulation"),
        ("demo/tiny.py", "import bench.load", "demo never imports bench"),
        ("bench/page.py", "from tests.browser import conftest", "bench never imports tests"),
        ("tests/test_x.py", "from bench import load", "tests never imports bench"),
        ("simulation/load.py", "import bench", "simulation never imports bench"),
        ("checks/imports.py", "import app.main", "checks never imports app"),
    ],
)
def test_an_import_across_a_line_is_found(path: str, line: str, told: str) -> None:
    found = rules(imports.forbidden_imports, path, line)
    assert len(found) == 1
    assert found[0].startswith(told)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("app/generation/backends/local.py", "import torch"),
        ("trainer/ppo.py", "import torch"),
        ("bench/page.py", "from simulation import load"),
        ("tests/test_x.py", "from simulation import load"),
        ("app/main.py", "from app import tests_of_a_project"),
    ],
)
def test_allowed_imports_pass(path: str, line: str) -> None:
    assert rules(imports.forbidden_imports, path, line) == []


def test_what_nothing_uses_is_found(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "app" / "rooms.py").write_text(
        "import router\n\n"
        "def used(): ...\ndef tested(): ...\n\nclass Forgotten: ...\n\n"
        "@router.get('/')\ndef page():\n    used()\n"
    )
    (tmp_path / "tests" / "test_rooms.py").write_text(
        "from app.rooms import tested\n\ndef helper(): ...\n\ntested()\n"
    )
    found = {breach.rule for breach in unused.unused_code(tmp_path, ["app"], ["tests"])}
    assert found == {
        "nothing uses the function tested",  # a test alone is no use
        "nothing uses the class Forgotten",
        "nothing uses the function helper",
    }


def test_too_many_anys_are_found(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "trainer").mkdir()
    (tmp_path / "app" / "one.py").write_text("from typing import Any\nx: Any = Many\n")
    (tmp_path / "trainer" / "other.py").write_text("def f(a: dict[str, Any]) -> Any: ...\n")
    assert list(typing.any_over_budget(tmp_path, budget=4)) == []
    assert [(each.path, each.line) for each in typing.any_over_budget(tmp_path, budget=3)] == [
        ("app/one.py", 1),
        ("app/one.py", 2),
        ("trainer/other.py", 1),
    ]
