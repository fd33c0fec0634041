"""Environment variables that have to be set before torch is imported."""

import os


def set_thread_variables() -> None:
    """Let waiting threads sleep, and a GPU's matrix products repeat; what is set already stays."""
    # torch's threads would spin for milliseconds while they wait for each other, and take the cores from
    # whoever has work. A few microseconds bridge the gap to the next operation.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # What makes a GPU's matrix products repeatable; it has to be there before the first of them.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
