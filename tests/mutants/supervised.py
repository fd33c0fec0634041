"""Mistakes in the stages that learn from data, and in evaluation."""

from tests.mutants.mutant import Mutant

SUPERVISED: list[Mutant] = []
