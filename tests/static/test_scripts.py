"""The browser's scripts: their unit tests, which Node.js runs, and the bundles made of them."""

import shutil
from pathlib import Path

import pytest

from app.settings import CHECKOUT
from app.web.assets import is_bundled
from tests.node import build_bundles, run_node

TESTS = sorted(Path(__file__).parent.glob("*.test.mjs"))
NAMES = sorted(f"{path.parent.name}{path.suffix}" for path in CHECKOUT.glob("static/*/main.*"))


@pytest.mark.parametrize("file", TESTS, ids=lambda path: path.stem)
def test_the_scripts_unit_tests_pass(file: Path) -> None:
    ran = run_node("--test", file)
    assert ran.returncode == 0, ran.stdout
    assert "# pass 0" not in ran.stdout


def test_node_finds_a_failing_test(tmp_path: Path) -> None:
    broken = tmp_path / "broken.test.mjs"
    broken.write_text(
        'import { test } from "node:test";\ntest("no", () => { throw new Error(); });\n'
    )
    assert run_node("--test", broken).returncode != 0


def test_a_bundle_is_served_until_one_of_its_modules_changes(tmp_path: Path) -> None:
    build_bundles()
    assert {"app.css", "app.js", "ranking.css", "ranking.js", "runs.js"} <= set(NAMES)
    static = tmp_path / "static"
    shutil.copytree(CHECKOUT / "static", static)
    assert all(is_bundled(name, static) for name in NAMES)
    with (static / "ranking" / "keys.js").open("a") as module:
        module.write("// changed\n")
    assert not is_bundled("ranking.js", static)
    assert is_bundled("ranking.css", static)
    shutil.rmtree(static / "built")
    assert not is_bundled("ranking.css", static)
