"""The formulas, as pure functions."""
