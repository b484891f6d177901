"""The server's side of Flower: the port, and who comes there; ``flower_site.py`` is one connection.

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
from typing import TypeVar

from common.logs import quiet_flower

quiet_flower()

import grpc  # noqa: E402
from flwr.common import GetPropertiesIns  # noqa: E402
from flwr.proto.transport_pb2 import (  # noqa: E402
    DESCRIPTOR,
    ClientMessage,
    Scalar,
    ServerMessage,
)
from flwr.server.superlink.fleet.grpc_bidi.grpc_bridge import (  # noqa: E402
    GrpcBridge,
    GrpcBridgeClosed,
    ResWrapper,
)
from flwr.server.superlink.fleet.grpc_bidi.grpc_client_proxy import GrpcClientProxy  # noqa: E402
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse  # noqa: E402
from grpc_health.v1.health_pb2_grpc import (  # noqa: E402
    HealthServicer,
    add_HealthServicer_to_server,
)

from common import net  # noqa: E402
from common.errors import BadInput  # noqa: E402
from common.protocol import (  # noqa: E402
    HELLO,
    INSTRUCTION,
    ProtocolError,
    understand,
)
from server.flower_site import NOT_SENT, FlowerSite, config_of  # noqa: E402
from server.port import most_files  # noqa: E402
from server.roster import Roster  # noqa: E402
from server.sites import TRANSFER_SECONDS, TRANSFERS  # noqa: E402

log = logging.getLogger(__name__)

T = TypeVar("T")

GREETING_SECONDS = 10.0
"""How long whoever connects may take to be greeted, and, when it is its turn, to say hello."""

HELLO_READERS = 2
"""Hellos that are read at once. gRPC takes messages of up to 64 MiB from strangers too; what is not
being read waits at its sender."""

HELLO_BYTES = 1 << 16
"""Of a hello, at most; it has room for a few hundred."""

CONNECTIONS = 1000
"""At once, at most; fewer where fewer files may be open."""

OWN_FILES = 100
"""That the server may have open besides its connections and one file for each hospital's reply."""

IDLE_SECONDS = 30
"""How long a connection may be open on which nothing is called; a hospital calls at once."""

STRANGERS = 64
"""Connections that have not said hello, at most."""


Outgoing = tuple[ServerMessage, ...]
"""Messages that are sent as one: what is sent one after the other is merged where it arrives, and
what comes last counts (https://protobuf.dev/programming-guides/encoding/#last-one-wins). So all
hospitals share the weights, whatever else each is told; gRPC keeps what it was given to send to a
hospital until it is given the next."""


class _Service:
    """Flower's service: one stream a connection, on which each question has one answer.

    Flower's own servicer reads whatever a peer sends, as fast as it comes, and keeps the last
    message of every connection until the next one.
    """

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._strangers = Semaphore(STRANGERS)
        self._reading = Semaphore(HELLO_READERS)
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
        said_hello = False
        try:
            for question in bridge.ins_wrapper_iterator():
                deadline = monotonic() + (question.timeout or GREETING_SECONDS)
                with self._turn_to_send(question.server_message, proxy, deadline) as outgoing:
                    if outgoing is None:
                        bridge.set_res_wrapper(ResWrapper(NOT_SENT))
                        continue
                    with _cancelled_after(min(TRANSFER_SECONDS, deadline - monotonic()), context):
                        yield outgoing  # gRPC comes back when it is sent
                turn = nullcontext() if said_hello else self._reading
                with turn:
                    left = deadline - monotonic() if said_hello else GREETING_SECONDS
                    with _cancelled_after(left, context):
                        answer = next(request_iterator)
                    if not said_hello and answer.ByteSize() > HELLO_BYTES:
                        return
                    bridge.set_res_wrapper(ResWrapper(answer))
                    del answer  # or the weights stay until the next answer
                said_hello = True
        except (GrpcBridgeClosed, StopIteration, grpc.RpcError):
            return  # one side has closed the connection
        finally:
            bridge.close()

    @contextmanager
    def _turn_to_send(
        self, message: ServerMessage, proxy: GrpcClientProxy, deadline: float
    ) -> Iterator[Outgoing | None]:
        """Wait until there is room to send; give what is to be sent then, None: nothing.

        Whoever has to wait for the weights has less time for its work, and may not be allowed to
        have them any more.
        """
        if not message.HasField("fit_ins"):
            yield (message,)
            return
        waits = not self._sending.acquire(blocking=False)
        if waits and not self._sending.acquire(timeout=max(0.0, deadline - monotonic())):
            yield None
            return
        try:
            if waits:
                left = deadline - monotonic()
                stays = left > 0 and self._roster.may_stay(proxy)
                yield (message, _with_seconds(message, left)) if stays else None
            else:
                yield (message,)
        finally:
            self._sending.release()

    def _greet(self, proxy: GrpcClientProxy, context: grpc.ServicerContext) -> None:
        """Ask whoever connects for a hello, and enter who it is in the roster."""
        greeting = self._roster.admission.greeting()
        try:
            ins = GetPropertiesIns(config_of(greeting))
            result = proxy.get_properties(ins, GREETING_SECONDS, None)
            hello = understand(HELLO, str(result.properties.get("message")))
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
    """Return the messages as they travel."""
    return b"".join([message.SerializeToString() for message in outgoing])


def _add_to_server(service: _Service, server: grpc.Server) -> None:
    """Offer Flower's service, as Flower's own function does but for the serialiser."""
    join = grpc.stream_stream_rpc_method_handler(service.Join, ClientMessage.FromString, _serialize)
    name = DESCRIPTOR.services_by_name["FlowerService"].full_name
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, {"Join": join})])


def _with_seconds(message: ServerMessage, seconds: float) -> ServerMessage:
    """Return what, sent after an instruction, gives less time for it."""
    text = message.fit_ins.config["message"].string
    shorter = understand(INSTRUCTION, text).model_copy(update={"seconds": seconds})
    fit = ServerMessage.FitIns(config={"message": Scalar(string=shorter.model_dump_json())})
    return ServerMessage(fit_ins=fit)


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


class _Health(HealthServicer):
    """Answers the standard question whether the server serves.

    https://github.com/grpc/grpc/blob/master/doc/health-checking.md, without Watch, with which
    strangers would hold connections.
    """

    def Check(  # noqa: N802 - gRPC's name
        self, request: HealthCheckRequest, context: grpc.ServicerContext
    ) -> HealthCheckResponse:
        """Say that it does."""
        del request, context
        return HealthCheckResponse(status=HealthCheckResponse.SERVING)


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
    connections = max(1, min(CONNECTIONS, (most_files() - OWN_FILES) // 2))
    server = grpc.server(
        ThreadPoolExecutor(connections, "hospital"),
        maximum_concurrent_rpcs=connections,
        options=[
            *net.GRPC_OPTIONS,
            ("grpc.max_allowed_incoming_connections", connections),
            ("grpc.max_connection_idle_ms", IDLE_SECONDS * 1000),
            ("grpc.server_handshake_timeout_ms", IDLE_SECONDS * 1000),
            # Or a second server on this port would take half of the hospitals.
            ("grpc.so_reuseport", 0),
        ],
    )
    _add_to_server(_Service(roster), server)
    add_HealthServicer_to_server(_Health(), server)
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
