"""The processes of `plackett serve`, each with a listening socket of its own where the kernel shares out.

With one socket for all, whoever wakes first takes the connection, which is nearly always the same process
while nobody is in a hurry: of 16 kept-alive connections 15 ended in one of two. With a socket for each
(SO_REUSEPORT), Linux deals the connections out, and a process that is killed takes no others with it.
"""

import signal
import socket
import sys
import time
from contextlib import suppress
from types import FrameType

import structlog
import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from app import stopping
from app.errors import Unavailable

log = structlog.get_logger(__name__)

PING_SECONDS = 0.1
# The application is imported in a few seconds, on a busy machine in ten.
SILENCE_SECONDS = 30.0


class OwnSocket(socket.socket):
    """A bound socket; a process that is started with it gets another one of the same address."""

    def __reduce__(self) -> tuple[object, ...]:
        return bind, (self.getsockname()[:2],)


def bind(address: tuple[str, int]) -> OwnSocket:
    """A socket of this address, beside those that our other processes have there."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    own = OwnSocket(family, socket.SOCK_STREAM)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    own.bind(address)
    return own


def check_port(host: str, port: int) -> None:
    """Raise Unavailable where another program has it: with SO_REUSEPORT we would share it unawares."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise Unavailable(
                f"cannot listen on {host}, port {port}: {error.strerror}; choose another with --port",
                field="--port",
            ) from None


class Server(uvicorn.Server):
    """One process that answers requests, with the clock of `app.stopping` on its end."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop taking requests, answer those that are here, end."""
        stopping.begin(sig)
        super().handle_exit(sig, frame)


class Supervisor(Multiprocess):
    """The processes that answer requests; those that do not end when they are told to are ended."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        before = signal.getsignal(signal.SIGHUP)
        super().__init__(config, sockets)
        if before is signal.SIG_IGN:  # whoever started us with `nohup` means it
            signal.signal(signal.SIGHUP, before)
        self._heard: dict[int | None, float] = {}

    def keep_subprocess_alive(self) -> None:
        """Replace those that have ended, and those that have said nothing for long.

        Uvicorn waits for each one's word in turn, seconds in which it hears no signal, and takes one that
        is slow to start on a busy machine for dead.
        """
        for index, process in enumerate(self.processes):
            now = time.monotonic()
            if process.process.is_alive():
                if process.ping(timeout=PING_SECONDS):
                    self._heard[process.pid] = now
                if now - self._heard.setdefault(process.pid, now) < SILENCE_SECONDS:
                    continue
            self._heard.pop(process.pid, None)
            process.kill()
            process.join()
            if process.exitcode == STARTUP_FAILURE:
                log.error("an app process could not start", pid=process.pid)
                self.should_exit.set()
                return
            log.warning("an app process has died and is started again", pid=process.pid)
            self.processes[index] = Process(self.config, self.sockets)
            self.processes[index].start()

    def handle_int(self) -> None:
        """Stop them all."""
        stopping.begin()
        super().handle_int()

    def handle_term(self) -> None:
        """Stop them all."""
        stopping.begin()
        super().handle_term()

    def handle_hup(self) -> None:
        """The terminal was closed."""
        self.handle_term()

    def join_all(self) -> None:
        """Wait for each to answer what it has begun to, but not for ever."""
        deadline = time.monotonic() + stopping.PROCESS_SECONDS
        for each in self.processes:
            each.process.join(max(0.0, deadline - time.monotonic()))
            if each.process.is_alive():
                log.warning("an app process does not end and is killed", pid=each.pid)
                each.process.kill()
                each.process.join()


def serve(host: str, port: int, workers: int) -> None:
    """Answer requests until stopped; a process that dies is started again. Raises Unavailable."""
    check_port(host, port)
    config = uvicorn.Config(
        "app.main:create_served_app",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        log_config=None,
        access_log=False,
        proxy_headers=False,  # app.web.proxies decides which proxies are believed
        timeout_graceful_shutdown=int(stopping.REQUEST_SECONDS),
    )
    if workers == 1 or sys.platform != "linux":  # elsewhere the newest socket would get everything
        # It ends by the signal that it was told to end by: orderly, so that is no failure.
        with suppress(stopping.Stopped):
            Server(config).run()
        return
    with config.bind_socket() as said:  # it writes our address into the log
        address = said.getsockname()[:2]
    with bind(address) as own:
        Supervisor(config, sockets=[own]).run()
