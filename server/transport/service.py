"""The port: Flower's gRPC service with its messages, and gRPC's standard service for health.

Of Flower 1.41 the protocol is used: one port, one bidirectional stream a hospital. See
docs/decisions/0001-flower-transport.md and 0002-flower-service.md.
"""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Thread

import grpc
from flwr.proto.transport_pb2 import DESCRIPTOR as FLOWER
from flwr.proto.transport_pb2 import ClientMessage
from grpc_health.v1.health_pb2 import DESCRIPTOR as HEALTH
from grpc_health.v1.health_pb2 import HealthCheckResponse

from common import net
from common.certificates import Peer
from common.envelope import Envelope
from common.errors import BadInput
from common.message import ProtocolError
from common.protocol import Check
from server.members.roster import Roster
from server.rounds.ask import HospitalLost
from server.transport.connection import FlowerConnection, Outbox, greet, properties_of
from server.transport.port import most_files
from server.transport.stream import Stream, answer_of
from server.transport.tls import ServerTLS, peer_of

log = logging.getLogger(__name__)

CONNECTIONS = 1000
"""At once, at most; fewer where fewer files may be open."""

RESERVED_FILES = 100
"""File descriptors reserved for everything but connections and hospitals' replies."""

IDLE_SECONDS = 30
"""How long a handshake may take, and how long a connection may be open on which nothing is
called."""

CALLS = 8
"""On one connection, at most; a hospital has one."""


class _Service:
    """Flower's service. Flower's own servicer reads whatever a peer sends, as fast as it comes."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._outbox = Outbox()

    def Join(  # noqa: N802 - Flower's name
        self, request_iterator: Iterator[Envelope[ClientMessage]], context: grpc.ServicerContext
    ) -> Iterator[list[bytes]]:
        """Serve one stream until one of the sides closes it.

        A client whose certificate is not welcome is told so; nothing that it sends is read.
        """
        peer = peer_of(context)
        if (farewell := self._roster.turn_away(peer)) is not None:
            yield [properties_of(farewell)]
            return
        stream = Stream(context.cancel)
        if context.add_callback(stream.close):
            Thread(target=self._greet, args=(stream, peer), daemon=True).start()
            yield from stream.serve(request_iterator)

    def _greet(self, stream: Stream, peer: Peer | None) -> None:
        """Ask the client for its hello, and enter the hospital in the roster."""
        roster = self._roster
        try:
            answer = greet(stream, roster.admission.greeting)
        except (HospitalLost, ProtocolError) as error:
            log.warning("a connection was closed: no hello (%s)", error)
            stream.close()
            return
        if isinstance(answer, Check):
            name = peer.name if peer else answer.site
            log.info("%s checks its connection (fedcxr %s); it does not join", name, answer.version)
            stream.close()
            return
        connection = FlowerConnection(
            stream, peer, answer, self._outbox, lambda known: roster.standing(known) is None
        )
        try:
            roster.enter(connection)
        except OSError as error:
            log.error("%s cannot be let in: %s", answer.site, error.strerror)
            stream.close()
        # In a thread of its own: it writes to disk, and gRPC's one thread must not wait for that.
        forget = Thread(target=self._forget, args=(connection,), daemon=True)
        stream.when_closed(forget.start)

    def _forget(self, connection: FlowerConnection) -> None:
        try:
            self._roster.leave(connection)
        except OSError as error:
            log.error("that %s left is not noted: %s", connection.hello.site, error.strerror)


def _handlers(service: _Service) -> list[grpc.GenericRpcHandler]:
    """Return Flower's service with messages that are serialised already, and the one for health.

    gRPC's own health service waits for the whole request, for ever, and has Watch besides: clients
    could hold all calls. As a stream the request is not read at all.
    https://github.com/grpc/grpc/blob/master/doc/health-checking.md
    """
    join = grpc.stream_stream_rpc_method_handler(service.Join, answer_of, list.pop)
    serving = HealthCheckResponse(status=HealthCheckResponse.SERVING).SerializeToString()
    check: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_unary_rpc_method_handler(
        lambda _requests, _context: serving
    )
    flower = FLOWER.services_by_name["FlowerService"].full_name
    health = HEALTH.services_by_name["Health"].full_name
    return [
        grpc.method_handlers_generic_handler(flower, {"Join": join}),
        grpc.method_handlers_generic_handler(health, {"Check": check}),
    ]


@contextmanager
def listening(roster: Roster, listen: str, tls: ServerTLS | None) -> Iterator[None]:
    """Listen for the length of the block, while hospitals come and go.

    Args:
        roster: Takes in the hospitals.
        listen: ``HOST:PORT``.
        tls: The server's certificate; None: no encryption, and any client may connect.

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
        if tls is None:
            server.add_insecure_port(listen)
        else:
            server.add_secure_port(listen, tls.credentials())
    except RuntimeError:
        raise BadInput(f"--listen {listen}: cannot be listened on; choose another port") from None
    server.start()
    log.info("listening on %s, %s", listen, "TLS" if tls else "NOT encrypted")
    try:
        yield
    finally:
        server.stop(None)
