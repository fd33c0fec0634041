"""A real PostgreSQL inside the data directory, for those who have no server.

The binaries come from a wheel, or from the system where the wheel has none. Every process that uses
the server (app, worker, CLI) holds a shared lock on one file; the last to leave stops the server, and
the first to come starts it. Nothing depends on a process saying goodbye: the kernel drops a dead
process's lock, and PostgreSQL recovers what was committed.

Nor does anything depend on the server: each process that holds it looks every second whether it lives,
and the first to find it dead starts it again, on the port that it had. Where another program has taken
that port meanwhile, it takes a new one, and `where_now` tells everybody's connections.

PostgreSQL refuses to run as root. As root, its binaries run as the account `postgres` or `nobody`, and
where that account cannot reach the data directory or the binaries (a checkout under a private home),
both are kept under /var/lib/plackett instead; a file in the data directory says where.
"""

import fcntl
import json
import os
import pwd
import secrets
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from urllib.parse import quote

import psycopg
import structlog
from sqlalchemy import make_url

from app import stopping
from app.db import postmaster
from app.db.binaries import (
    ROOTS_HOME,
    Account,
    binaries_for,
    can_reach,
    find_binaries,
    make_public,
    reachable_binaries,
)
from app.db.postmaster import find_postmaster, free_port, is_free, remove_stale_pid_file
from app.errors import PlackettError, Unavailable

log = structlog.get_logger(__name__)

# In a cluster's folder outside of ours: whose it is, for whoever cleans up when ours is gone.
OWNER_FILE = "owner"
SUPERUSER = "plackett"
DATABASE = "plackett"
START_SECONDS = 60
# Of a stop of at most 15 s (app.stopping): for somebody else's start, and for an orderly end.
RELEASE_SECONDS = 2.0
STOP_SECONDS = 3
LOOK_SECONDS = 1.0
RETRY_SECONDS = 5.0
# What a server answers that will take connections later, or that is about to end.
NOT_YET = ("starting up", "shutting down", "not yet accepting", "in recovery")

# By each port at which a server was ever known in this process.
_PLACES: dict[int, "EmbeddedServer"] = {}


def where_now(host: str | None, port: int | None) -> int | None:
    """The port of the embedded server that this process has known at that address; else the same."""
    server = _PLACES.get(port or 0) if host == "127.0.0.1" else None
    return server._port if server is not None else port


