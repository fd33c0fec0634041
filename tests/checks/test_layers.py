"""Each contract of import-linter is broken by one import that it forbids."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from app.settings import CHECKOUT

# The name of each contract, and a line that breaks it: (file, import).
PLANTED = {
    "Rooms know only the rooms below them": ("app/web/planted.py", "import app.rating.models"),
    "The application meets the trainer and the demo's model in files, never in imports": (
        "app/rating/planted.py",
        "import trainer.formulas.losses",
    ),
    "The trainer knows nothing of the application, and nothing of the demo": (
        "trainer/rl/planted.py",
        "import app.settings",
    ),
    "The demo's model is made by the trainer alone": ("demo/planted.py", "import app.db.engine"),
    "The trainer's rooms know only the rooms below them": (
        "trainer/formulas/planted.py",
        "import trainer.rl.loop",
    ),
}


def lint(folder: Path) -> dict[str, str]:
    """KEPT or BROKEN for each contract."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line.rsplit(" ", 1) for line in done.stdout.splitlines()]
    return {line[0]: line[1] for line in lines if line[-1] in ("KEPT", "BROKEN")}


def test_every_contract_fails_on_a_planted_import(tmp_path: Path) -> None:
    contracts = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["importlinter"]
    names = [contract["name"] for contract in contracts["contracts"]]
    assert set(PLANTED) == set(names), (
        "a contract without a planted breach has never been seen failing"
    )
    shutil.copy(CHECKOUT / "pyproject.toml", tmp_path)
    for room in contracts["root_packages"]:
        sources = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / room, tmp_path / room, ignore=sources)
    for file, line in PLANTED.values():
        (tmp_path / file).write_text(f"{line}\n")
    assert lint(tmp_path) == dict.fromkeys(names, "BROKEN")
