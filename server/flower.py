"""The server's side of Flower; no other file under ``server`` imports it.

Flower 1.41's ``start_server`` listens on one port, one bidirectional gRPC stream a hospital. Its
own round loop and strategies are not used: they would wait for ever, hang on a malformed reply and
sum in float32. See docs/decisions/0001-flower-transport.md.
"""

import logging
import socket
from collections.abc import Callable
from threading import Condition, Thread

from common.cli import stop_on_signals
from common.logs import quiet_flower

quiet_flower()

from flwr.common import FitIns, GetPropertiesIns, Parameters, ReconnectIns  # noqa: E402
from flwr.server import (  # noqa: E402
    History,
    Server,
    ServerConfig,
    SimpleClientManager,
    start_server,
)
from flwr.server.client_proxy import ClientProxy  # noqa: E402
from pydantic import ValidationError  # noqa: E402

from common.errors import BadInput  # noqa: E402
from common.net import split_address  # noqa: E402
from common.protocol import Farewell, Greeting, Hello, Instruction, Reply  # noqa: E402
from server.run_folder import RunFolder  # noqa: E402
from server.sites import Site, SiteLost  # noqa: E402

log = logging.getLogger(__name__)

GREETING_SECONDS = 60.0
"""How long whoever connects may take to say hello."""


class FlowerSite:
    """A hospital behind a connection of Flower's; see :class:`server.sites.Site`."""

    def __init__(self, proxy: ClientProxy, hello: Hello) -> None:
        self.proxy = proxy
        self.hello = hello
        self.backbone = hello.backbone

    def ask(self, instruction: Instruction, blob: bytes, timeout: float) -> tuple[Reply, bytes]:
        """Send an instruction with weights and wait for the reply with its weights.

        Raises:
            SiteLost: No reply within ``timeout`` seconds, or none that can be understood.
        """
        config = {"message": instruction.model_dump_json()}
        ins = FitIns(Parameters([blob], "safetensors"), config)  # type: ignore[arg-type]
        try:
            result = self.proxy.fit(ins, timeout, None)
            reply = Reply.model_validate_json(str(result.metrics.get("message")))
            (weights,) = result.parameters.tensors
        except ValidationError:
            raise SiteLost("its reply is not of this protocol") from None
        except Exception as error:  # noqa: BLE001 - whatever Flower raises, the hospital is lost
            raise SiteLost(f"no reply ({type(error).__name__})") from None
        return reply, weights


