"""The trainer's checklist is a table of details and the tests that guard them: do these tests exist?

The table is the docstring of `tests/trainer/test_checklist.py`. A row names tests as `here:` or by their
file (`losses:` is `test_losses.py`), each in backquotes, with an ellipsis for what is left out of a name.
"""

import ast
import re
from pathlib import Path

HERE = "test_checklist.py"
DETAILS = 32


def tests_in(source: str) -> set[str]:
    """The names of a file's test functions, as its syntax tree has them (its text has the table too)."""
    return {
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    }


def problems(table: str, folder: Path) -> list[str]:
    """What is wrong with the table: a detail without a row, a name that no test of its file has."""
    rows = re.findall(r"^\| ([\d, ]+) .*?\|(.*)\|$", table, flags=re.MULTILINE)
    covered = {int(number) for numbers, _ in rows for number in numbers.split(",")}
    found = [f"detail {each} has no row" for each in range(1, DETAILS + 1) if each not in covered]
    for numbers, tests in rows:
        named = re.findall(r"(?:(\w+): )?`([^`]+)`", tests)
        if not named:
            found.append(f"detail {numbers} names no test")
        label = "here"
        for new_label, pattern in named:
            label = new_label or label
            name = HERE if label == "here" else f"test_{label}.py"
            known = {each for path in folder.rglob(name) for each in tests_in(path.read_text())}
            wanted = re.compile(".*".join(map(re.escape, pattern.split("…"))))
            if not any(map(wanted.fullmatch, known)):
                found.append(f"{name} has no test {pattern}")
    return found
