"""What people wrote, and what was learnt from it, is for nobody else on the machine to read."""

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.db.server import close_data_dir
from app.settings import CHECKOUT
from simulation.cluster import swept
from simulation.command import running


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """A data folder as an older version has left it: open."""
    folder = tmp_path / "data"
    (folder / "exports").mkdir(parents=True)
    folder.chmod(0o755)
    with swept(folder):
        yield folder


def open_paths(folder: Path) -> list[str]:
    """What others may read, write or walk, at or below the folder."""
    return [
        path.as_posix()
        for path in (folder, *folder.rglob("*"))
        if stat.S_IMODE(path.lstat().st_mode) & 0o077
        and path.suffix != ".lock"  # these two the test itself has made, and they are empty
    ]


@pytest.mark.slow
def test_nothing_in_the_data_folder_is_open_to_others(data_dir: Path) -> None:
    (data_dir / "exports").rmdir()
    environment = {**os.environ, "PLACKETT_DATA_DIR": str(data_dir)}

    def plackett(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "app", *words],
            cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=True, umask=0o022,
        )  # fmt: skip
        return done.stdout

    with running(["serve"], data_dir.parent, PLACKETT_DATA_DIR=str(data_dir)) as it:
        it.is_ready()
        plackett("user", "create", "a@example.org", "--role", "admin")
        token = json.loads(plackett("token", "create", "a@example.org", "--json"))["token"]
        plackett("project", "create", "p", "--name", "P")
        headers = {"Authorization": f"Bearer {token}"}
        address = f"http://127.0.0.1:{it.port}/api/v1"
        asked = httpx.post(f"{address}/projects/p/exports", json={"name": "e"}, headers=headers)
        deadline = time.monotonic() + 60
        made = f"{address}/exports/{asked.json()['id']}"
        while httpx.get(made, headers=headers).json()["state"] != "ready":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        plackett("export", "p", "--out", str(data_dir / "by-hand"))
        it.stop()
    assert list((data_dir / "exports").glob("*/manifest.json"))
    assert open_paths(data_dir) == []


def test_a_cluster_of_another_account_is_still_reached(data_dir: Path) -> None:
    (data_dir / "postgres" / "cluster").mkdir(parents=True)
    close_data_dir(data_dir)
    assert stat.S_IMODE(data_dir.stat().st_mode) == (0o711 if os.geteuid() == 0 else 0o700)
    (data_dir / "postgres" / "cluster").rmdir()
    close_data_dir(data_dir)
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
