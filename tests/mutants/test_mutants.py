"""Do the trainer's tests bite? Each mutant is a mistake that somebody could make; its tests must fail.

Every run checks that each mutant still alters exactly one place and names tests that exist. The mutants
themselves run on their own, in copies of the package (3 to 8 seconds each):

    .venv/bin/python -m pytest tests/mutants -m mutants -n 2
"""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.mutants.boundaries import BOUNDARIES
from tests.mutants.distributed import DISTRIBUTED
from tests.mutants.inside import Outcome
from tests.mutants.mutant import CHECKOUT, Mutant, copy_trainer
from tests.mutants.on_policy import ON_POLICY
from tests.mutants.supervised import SUPERVISED
from tests.mutants.ties import TIES

MUTANTS = [*BOUNDARIES, *DISTRIBUTED, *ON_POLICY, *SUPERVISED, *TIES]
# A test that notices says so by an assertion, or the trainer stops itself with its reason. Any other
# exception would mean that the mutant is no program at all.
NOTICED = ("AssertionError", "Failed", "TrainerError")


def run_tests(copy: Path, tests: Sequence[str]) -> dict[str, Outcome]:
    """What comes of the tests with this copy of the trainer."""
    report = copy / "report.json"
    path = os.pathsep.join([str(copy), str(CHECKOUT)])
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutants.inside", str(copy), str(report), *tests],
        # Without the safe path, the checkout's own trainer would stand before the copy.
        env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"},
        cwd=CHECKOUT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    outcomes: dict[str, Outcome] = json.loads(report.read_text())
    missing = [test for test in tests if not cases_of(test, outcomes)]
    assert not missing, f"did not run: {missing}\n{done.stdout}\n{done.stderr}"
    return outcomes


def cases_of(test: str, outcomes: dict[str, Outcome]) -> list[Outcome]:
    """The outcomes of a test: of all its cases, where it is parametrised and named without one."""
    return [
        outcome for name, outcome in outcomes.items() if name == test or name.startswith(f"{test}[")
    ]


def test_mutants_have_names_of_their_own() -> None:
    assert len({each.name for each in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_alters_one_place_and_names_tests_that_exist(mutant: Mutant) -> None:
    source = mutant.source()
    ast.parse(source)
    assert source != (CHECKOUT / mutant.file).read_text()
    assert mutant.tests
    for test in mutant.tests:
        file, _, name = test.partition("::")
        tree = ast.parse((CHECKOUT / file).read_text())
        known = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        assert name.partition("[")[0] in known, test


@pytest.mark.mutants
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_named_tests_pass_without_a_mutant(tmp_path: Path) -> None:
    copy_trainer(tmp_path)
    outcomes = run_tests(tmp_path, sorted({test for each in MUTANTS for test in each.tests}))
    assert {name: each for name, each in outcomes.items() if each["failed"]} == {}


@pytest.mark.mutants
@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_noticed(mutant: Mutant, tmp_path: Path) -> None:
    mutant.plant(tmp_path)
    outcomes = run_tests(tmp_path, mutant.tests)
    for test in mutant.tests:
        cases = cases_of(test, outcomes)
        noticed = [case for case in cases if case["failed"] == "call" and case["kind"] in NOTICED]
        assert noticed, f"{mutant.breaks}: {test} did not notice: {cases}"
