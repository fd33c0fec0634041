"""The run directory's contract: what a run writes, and goes on from."""
