"""`python -m checks`: every rule of the house over the checkout; exit code 1 where one is broken."""

import sys
from collections.abc import Iterator
from pathlib import Path

from checks import imports, sessions, typing, unused
from checks.sources import CHECKOUT, Breach, read_sources

PRODUCT = ("app", "trainer", "demo", "migrations", "bench", "dev.py")
AROUND = ("checks", "simulation", "tests")


def breaches(root: Path) -> Iterator[Breach]:
    """Everything that breaks a rule."""
    for source in read_sources(root):
        yield from sessions.queries_in_routes(source)
        yield from sessions.commits_in_services(source)
        yield from imports.forbidden_imports(source)
    yield from typing.any_over_budget(root)
    yield from unused.unused_code(root, PRODUCT, AROUND)


def main() -> int:
    """Print what is found."""
    found = list(breaches(CHECKOUT))
    for breach in found:
        print(breach)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
