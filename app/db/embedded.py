"""A real PostgreSQL inside the data directory, for those who have no server.

The binaries come from a wheel, or from the system where the wheel has none. Every process that uses
the server (app, worker, CLI) holds a shared lock on one file; the last to leave stops the server, and
the first to come starts it. Nothing depends on a process saying goodbye: the kernel drops a dead
process's lock, and PostgreSQL recovers what was committed.

PostgreSQL refuses to run as root. As root, its binaries run as the account `postgres` or `nobody`, and
where that account cannot reach the data directory or the binaries (a checkout under a private home),
both are kept under /var/lib/plackett instead; a file in the data directory says where.
"""

import fcntl
import hashlib
import json
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import quote

import psycopg

from app.db.binaries import (
    ROOTS_HOME,
    Account,
    binaries_for,
    can_reach,
    find_binaries,
    reachable_binaries,
)
from app.errors import Unavailable

SUPERUSER = "plackett"
DATABASE = "plackett"
START_SECONDS = 60


class EmbeddedServer:
    """The server of one data directory, as seen by one process.

    `options` are server settings beyond our own (`{"fsync": "off"}` for tests).
    """

    def __init__(self, data_dir: Path, *, options: Mapping[str, str] | None = None) -> None:
        self.home = data_dir / "postgres"
        self.options = dict(options or {})
        self._users: IO[str] | None = None
        self._url: str | None = None

    def acquire(self) -> str:
        """The URL of the running server, started if need be; held until `release`.

        Raises Unavailable, with the end of the server's log, when it cannot be started.
        """
        if self._url is not None:
            return self._url
        self.home.mkdir(parents=True, exist_ok=True)
        with self._exclusively():
            url = self._url_if_running()
            if url is None:
                url = self._start()
            users = (self.home / "users.lock").open("a")
            fcntl.flock(users, fcntl.LOCK_SH)
            self._users = users
        self._url = url
        return url

    def release(self) -> None:
        """Let go of the server, and stop it if nobody else holds it."""
        users, self._users, self._url = self._users, None, None
        if users is None:
            return
        with self._exclusively(), users:
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            self._stop()

    def __enter__(self) -> str:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def remove(self) -> bool:
        """Stop the server and delete all that it wrote; False while a process still holds it.

        Its two lock files stay: a process that waits for one must find the same file afterwards.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        with self._exclusively(), (self.home / "users.lock").open("a") as users:
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            place = self._cluster().parent
            if (self._cluster() / "postmaster.pid").exists():
                self._stop(mode="immediate")
            if place != self.home:
                shutil.rmtree(place)
            for path in self.home.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.suffix != ".lock":
                    path.unlink()
        return True

    # What follows runs under the exclusive lock of `start.lock`.

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        with (self.home / "start.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _url_if_running(self) -> str | None:
        saved = self._saved_connection()
        if saved is None:
            return None
        url = _url(saved["port"], saved["password"])
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                with psycopg.connect(url, connect_timeout=5) as connection:
                    row = connection.execute("SHOW data_directory").fetchone()
            except psycopg.errors.CannotConnectNow:  # still recovering after a crash
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            except psycopg.OperationalError as error:
                if "starting up" in str(error) and time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                return None
            else:
                # Another server may have come to listen on the port that ours had.
                return url if row and Path(row[0]) == self._cluster() else None

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
        _remove_stale_pid_file(cluster)
        last_error = ""
        # A second try takes another port (ours may have been taken meanwhile), and gives the
        # backends of a killed server the moment that they need to notice and leave.
        for attempt in range(10):
            port = _free_port()
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
        account = _unprivileged_account()
        binaries = reachable_binaries(binaries_for(cluster), account)
        _run([binaries / "pg_ctl", "-D", cluster, "-m", mode, "-w", "stop"], account)

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
            if not can_reach(place, account):
                digest = hashlib.sha256(str(place).encode()).hexdigest()[:16]
                place = ROOTS_HOME / digest
                place.mkdir(parents=True, exist_ok=True, mode=0o755)
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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _remove_stale_pid_file(cluster: Path) -> None:
    """After a crash of the machine the old pid may belong to somebody else by now."""
    pid_file = cluster / "postmaster.pid"
    try:
        pid = pid_file.read_text().split("\n", 1)[0].strip()
    except FileNotFoundError:
        return
    command = Path("/proc") / pid / "cmdline"
    if command.exists() and b"postgres" not in command.read_bytes():
        pid_file.unlink()


def _tail(log: Path, lines: int = 8) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError as error:
        return str(error)
