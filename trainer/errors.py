"""What a person can cause and mend, said in one line."""


class TrainerError(Exception):
    """A failure that its message explains; the command exits with 1."""


class UsageError(TrainerError):
    """Flags that do not fit together; the command exits with 2."""


class Stopped(TrainerError):  # noqa: N818
    """Somebody asked the run to stop; it wrote a checkpoint first."""
