"""The processes of `plackett serve`, each with a listening socket of its own where the kernel shares out.

With one socket for all, whoever wakes first takes the connection, which is nearly always the same process
while nobody is in a hurry: of 16 kept-alive connections 15 ended in one of two. With a socket for each
(SO_REUSEPORT), Linux deals the connections out, and a process that is killed takes no others with it.
"""

import socket
import sys
from typing import TypedDict

import uvicorn
from uvicorn.supervisors import Multiprocess

from app.errors import Unavailable


class Options(TypedDict):
    """What uvicorn is told, however many processes there are."""

    factory: bool
    host: str
    port: int
    workers: int
    log_config: None
    access_log: bool
    proxy_headers: bool


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


def serve(host: str, port: int, workers: int) -> None:
    """Answer requests until stopped; a process that dies is started again. Raises Unavailable."""
    options: Options = {
        "factory": True,
        "host": host,
        "port": port,
        "workers": workers,
        "log_config": None,
        "access_log": False,
        "proxy_headers": False,  # app.web.proxies decides which proxies are believed
    }
    application = "app.main:create_served_app"
    check_port(host, port)
    if workers == 1 or sys.platform != "linux":  # elsewhere the newest socket would get everything
        uvicorn.run(application, **options)
        return
    config = uvicorn.Config(application, **options)
    with config.bind_socket() as said:  # it writes our address into the log
        address = said.getsockname()[:2]
    with bind(address) as own:
        Multiprocess(config, sockets=[own]).run()
