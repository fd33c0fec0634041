"""Who may import what, beyond the layers that import-linter holds: tests, benches, and torch."""

import ast
from collections.abc import Iterator

from checks.sources import Breach, Source

PRODUCT = {"app", "trainer", "demo"}
AROUND = {"tests", "bench", "checks", "simulation"}
# A folder, and the top-level packages that nothing in it imports.
FORBIDDEN = dict.fromkeys(PRODUCT, AROUND) | {
    "checks": PRODUCT | AROUND - {"checks"},
    "simulation": {"tests", "bench", "checks"},
    "bench": {"tests", "checks"},
    "tests": {"bench"},
}
# The web process starts fast and small: in app, a local model's back end alone knows torch.
HEAVY = {"torch", "transformers", "accelerate", "peft", "tokenizers"}
LOCAL_MODELS = {"app/generation/backends/local.py"}


def forbidden_imports(source: Source) -> Iterator[Breach]:
    """Imports across a line of the table, wherever in the file they stand."""
    forbidden = FORBIDDEN.get(source.room, set())
    light = source.room == "app" and source.path not in LOCAL_MODELS
    for node, package in imported(source.tree):
        if package in forbidden:
            yield source.breach(node, f"{source.room} never imports {package}")
        elif light and package in HEAVY:
            yield source.breach(node, f"{package} is imported by local models' back end alone")


def imported(tree: ast.Module) -> Iterator[tuple[ast.stmt, str]]:
    """Each import and the top-level package that it takes; relative ones stay in their room."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node, node.module.split(".")[0]
