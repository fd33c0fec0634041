"""Mutants run only where they are asked for by their mark: they take minutes."""

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave them out of every other run."""
    if "mutants" in config.getoption("markexpr"):
        return
    left_out = [item for item in items if item.get_closest_marker("mutants")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
