"""Checks of our own: rules of the house that no linter knows, each a function over parsed sources.

`python -m checks` runs all of them over the checkout; `tests/checks` shows each one failing on a breach.
"""
