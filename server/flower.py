"""The server's side of Flower; no other file under ``server`` imports it.

Of Flower 1.41 its gRPC service is used: one port, one bidirectional stream a hospital. Its round
loop and strategies are not. See docs/decisions/0001-flower-transport.md and
0002-flower-service.md.
"""

import logging
import resource
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from threading import Lock, Semaphore, Thread, Timer
from typing import Any, TypeVar

from common.logs import quiet_flower

quiet_flower()

import grpc  # noqa: E402
from flwr.common import (  # noqa: E402
    FitIns,
    GetParametersIns,
    GetPropertiesIns,
    Parameters,
    serde,
)
from flwr.proto.transport_pb2 import ClientMessage, ServerMessage  # noqa: E402
from flwr.proto.transport_pb2_grpc import (  # noqa: E402
    FlowerServiceServicer,
    add_FlowerServiceServicer_to_server,
)
from flwr.server.superlink.fleet.grpc_bidi.grpc_bridge import (  # noqa: E402
    GrpcBridge,
    GrpcBridgeClosed,
    InsWrapper,
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
    REPLY,
    Farewell,
    Fetch,
    Hello,
    Identity,
    Instruction,
    Message,
    ProtocolError,
    Reply,
    Verdict,
    understand,
)
from server.roster import Roster  # noqa: E402
from server.sites import TRANSFER_SECONDS, TRANSFERS, SiteLost  # noqa: E402

log = logging.getLogger(__name__)

T = TypeVar("T")

GREETING_SECONDS = 10.0
"""How long whoever connects may take to be greeted, and, when it is its turn, to say hello."""

HELLO_READERS = 2
"""Hellos that are read at once. gRPC takes messages of up to 64 MiB from strangers too; what is not
being read waits at its sender."""

HELLO_BYTES = 1 << 16
"""Of a hello, at most; it has room for a few hundred."""

WORD_SECONDS = 5.0
"""How long a hospital may take to answer a word that asks for no work."""

CONNECTIONS = 1000
"""At once, at most; fewer where fewer files may be open."""

OWN_FILES = 100
"""That the server may have open besides its connections and one file for each hospital's reply."""

IDLE_SECONDS = 30
"""How long a connection may be open on which nothing is called; a hospital calls at once."""

STRANGERS = 64
"""Connections that have not said hello, at most."""


class FlowerSite:
    """A hospital behind a connection of Flower's; see :class:`server.roster.Connected`."""

    def __init__(self, proxy: GrpcClientProxy, hello: Hello) -> None:
        self.connection = proxy
        self.hello = hello
        self.backbone = hello.backbone
        self._line = Lock()  # Flower's bridge takes one request at a time

    def ask(self, sealed: object, timeout: float) -> Reply:
        """Send what :func:`seal` made and wait for the reply."""
        assert isinstance(sealed, ServerMessage)  # noqa: S101 - seal made it
        wrapped = InsWrapper(sealed, max(timeout, 0.1))
        answer = self._call(lambda: self.connection.bridge.request(wrapped), timeout)
        return understand(REPLY, answer.client_message.fit_res.metrics["message"].string)

    def fetch(self, identity: Identity, timeout: float) -> bytes:
        """Return the weights that go with a reply."""
        ins = GetParametersIns(_config(Fetch(identity=identity)))
        result = self._call(
            lambda: self.connection.get_parameters(ins, max(timeout, 0.1), None), timeout
        )
        tensors: list[bytes] = result.parameters.tensors
        return tensors[0] if len(tensors) == 1 else b""

    def tell(self, identity: Identity, reason: str) -> None:
        """Tell why its reply is not averaged."""
        verdict = Verdict(identity=identity, reason=reason[:500])
        Thread(target=self.answers, args=(verdict,), daemon=True).start()

    def answers(self, message: Message) -> bool:
        """Say something that asks for no work; return whether an answer came."""
        try:
            self._call(
                lambda: self.connection.get_properties(
                    GetPropertiesIns(_config(message)), WORD_SECONDS, None
                ),
                WORD_SECONDS,
            )
        except SiteLost as lost:
            log.debug("%s: %s", self.hello.site, lost)
            return False
        return True

    @property
    def busy(self) -> bool:
        """Whether something is being asked of it."""
        return self._line.locked()

    def part(self, farewell: Farewell) -> None:
        """Say the last words and close the connection."""
        self.answers(farewell)
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.connection.bridge.close()

    def _call(self, request: Callable[[], T], timeout: float) -> T:
        if not self._line.acquire(timeout=max(timeout, 0.1)):
            raise SiteLost("it is still busy")
        try:
            return request()
        except Exception as error:  # noqa: BLE001 - whatever Flower raises, the hospital is lost
            raise SiteLost(f"no reply ({type(error).__name__})") from None
        finally:
            self._line.release()


def _config(message: Message) -> dict[str, Any]:
    """Return a message as it stands in a call of Flower's."""
    return {"message": message.model_dump_json()}


def seal(instruction: Instruction, blob: bytes) -> object:
    """Return an instruction and its weights as they travel."""
    ins = FitIns(Parameters([blob], "safetensors"), _config(instruction))
    return ServerMessage(fit_ins=serde.fit_ins_to_proto(ins))


class _Service(FlowerServiceServicer):
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
    ) -> Iterator[ServerMessage]:
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
                seconds = question.timeout or GREETING_SECONDS
                if question.server_message.HasField("fit_ins"):
                    with self._sending, _cancelled_after(TRANSFER_SECONDS, context):
                        yield question.server_message  # gRPC comes back when it is sent
                else:
                    with _cancelled_after(seconds, context):
                        yield question.server_message
                turn = nullcontext() if said_hello else self._reading
                with turn, _cancelled_after(seconds, context):
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

    def _greet(self, proxy: GrpcClientProxy, context: grpc.ServicerContext) -> None:
        """Ask whoever connects for a hello, and enter who it is in the roster."""
        greeting = self._roster.admission.greeting()
        try:
            ins = GetPropertiesIns(_config(greeting))
            result = proxy.get_properties(ins, GREETING_SECONDS, None)
            hello = understand(HELLO, str(result.properties.get("message")))
        except Exception as error:  # noqa: BLE001 - whoever it is, it is no hospital
            reason = str(error) if isinstance(error, ProtocolError) else type(error).__name__
            self._roster.note_stranger(reason)
            proxy.bridge.close()
        else:
            self._roster.enter(FlowerSite(proxy, hello), greeting)
            if not context.is_active():  # it left while it was entered
                self._roster.leave(proxy)
        finally:
            self._strangers.release()


@contextmanager
def _cancelled_after(seconds: float, context: grpc.ServicerContext) -> Iterator[None]:
    """Close the connection if the block takes too long."""
    timer = Timer(seconds, context.cancel)
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
    connections = max(1, min(CONNECTIONS, (_most_files() - OWN_FILES) // 2))
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
    add_FlowerServiceServicer_to_server(_Service(roster), server)
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


def _most_files() -> int:
    """Let this process open as many files as it may; return how many these are."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return 1 << 20 if most == resource.RLIM_INFINITY else most


def check_free(listen: str) -> None:
    """Check early, before anything is written, that nobody listens on an address.

    Raises:
        BadInput: Somebody does, or the address is not this machine's.
    """
    host, port = net.split_address(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise BadInput(
                f"--listen {listen}: {error.strerror}; choose another port or end what uses it"
            ) from None
