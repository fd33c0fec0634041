"""A door before a server: what the way to a database does when a cable or a host fails.

Open, it hands on every byte. Shut, it refuses (the server has ended). Silent, it takes connections and
bytes and says nothing (the host has halted, or the network swallows everything), until it is open again.
"""

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

CHUNK = 1 << 16


class Gate:
    """Of one server; `port` is where it is found."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.open = threading.Event()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.let_through()
        threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()

    def let_through(self) -> None:
        """Open it, from silence or anew."""
        if self._listener.fileno() < 0:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()
        self.open.set()

    def fall_silent(self) -> None:
        """Hand on nothing more."""
        self.open.clear()

    def shut(self) -> None:
        """End every connection and refuse new ones."""
        # `shutdown` wakes whoever waits in `accept`, which `close` alone does not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for pair in self._pairs:
            for each in pair:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self.open.wait()
        with client, contextlib.suppress(OSError), socket.create_connection(self.target) as server:
            self._pairs.append((client, server))
            ways = {client: server, server: client}
            with selectors.DefaultSelector() as waiting:
                for each in ways:
                    waiting.register(each, selectors.EVENT_READ)
                while True:
                    for key, _ in waiting.select():
                        source = key.fileobj
                        assert isinstance(source, socket.socket)
                        told = source.recv(CHUNK)
                        self.open.wait()
                        if not told:
                            return
                        ways[source].sendall(told)


@contextmanager
def gate_before(host: str, port: int) -> Iterator[Gate]:
    """A gate for the time of the context."""
    gate = Gate((host, port))
    try:
        yield gate
    finally:
        gate.open.set()
        gate.shut()
