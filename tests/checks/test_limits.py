"""What tests/conftest.py asks of every test, seen failing on planted tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.settings import CHECKOUT

BUSY = """
import subprocess, sys, time
import pytest

BURN = "import time\\nwhile time.process_time() < 0.6: pass"

def test_quick():
    time.sleep(0.7)  # waiting is not computing

def test_busy():
    exec(f"begun = time.process_time()\\nwhile time.process_time() < begun + 0.6: pass")

def test_busy_in_a_child():
    subprocess.run([sys.executable, "-c", BURN], check=True)

@pytest.mark.slow
def test_marked():
    subprocess.run([sys.executable, "-c", BURN], check=True)
"""


def run_planted(folder: Path, text: str, *flags: str) -> str:
    """What pytest says of a file, with our conftest."""
    (folder / "test_planted.py").write_text(text)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-rA", "-p", "tests.conftest", *flags),
            *("-c", CHECKOUT / "pyproject.toml", "--rootdir", folder, folder),
        ],
        cwd=CHECKOUT,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


@pytest.mark.slow
def test_a_test_that_computes_for_long_must_be_marked_slow(tmp_path: Path) -> None:
    said = run_planted(tmp_path, BUSY, "-o", "unmarked_cpu_seconds=0.5")
    assert "more than 0.5: mark it slow" in said
    words = [line.split() for line in said.splitlines() if line.startswith(("PASSED", "FAILED"))]
    assert {test.split("::")[1]: outcome for outcome, test, *_ in words} == {
        "test_quick": "PASSED",
        "test_busy": "FAILED",
        "test_busy_in_a_child": "FAILED",
        "test_marked": "PASSED",
    }


@pytest.mark.slow
def test_a_warning_is_an_error(tmp_path: Path) -> None:
    text = "import warnings\n\ndef test_warns():\n    warnings.warn('planted', stacklevel=1)\n"
    said = run_planted(tmp_path, text)
    assert "FAILED" in said
    assert "UserWarning: planted" in said
