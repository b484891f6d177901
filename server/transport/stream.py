"""One hospital's stream: the server sends a message, the hospital answers it, one at a time."""

from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from threading import Lock
from typing import TypeVar

import grpc
from flwr.proto.transport_pb2 import ClientMessage

from common.envelope import Envelope, opened
from server.rounds.ask import HospitalLost
from server.run.events import CONNECTION_CLOSED

T = TypeVar("T")

NOTHING = b""
"""Put in a message's place where only another answer is wanted."""


WEIGHTS = (
    ClientMessage.DESCRIPTOR.fields_by_name["get_parameters_res"].number,
    ClientMessage.GetParametersRes.DESCRIPTOR.fields_by_name["parameters"].number,
)
"""Fields that lead to the weights of an answer."""


def answer_of(data: bytes) -> Envelope[ClientMessage]:
    """Return an answer as it travelled.

    Raises:
        DecodeError: It is no such message; gRPC ends the call then.
    """
    if (parts := opened(data, WEIGHTS)) is not None:
        return Envelope(ClientMessage.FromString(parts[0]), parts[1])
    message = ClientMessage.FromString(data)
    tensors = message.get_parameters_res.parameters.tensors
    return Envelope(message, tensors[0] if len(tensors) == 1 else b"")


class Stream:
    """Hands messages to gRPC's thread and its answers back; :meth:`serve` runs in that thread.

    Args:
        cancel: Ends the call at once, whatever it waits for.
    """

    def __init__(self, cancel: Callable[[], object]) -> None:
        self._cancel = cancel
        self._outgoing: SimpleQueue[bytes | None] = SimpleQueue()
        self._sent: SimpleQueue[bool | None] = SimpleQueue()
        self._answers: SimpleQueue[Envelope[ClientMessage] | None] = SimpleQueue()
        self._lock = Lock()
        self._closed = False
        self._when_closed: list[Callable[[], object]] = []

    def serve(self, answers: Iterator[Envelope[ClientMessage]]) -> Iterator[list[bytes]]:
        """Yield each message as it travels and take its answer, until the stream is closed.

        A message is alone in a list, to be taken out of it: gRPC keeps what was yielded until the
        next message, and so would each hospital's thread its own copy of a model.

        One answer is read for each message, and another one when it is asked for, so that a peer
        cannot fill the memory.
        """
        try:
            while (data := self._outgoing.get()) is not None:
                if data != NOTHING:
                    held, data = [data], NOTHING
                    yield held  # gRPC comes back once it is sent
                    self._sent.put(True)
                self._answers.put(next(answers))
        except (StopIteration, grpc.RpcError):
            return  # the hospital has closed the connection
        finally:
            self.close()

    def send(self, data: bytes, timeout: float) -> None:
        """Send a message and wait until it is sent.

        Raises:
            HospitalLost: It was not sent within ``timeout`` seconds; the stream is closed then.
        """
        self._outgoing.put(data)
        self._wait(self._sent, timeout)

    def receive(self, timeout: float) -> Envelope[ClientMessage]:
        """Wait for the answer to the message that was sent last.

        Raises:
            HospitalLost: It did not come within ``timeout`` seconds; the stream is closed then.
        """
        return self._wait(self._answers, timeout)

    def receive_another(self, timeout: float) -> Envelope[ClientMessage]:
        """Wait for one more answer to the same message.

        Raises:
            HospitalLost: It did not come within ``timeout`` seconds; the stream is closed then.
        """
        self._outgoing.put(NOTHING)
        return self.receive(timeout)

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._closed

    def close(self) -> None:
        """End the stream, from any thread, as often as one likes."""
        with self._lock:
            self._closed = True
            callbacks, self._when_closed = self._when_closed, []
        for queue in (self._outgoing, self._sent, self._answers):
            queue.put(None)
        for callback in callbacks:
            callback()

    def cancel(self) -> None:
        """End the stream at once, even if an answer is being waited for."""
        self._cancel()
        self.close()

    def when_closed(self, callback: Callable[[], object]) -> None:
        """Call a function once the stream is closed; now, if it is closed already."""
        with self._lock:
            if not self._closed:
                self._when_closed.append(callback)
                return
        callback()

    def _wait(self, queue: "SimpleQueue[T | None]", timeout: float) -> T:
        try:
            item = queue.get(timeout=max(0.0, timeout))
        except Empty:
            self.cancel()
            raise HospitalLost("no answer in time") from None
        if item is None:
            queue.put(None)  # for the next call
            raise HospitalLost(CONNECTION_CLOSED)
        return item
