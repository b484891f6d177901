"""The server's side of Flower: the port, and who comes there; ``connection.py`` is one connection.

Of Flower 1.41 its gRPC service is used: one port, one bidirectional stream a hospital. Its round
loop and strategies are not. See docs/decisions/0001-flower-transport.md and
0002-flower-service.md.
"""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from threading import Semaphore, Thread, Timer
from time import monotonic

import grpc
from flwr.common import GetPropertiesIns
from flwr.proto.transport_pb2 import (
    DESCRIPTOR,
    ClientMessage,
    Scalar,
    ServerMessage,
)
from flwr.server.superlink.fleet.grpc_bidi.grpc_bridge import (
    GrpcBridge,
    GrpcBridgeClosed,
    ResWrapper,
)
from flwr.server.superlink.fleet.grpc_bidi.grpc_client_proxy import GrpcClientProxy
from grpc_health.v1.health_pb2 import DESCRIPTOR as HEALTH
from grpc_health.v1.health_pb2 import HealthCheckResponse

from common import net
from common.errors import BadInput
from common.protocol import HELLO, Instruction, ProtocolError, parse_message
from server.members.roster import Roster
from server.rounds.ask import TRANSFER_SECONDS, TRANSFERS
from server.transport.connection import NOT_SENT, FlowerSite, Sealed, config_of
from server.transport.port import most_files

log = logging.getLogger(__name__)

GREETING_SECONDS = 10.0
"""How long whoever connects may take to be greeted, and, when it is its turn, to say hello."""

STRANGERS_READ = 2
"""Strangers who are listened to at once. gRPC takes messages of up to 64 MiB from them too; what is
not being read waits at its sender."""

WORDS_BYTES = 1 << 16
"""Of what a stranger says, at most; a hello takes a few hundred."""

CONNECTIONS = 1000
"""At once, at most; fewer where fewer files may be open."""

RESERVED_FILES = 100
"""File descriptors reserved for everything but connections and hospitals' replies."""

IDLE_SECONDS = 30
"""How long a connection may be open on which nothing is called; a hospital calls at once."""

CALLS = 8
"""On one connection, at most; a hospital has one. gRPC keeps about 20 KB of each whose answer is
not read, for as long as the connection lives."""

STRANGERS = 64
"""Connections that have not said hello, at most."""

NEARLY_ALL = 0.95
"""Share of a round's time that is as good as all of it. Who has less left, once its turn to be sent
the weights has come, is told so, which takes a copy of them; who has more and needs all of it is
late by the rest."""

Outgoing = tuple[bytes, ...]
"""Messages that are sent as one: what is sent one after the other is merged where it arrives, and
what comes last counts (https://protobuf.dev/programming-guides/encoding/#last-one-wins)."""


class _Service:
    """Flower's service: one stream a connection, on which each question has one answer.

    Flower's own servicer reads whatever a peer sends, as fast as it comes, and keeps the last
    message of every connection until the next one.
    """

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._strangers = Semaphore(STRANGERS)
        self._reading = Semaphore(STRANGERS_READ)
        self._sending = Semaphore(TRANSFERS)

    def Join(  # noqa: N802 - Flower's name
        self, request_iterator: Iterator[ClientMessage], context: grpc.ServicerContext
    ) -> Iterator[Outgoing]:
        """Send what the bridge is asked for, weights a few at a time, and take the answers."""
        if not self._strangers.acquire(blocking=False):
            return
        bridge = GrpcBridge()
        proxy = GrpcClientProxy("", bridge)

        def leave() -> None:
            bridge.close()
            self._roster.leave(proxy)

        if not context.add_callback(leave):
            leave()  # the connection has ended before anybody could be told of it
        Thread(target=self._greet, args=(proxy, context), daemon=True).start()
        try:
            for question in bridge.ins_wrapper_iterator():
                deadline = monotonic() + (question.timeout or GREETING_SECONDS)
                with self._turn_to_send(question.server_message, proxy, deadline) as outgoing:
                    if outgoing is None:
                        bridge.set_res_wrapper(ResWrapper(NOT_SENT))
                        continue
                    with _cancelled_after(min(TRANSFER_SECONDS, deadline - monotonic()), context):
                        yield outgoing  # gRPC comes back when it is sent
                known = self._roster.may_stay(proxy)
                with nullcontext() if known else self._reading:
                    left = deadline - monotonic() if known else GREETING_SECONDS
                    with _cancelled_after(left, context):
                        answer = next(request_iterator)
                    if not known and answer.ByteSize() > WORDS_BYTES:
                        return
                    bridge.set_res_wrapper(ResWrapper(answer))
                    del answer  # or the weights stay until the next answer
        except (GrpcBridgeClosed, StopIteration, grpc.RpcError):
            return  # one side has closed the connection
        finally:
            bridge.close()

    @contextmanager
    def _turn_to_send(
        self, message: ServerMessage | Sealed, proxy: GrpcClientProxy, deadline: float
    ) -> Iterator[Outgoing | None]:
        """Wait until there is room to send; give what is to be sent then, None: nothing.

        Whoever has to wait for the weights has less time for its work, and may not be allowed to
        have them any more.
        """
        if isinstance(message, ServerMessage):
            yield (message.SerializeToString(),)
            return
        waits = not self._sending.acquire(blocking=False)
        if waits and not self._sending.acquire(timeout=max(0.0, deadline - monotonic())):
            yield None
            return
        try:
            left = deadline - monotonic()
            if waits and not (left > 0 and self._roster.may_stay(proxy)):
                yield None
            elif waits and left < NEARLY_ALL * message.instruction.seconds:
                yield (message.data, _seconds_of(message.instruction, left))
            else:
                yield (message.data,)
        finally:
            self._sending.release()

    def _greet(self, proxy: GrpcClientProxy, context: grpc.ServicerContext) -> None:
        """Ask whoever connects for a hello, and enter who it is in the roster."""
        greeting = self._roster.admission.greeting()
        try:
            ins = GetPropertiesIns(config_of(greeting))
            result = proxy.get_properties(ins, GREETING_SECONDS, None)
            hello = parse_message(HELLO, str(result.properties.get("message")))
        except Exception as error:  # noqa: BLE001 - whoever it is, it is no hospital
            reason = str(error) if isinstance(error, ProtocolError) else type(error).__name__
            self._roster.note_stranger(reason)
            proxy.bridge.close()
        else:
            entered = False
            try:
                self._roster.enter(FlowerSite(proxy, greeting, hello))
                entered = context.is_active()  # or it left while it was entered
            finally:
                if not entered:
                    proxy.bridge.close()
                    self._roster.leave(proxy)
        finally:
            self._strangers.release()


