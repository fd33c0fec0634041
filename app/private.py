"""Folders that nobody else on the machine may look into: what people wrote is in them."""

import os
from pathlib import Path

# What a command makes is for whoever ran it (the third digit is everybody, the second the group).
UMASK = 0o077
PRIVATE = 0o700


def make_private(folder: Path, mode: int = PRIVATE) -> Path:
    """Make the folder, with what is missing above it; one of ours that was open is closed."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(mode=PRIVATE, exist_ok=True)
    status = folder.stat()
    if status.st_uid == os.geteuid() and status.st_mode & 0o777 & ~mode:
        folder.chmod(mode)
    return folder
