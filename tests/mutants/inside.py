"""Runs tests on another copy of the trainer, which stands first on the path, and writes what came of each.

python -m tests.mutants.inside COPY REPORT TEST...
"""

import json
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TypedDict

import pytest


class Outcome(TypedDict):
    """How a test ended: in which phase it failed, if it did, by which exception, and what that said."""

    failed: str
    kind: str
    said: str


class Recorder:
    """A plugin of pytest."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Keep a test's first failure, or that it had none."""
        report = yield
        if call.excinfo is not None and report.failed:
            said = str(call.excinfo.value).strip().splitlines() or [""]
            outcome = Outcome(failed=call.when, kind=call.excinfo.typename, said=said[0])
            self.outcomes.setdefault(item.nodeid, outcome)
        elif call.when == "teardown":
            self.outcomes.setdefault(item.nodeid, Outcome(failed="", kind="", said=""))
        return report


def main(copy: str, report: str, tests: Sequence[str]) -> None:
    """Run the tests."""
    import trainer

    assert trainer.__file__ is not None
    assert Path(trainer.__file__).is_relative_to(copy), f"{trainer.__file__} is not the copy"
    recorder = Recorder()
    # The application's fixtures are not needed: without them a start takes half the time.
    options = ("--confcutdir=tests/trainer", "-p", "no:cacheprovider", "-q", "--tb=short")
    pytest.main([*options, *tests], plugins=[recorder])
    Path(report).write_text(json.dumps(recorder.outcomes))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
