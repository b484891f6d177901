"""A line between a client and a server on loopback that can be cut and mended."""

import socket
from contextlib import suppress
from threading import Thread
from typing import Self

CHUNK = 1 << 16


class Relay:
    """Passes connections on to a port, while :attr:`up`.

    Args:
        port: Of the server.

    Attributes:
        up: Whether new connections are passed on; those that are open are cut when it is not.
        port: Where it listens.
    """

    def __init__(self, port: int) -> None:
        self.up = True
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if not self.up:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._to))
                for source, target in ((near, far), (far, near)):
                    Thread(target=self._carry, args=(source, target), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError), source, target:
            while (data := source.recv(CHUNK)) and self.up:
                target.sendall(data)