class FlowerSites(SimpleClientManager):
    """Greets whoever connects and keeps the hospitals by name; see :class:`server.sites.Sites`.

    Flower's client ids are random for each connection, so they name nobody.

    Args:
        greeting: What everybody is told first.
        image_size: Pixels along each side that a hospital's images must have.
        folder: Where comings and goings are written.
    """

    def __init__(self, greeting: Greeting, image_size: int, folder: RunFolder) -> None:
        super().__init__()
        self._greeting = greeting
        self._image_size = image_size
        self._folder = folder
        self._sites: dict[str, FlowerSite] = {}
        self._changed = Condition()

    def register(self, client: ClientProxy) -> bool:
        """Take in a new connection; it is greeted in a thread of its own."""
        registered = super().register(client)
        if registered:
            Thread(target=self._greet, args=(client,), daemon=True).start()
        return bool(registered)

    def unregister(self, client: ClientProxy) -> None:
        """Forget a connection that was closed."""
        super().unregister(client)
        with self._changed:
            gone = [name for name, site in self._sites.items() if site.proxy is client]
            for name in gone:
                del self._sites[name]
        for name in gone:
            log.info("%s left", name)
            self._folder.write_event("left", site=name)

    def wait_for(self, num_clients: int, timeout: float = GREETING_SECONDS) -> bool:
        """Wait until so many hospitals have said hello; return whether they have."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._sites) >= num_clients, timeout)

    def present(self) -> dict[str, Site]:
        """Return those who have said hello and are still connected, by name, sorted."""
        with self._changed:
            return dict(sorted(self._sites.items()))

    def say_farewell(self, reason: str) -> None:
        """Tell everybody that the run is over."""
        for site in self.present().values():
            _part(site.proxy, Farewell(outcome="finished", reason=reason))  # type: ignore[attr-defined]

    def _greet(self, client: ClientProxy) -> None:
        call = {"message": self._greeting.model_dump_json()}
        try:
            result = client.get_properties(GetPropertiesIns(call), GREETING_SECONDS, None)  # type: ignore[arg-type]
            hello = Hello.model_validate_json(str(result.properties.get("message")))
        except Exception as error:  # noqa: BLE001 - whoever it is, it is no hospital
            log.warning("a connection was closed: no hello (%s)", type(error).__name__)
            return
        refusal = self._refusal(hello)
        if refusal is None:
            with self._changed:
                if hello.site not in self._sites:
                    self._sites[hello.site] = FlowerSite(client, hello)
                    self._changed.notify_all()
                else:
                    refusal = f"a hospital named {hello.site} is connected already; use --name"
        if refusal is None:
            log.info("%s joined with %d images", hello.site, hello.examples)
            self._folder.write_event("joined", site=hello.site, examples=hello.examples)
        else:
            log.warning("%s refused: %s", hello.site, refusal)
            self._folder.write_event("refused", site=hello.site, reason=refusal)
            _part(client, Farewell(outcome="refused", reason=refusal))

    def _refusal(self, hello: Hello) -> str | None:
        if hello.image_size != self._image_size:
            return (
                f"its images are {hello.image_size} pixels wide, this run's are "
                f"{self._image_size}; make the shard anew with --size {self._image_size}"
            )
        return None


def _part(client: ClientProxy, farewell: Farewell) -> None:
    """Say the last words and let the hospital disconnect; it may have gone already."""
    call = {"message": farewell.model_dump_json()}
    try:
        client.get_properties(GetPropertiesIns(call), 5.0, None)  # type: ignore[arg-type]
        client.reconnect(ReconnectIns(seconds=None), 5.0, None)
    except Exception as error:  # noqa: BLE001 - there is nobody left to tell
        log.debug("no farewell: %s", type(error).__name__)


class _Rounds(Server):
    """Runs our own rounds where Flower would run its."""

    def __init__(self, sites: FlowerSites, work: Callable[[], None]) -> None:
        super().__init__(client_manager=sites)
        self._work = work
        self.failure: BaseException | None = None

    def fit(self, num_rounds: int, timeout: float | None) -> tuple[History, float]:
        """Run the rounds and keep what they raise, so that Flower closes its port either way."""
        del num_rounds, timeout
        stop_on_signals()  # Flower has just set handlers of its own
        try:
            self._work()
        except BaseException as failure:  # noqa: BLE001 - raised again by serve
            self.failure = failure
        return History(), 0.0

    def disconnect_all_clients(self, timeout: float | None) -> None:
        """Leave it to the farewell: who was not told that the run is over shall come back."""
        del timeout


def serve(
    sites: FlowerSites,
    listen: str,
    certificates: tuple[bytes, bytes, bytes] | None,
    work: Callable[[], None],
) -> None:
    """Listen, run ``work`` while hospitals come and go, close the port.

    Args:
        sites: Takes in the connections.
        listen: ``HOST:PORT``.
        certificates: The CA's, the server's and the server's key, PEM; None: no encryption.
        work: Runs the rounds; whatever it raises is raised from here.

    Raises:
        BadInput: The address cannot be listened on.
    """
    check_free(listen)
    server = _Rounds(sites, work)
    log.info("listening on %s, %s", listen, "TLS" if certificates else "NOT encrypted")
    start_server(
        server_address=listen,
        server=server,
        config=ServerConfig(num_rounds=1, round_timeout=None),
        certificates=certificates,
    )
    if server.failure is not None:
        raise server.failure


def check_free(listen: str) -> None:
    """Check that nobody listens on an address.

    gRPC sets SO_REUSEPORT: a second server on a taken port would start without an error and take
    half of the hospitals.

    Raises:
        BadInput: Somebody does, or the address is not this machine's.
    """
    host, port = split_address(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise BadInput(
                f"--listen {listen}: {error.strerror}; choose another port or end what uses it"
            ) from None
