"""What a person can cause and mend, said in one line."""

import sys
from collections.abc import Callable


class TrainerError(Exception):
    """A failure that its message explains; the command exits with 1."""


class UsageError(TrainerError):
    """Flags that do not fit together; the command exits with 2."""


class Stopped(TrainerError):  # noqa: N818
    """Somebody asked the run to stop; it wrote a checkpoint first."""


def first_line(error: Exception) -> str:
    """What an exception says, in one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else repr(error)


def explain_failures(command: str, run: Callable[[], None]) -> int:
    """Run a command: its exit code, and on stderr one line that says why there is no result."""
    try:
        run()
    except UsageError as error:
        return _explain(command, error, code=2)
    except TrainerError as error:
        return _explain(command, error, code=1)
    except OSError as error:  # a full disk, a folder that may not be written …
        return _explain(command, error, code=1)
    except KeyboardInterrupt:
        return _explain(command, "interrupted", code=130)
    return 0


def _explain(command: str, reason: object, *, code: int) -> int:
    print(f"{command}: {' '.join(str(reason).split())}", file=sys.stderr)  # noqa: T201
    return code