class EmbeddedServer:
    """The server of one data directory, as seen by one process.

    `options` are server settings beyond our own (`{"fsync": "off"}` for tests).
    """

    def __init__(self, data_dir: Path, *, options: Mapping[str, str] | None = None) -> None:
        self.home = data_dir / "postgres"
        self.options = dict(options or {})
        self._users: IO[str] | None = None
        self._url: str | None = None
        self._port = 0
        self._left = threading.Event()

    def acquire(self) -> str:
        """The URL of the running server, started if need be; held, and kept alive, until `release`.

        Raises Unavailable, with the end of the server's log, when it cannot be started.
        """
        if self._url is not None:
            return self._url
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._exclusively():
            # Held before it is started: whoever is interrupted here leaves as everybody does.
            self._users = (self.home / "users.lock").open("a")
            fcntl.flock(self._users, fcntl.LOCK_SH)
        stopping.hold_last_rite(self._kill)
        try:
            with self._exclusively():
                url = self._url_if_running() or self._start()
            self._notice(url)
        except BaseException:
            self.release()
            raise
        self._url = url
        self._left.clear()
        threading.Thread(target=self._keep_alive, name="embedded-postgresql", daemon=True).start()
        return url

    def release(self) -> None:
        """Let go of the server, and stop it if nobody else holds it."""
        with stopping.deferred():
            self._left.set()
            users, self._url = self._users, None
            if users is None:
                return
            # Whoever starts the server at this moment may need a minute: it is not waited for.
            with self._exclusively(seconds=RELEASE_SECONDS), users:
                if _locked(users):
                    self._stop()
                self._users = None
            for port in [each for each, server in _PLACES.items() if server is self]:
                del _PLACES[port]
            stopping.drop_last_rite(self._kill)

    @property
    def place(self) -> Path:
        """The folder of the cluster and its log."""
        return self._cluster().parent

    def __enter__(self) -> str:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _keep_alive(self) -> None:
        """Start the server again when it has died, until we leave it."""
        while not self._left.wait(LOOK_SECONDS):
            try:
                found = find_postmaster(self._cluster())
                if found is not None and found.port in (0, self._port):
                    continue
                with self._exclusively():
                    if self._left.is_set():
                        return
                    url = self._url_if_running()
                    if url is None:
                        log.warning("the embedded PostgreSQL has died and is started again")
                        url = self._start()
                self._notice(url)
                log.info("the embedded PostgreSQL is there", port=self._port)
            except (OSError, psycopg.Error, PlackettError) as error:
                log.error("the embedded PostgreSQL does not come back", error=str(error))
                self._left.wait(RETRY_SECONDS)

    def _notice(self, url: str) -> None:
        """Remember where the server is, for those who knew it elsewhere."""
        self._port = make_url(url).port or 0
        _PLACES[self._port] = self

    def _kill(self) -> None:
        """Our last rite: what `release` does, without waiting for anybody."""
        if self._users is not None and _locked(self._users):
            postmaster.kill(self._cluster(), seconds=3)

    def remove(self) -> bool:
        """Stop the server and delete all that it wrote; False while a process still holds it.

        Its two lock files stay: a process that waits for one must find the same file afterwards.
        """
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._exclusively(), (self.home / "users.lock").open("a") as users:
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            place = self._cluster().parent
            self._stop(mode="immediate")
            if place != self.home:
                shutil.rmtree(place)
            self._remove_left_behind()
            for path in self.home.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.suffix != ".lock":
                    path.unlink()
        return True

    def _remove_left_behind(self) -> None:
        """Clusters that were this folder's before it was deleted, their servers too."""
        for owner in ROOTS_HOME.glob(f"*/{OWNER_FILE}") if os.geteuid() == 0 else ():
            with suppress(FileNotFoundError):  # somebody else has just removed theirs
                if owner.read_text() == str(self.home):
                    postmaster.kill(owner.parent / "cluster", seconds=3)
                    shutil.rmtree(owner.parent)

    # What follows runs under the exclusive lock of `start.lock`.

    @contextmanager
    def _exclusively(self, *, seconds: float | None = None) -> Iterator[None]:
        """Alone with the server's files; with `seconds`, in any case after so long."""
        with (self.home / "start.lock").open("a") as lock:
            if seconds is None:
                fcntl.flock(lock, fcntl.LOCK_EX)
            else:
                deadline = time.monotonic() + seconds
                while not _locked(lock) and time.monotonic() < deadline:
                    time.sleep(0.05)
            yield

    def _url_if_running(self) -> str | None:
        """The URL of the living server, as soon as it takes connections; None where none lives."""
        saved = self._saved_connection()
        if saved is None:
            return None
        cluster = self._cluster()
        deadline = time.monotonic() + START_SECONDS
        while (found := find_postmaster(cluster)) is not None:
            url = _url(found.port or saved["port"], saved["password"])
            try:
                if found.ready:
                    psycopg.connect(url, connect_timeout=5).close()
                    return url
            except psycopg.OperationalError as error:
                # It starts, recovers or ends; any other answer (too many connections) is one, too.
                if not any(words in str(error) for words in NOT_YET):
                    return url
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"the embedded PostgreSQL (process {found.pid}) does not come up; its log is "
                    f"{cluster.parent / 'server.log'}",
                    field=str(self.home),
                )
            time.sleep(0.05)
        return None

    def _start(self) -> str:
        account = _unprivileged_account()
        cluster = self._cluster()
        saved = self._saved_connection()
        if not (cluster / "PG_VERSION").exists() or saved is None:
            password = self._initialise(cluster, account)
        else:
            password = saved["password"]
        binaries = reachable_binaries(binaries_for(cluster), account)
        log = cluster.parent / "server.log"
        remove_stale_pid_file(cluster)
        last_error = ""
        port = int(saved["port"]) if saved else 0
        # The backends of a killed server need a moment to notice and leave; then a port that is not
        # to be had is given up for another one.
        for attempt in range(10):
            if not port or (attempt > 2 and not is_free(port)):
                port = free_port()
            settings = {
                "listen_addresses": "127.0.0.1",
                "port": str(port),
                "unix_socket_directories": "",
                "max_connections": "200",
                "timezone": "UTC",
                "log_timezone": "UTC",
                "log_error_verbosity": "terse",  # an error's DETAIL quotes people's texts
            } | self.options
            flags = " ".join(f"-c {name}={value}" for name, value in settings.items())
            result = _run(
                [
                    *(binaries / "pg_ctl", "-D", cluster, "-w", "-t", START_SECONDS),
                    *("-l", log, "-o", flags, "start"),
                ],
                account,
            )
            if result.returncode == 0:
                self._save_connection(port, password)
                url = _url(port, password)
                _create_database(_url(port, password, database="postgres"))
                return url
            last_error = _tail(log)
            time.sleep(0.1 * (attempt + 1))
        raise Unavailable(
            f"the embedded PostgreSQL did not start; the end of {log}:\n{last_error}",
            field=str(self.home),
        )

    def _stop(self, *, mode: str = "fast") -> None:
        cluster = self._cluster()
        if find_postmaster(cluster) is None:
            return
        account = _unprivileged_account()
        binaries = reachable_binaries(binaries_for(cluster), account)
        stop = [*(binaries / "pg_ctl", "-D", cluster, "-m", mode), "-w", "-t", STOP_SECONDS, "stop"]
        _run(stop, account)
        postmaster.kill(cluster, seconds=2)  # where that was not enough

    def _initialise(self, cluster: Path, account: Account | None) -> str:
        """Make the cluster beside its place and rename it, so that a kill leaves none half-made."""
        if cluster.exists():
            raise Unavailable(
                "there is a database here but not its password file (connection.json); "
                "restore that file, or move the directory away to start anew",
                field=str(cluster),
            )
        binaries = reachable_binaries(find_binaries(), account)
        fresh = cluster.with_name("cluster.new")
        shutil.rmtree(fresh, ignore_errors=True)
        password = secrets.token_urlsafe(24)
        password_file = cluster.with_name("password.new")
        password_file.touch(mode=0o600)
        password_file.write_text(password)
        if account:
            os.chown(password_file, account.uid, account.gid)
        try:
            result = _run(
                [
                    *(binaries / "initdb", "-D", fresh, "-U", SUPERUSER, "-A", "scram-sha-256"),
                    *(f"--pwfile={password_file}", "-E", "UTF8", "--locale=C.UTF-8"),
                ],
                account,
            )
            if result.returncode != 0:
                # Older systems have no C.UTF-8; plain C sorts by bytes just the same.
                shutil.rmtree(fresh, ignore_errors=True)
                result = _run(
                    [
                        *(binaries / "initdb", "-D", fresh, "-U", SUPERUSER, "-A", "scram-sha-256"),
                        *(f"--pwfile={password_file}", "-E", "UTF8", "--locale=C"),
                    ],
                    account,
                )
        finally:
            password_file.unlink()
        if result.returncode != 0:
            raise Unavailable(
                f"initdb failed: {(result.stderr or result.stdout).strip()}", field=str(fresh)
            )
        self._save_connection(0, password)
        fresh.rename(cluster)
        return password

    def _cluster(self) -> Path:
        """Where the cluster lies: beside our locks, or where `location` says."""
        location = self.home / "location"
        if location.exists():
            return Path(location.read_text().strip())
        account = _unprivileged_account()
        place = self.home
        if account is not None:
            if not can_reach(place.parent, account):
                # Not named after our folder: whoever deletes that starts anew, and is not told of a
                # database without a password.
                place = ROOTS_HOME / secrets.token_hex(8)
                make_public(ROOTS_HOME)
                place.mkdir(mode=0o700)
                (place / OWNER_FILE).write_text(str(self.home))
            # The server's account makes the cluster and its log here.
            os.chown(place, account.uid, account.gid)
        cluster = place / "cluster"
        if place != self.home:
            location.write_text(str(cluster))
        return cluster

    def _saved_connection(self) -> dict[str, str] | None:
        try:
            saved: dict[str, str] = json.loads((self.home / "connection.json").read_text())
        except FileNotFoundError:
            return None
        return saved

    def _save_connection(self, port: int, password: str) -> None:
        fresh = self.home / "connection.new"
        fresh.unlink(missing_ok=True)
        fresh.touch(mode=0o600)
        fresh.write_text(json.dumps({"port": str(port), "password": password}))
        fresh.rename(self.home / "connection.json")


def _url(port: str | int, password: str, *, database: str = DATABASE) -> str:
    return f"postgresql://{SUPERUSER}:{quote(password)}@127.0.0.1:{port}/{database}"


def _create_database(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
        if known.fetchone() is None:
            connection.execute(f"CREATE DATABASE {DATABASE}")


def _unprivileged_account() -> Account | None:
    """Whom the server runs as: ourselves (None), or, when we are root, somebody who is not."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise Unavailable(
        "PostgreSQL refuses to run as root, and this system has neither an account 'postgres' nor "
        "'nobody'; run as an ordinary user, or set DATABASE_URL"
    )


def _run(command: Sequence[object], account: Account | None) -> subprocess.CompletedProcess[str]:
    # A session of its own keeps a terminal's Ctrl-C from reaching the server.
    with Path(os.devnull).open() as nothing:
        return subprocess.run(
            [str(part) for part in command],
            stdin=nothing,
            stdout=subprocess.PIPE if "start" not in command else subprocess.DEVNULL,
            stderr=subprocess.PIPE if "start" not in command else subprocess.DEVNULL,
            text=True,
            check=False,
            cwd="/",
            start_new_session=True,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _tail(log: Path, lines: int = 8) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError as error:
        return str(error)
