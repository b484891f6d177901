"""A peer that speaks HTTP/2 by hand, and leaves unread whatever a test wants it to."""

import socket
import struct
import threading

DATA, HEADERS, RST_STREAM, SETTINGS, PING = 0, 1, 3, 4, 6
ACK, END_STREAM, END_HEADERS = 1, 1, 4
INITIAL_WINDOW_SIZE = 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def field(name: str, value: str) -> bytes:
    """A header, neither indexed nor compressed."""
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def call(path: str) -> bytes:
    """The headers that begin a call."""
    pairs = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "x"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    )
    return b"".join(field(*pair) for pair in pairs)


class Peer:
    """Begins calls on one connection and reads no more of each than it wants to.

    Args:
        address: The server's.
        streams: How many to begin.
        window: Bytes that the server may send on each.
        path: Of what is called.

    Attributes:
        ended: The streams that the server has ended; they are 1, 3, 5 ...
        received: What came on each.
        closed: The server has closed the connection.
    """

    def __init__(
        self, address: str, streams: int, window: int, path: str = "/flwr.proto.FlowerService/Join"
    ) -> None:
        host, _, port = address.partition(":")
        self.ended: set[int] = set()
        self.received: dict[int, bytes] = {}
        self.closed = threading.Event()
        self._socket = socket.create_connection((host, int(port)))
        room = struct.pack(">HI", INITIAL_WINDOW_SIZE, window)
        self._socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, room))
        for number in range(streams):
            self._socket.sendall(frame(HEADERS, END_HEADERS, 1 + 2 * number, call(path)))
        threading.Thread(target=self._read, daemon=True).start()

    def say(self, stream: int, message: bytes) -> None:
        """Send a message on a stream."""
        prefix = b"\x00" + struct.pack(">I", len(message))
        self._socket.sendall(frame(DATA, 0, stream, prefix + message))

    def close(self) -> None:
        self._socket.close()

    def _read(self) -> None:
        with self._socket.makefile("rb") as file:
            while len(head := file.read(9)) == 9:
                length = int.from_bytes(head[:3], "big")
                kind, flags = head[3], head[4]
                stream = int.from_bytes(head[5:], "big")
                payload = file.read(length)
                if kind in (SETTINGS, PING) and not flags & ACK:
                    self._socket.sendall(frame(kind, ACK, 0, payload if kind == PING else b""))
                if kind == DATA:
                    self.received[stream] = self.received.get(stream, b"") + payload
                elif kind == RST_STREAM or (kind == HEADERS and flags & END_STREAM):
                    self.ended.add(stream)
        self.closed.set()
