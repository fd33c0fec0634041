"""What is set before torch is imported: variables that it reads then, and how our lines look."""

import os
import sys
from typing import TextIO

REQUEST_ID = "PLACKETT_REQUEST_ID"


def set_thread_variables() -> None:
    """Let waiting threads sleep, and a GPU's matrix products repeat; what is set already stays."""
    # torch's threads would spin for milliseconds while they wait for each other, and take the cores from
    # whoever has work. A few microseconds bridge the gap to the next operation.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # What makes a GPU's matrix products repeatable; it has to be there before the first of them.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def name_lines() -> None:
    """Begin every line on stderr with the id of the request that wants the run, where there is one."""
    name = os.environ.get(REQUEST_ID)
    if name and not isinstance(sys.stderr, NamedLines):
        sys.stderr = NamedLines(sys.stderr, f"request_id={name} ")


class NamedLines:
    """A text file whose lines all begin with a name; in everything else the file itself."""

    def __init__(self, file: TextIO, name: str) -> None:
        self.file = file
        self.name = name
        self._at_start = True

    def write(self, text: str) -> int:
        """Write, with the name before each line that begins here."""
        for line in text.splitlines(keepends=True):
            # An empty line has nothing to be found by.
            self.file.write(self.name + line if self._at_start and line.strip() else line)
            self._at_start = line.endswith(("\n", "\r"))
        return len(text)

    def __getattr__(self, attribute: str) -> object:
        return getattr(self.file, attribute)