def _serialize(outgoing: Outgoing) -> bytes:
    """Return the messages as they travel; one alone is not copied."""
    return b"".join(outgoing)


def _seconds_of(instruction: Instruction, seconds: float) -> bytes:
    """Return what, sent after an instruction, gives less time for it."""
    shorter = instruction.model_copy(update={"seconds": seconds})
    fit = ServerMessage.FitIns(config={"message": Scalar(string=shorter.model_dump_json())})
    return ServerMessage(fit_ins=fit).SerializeToString()


def _handlers(service: _Service) -> list[grpc.GenericRpcHandler]:
    """Return Flower's service, with a serialiser of our own, and the standard one for health.

    Health is asked for by strangers, and gRPC would read a whole request of theirs before it asks
    for the answer; as a stream it is not read at all.
    https://github.com/grpc/grpc/blob/master/doc/health-checking.md, without Watch, with which
    strangers would hold connections.
    """
    join = grpc.stream_stream_rpc_method_handler(service.Join, ClientMessage.FromString, _serialize)
    serving = HealthCheckResponse(status=HealthCheckResponse.SERVING).SerializeToString()
    check: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_unary_rpc_method_handler(
        lambda _requests, _context: serving
    )
    flower = DESCRIPTOR.services_by_name["FlowerService"].full_name
    health = HEALTH.services_by_name["Health"].full_name
    return [
        grpc.method_handlers_generic_handler(flower, {"Join": join}),
        grpc.method_handlers_generic_handler(health, {"Check": check}),
    ]


@contextmanager
def _cancelled_after(seconds: float, context: grpc.ServicerContext) -> Iterator[None]:
    """Close the connection if the block takes too long."""
    timer = Timer(max(0.0, seconds), context.cancel)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def serve(
    roster: Roster,
    listen: str,
    certificates: tuple[bytes, bytes] | None,
    work: Callable[[], None],
) -> None:
    """Listen, run ``work`` while hospitals come and go, close the port.

    Args:
        roster: Takes in the hospitals.
        listen: ``HOST:PORT``.
        certificates: The server's and its key, PEM; None: no encryption.
        work: Runs the rounds; whatever it raises is raised from here.

    Raises:
        BadInput: The address cannot be listened on.
    """
    connections = max(1, min(CONNECTIONS, (most_files() - RESERVED_FILES) // 2))
    server = grpc.server(
        ThreadPoolExecutor(connections, "hospital"),
        maximum_concurrent_rpcs=connections,
        options=[
            *net.GRPC_OPTIONS,
            ("grpc.max_allowed_incoming_connections", connections),
            ("grpc.max_concurrent_streams", CALLS),
            ("grpc.max_connection_idle_ms", IDLE_SECONDS * 1000),
            ("grpc.server_handshake_timeout_ms", IDLE_SECONDS * 1000),
            # With its estimate of the bandwidth gRPC keeps some 7 MB for each connection, without
            # it what a hospital sends comes at 1 MB a round trip; see benchmarks/server_memory.md.
            ("grpc.http2.bdp_probe", 0),
            # Or a second server on this port would take half of the hospitals.
            ("grpc.so_reuseport", 0),
        ],
    )
    server.add_generic_rpc_handlers(_handlers(_Service(roster)))
    try:
        if certificates is None:
            server.add_insecure_port(listen)
        else:
            certificate, key = certificates
            credentials = grpc.ssl_server_credentials([(key, certificate)])
            server.add_secure_port(listen, credentials)
    except RuntimeError:
        raise BadInput(f"--listen {listen}: cannot be listened on; choose another port") from None
    server.start()
    log.info("listening on %s, %s", listen, "TLS" if certificates else "NOT encrypted")
    try:
        work()
    finally:
        server.stop(None)
