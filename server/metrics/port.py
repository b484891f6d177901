"""``flower-server --metrics``: a port of its own that tells how the run stands.

::

    /metrics    for Prometheus, in its text format or as OpenMetrics
    /run.json   for ``flower-watch --server``

Nothing that comes over it reaches the run.
"""

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from threading import BoundedSemaphore, Thread
from typing import Any

from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from common.net import split_address, unusable

log = logging.getLogger(__name__)

CONNECTIONS = 8
"""At once, at most; more are closed, so that hospitals never lack threads or open files."""

IDLE_SECONDS = 10.0
"""After which a connection on which nothing comes is closed."""

POLL_SECONDS = 0.1
"""How long the end of the run may have to wait for the port."""


class MetricsPort:
    """Answers GET requests, each on a thread of its own that does not keep the process.

    Args:
        address: HOST:PORT; it is listened on from now on, but nothing is answered yet.

    Raises:
        BadInput: The address cannot be used.
    """

    def __init__(self, address: str) -> None:
        host, port = split_address(address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # On a class of its own, since the constructor opens the socket.
        kind = type("Server", (_Server,), {"address_family": family})
        try:
            self._server: _Server = kind((host, port))
        except OSError as error:
            raise unusable("--metrics", address, error) from None
        self._address = address

    @contextmanager
    def serving(self, metrics: Collector, run: Callable[[], str]) -> Iterator[None]:
        """Answer for the length of the block.

        Args:
            metrics: Collected for each request, by any thread.
            run: Returns what ``/run.json`` is.
        """
        self._server.metrics, self._server.run = metrics, run
        Thread(target=self._server.serve_forever, args=(POLL_SECONDS,), daemon=True).start()
        log.info("metrics on http://%s/metrics", self._address)
        try:
            yield
        finally:
            self._server.shutdown()
            self._server.server_close()


class _Server(ThreadingTCPServer):  # HTTPServer would look the host's name up
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128
    metrics: Collector
    run: Callable[[], str]

    def __init__(self, address: tuple[str, int]) -> None:
        self._places = BoundedSemaphore(CONNECTIONS)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer on a thread, if there is a place for one."""
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and give the place back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of who has gone without waiting for the answer."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "flower-server"
    sys_version = ""
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        """Answer with the metrics or the run."""
        answers = {"/metrics": self._metrics, "/run.json": self._run}
        answer = answers.get(self.path.partition("?")[0])
        if answer is None:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", b"see /metrics and /run.json\n")
            return
        try:
            kind, content = answer()
        except Exception as error:  # noqa: BLE001 - what fails here is not the run
            log.warning("no metrics: %s", type(error).__name__)
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", b"see the server's log\n")
        else:
            self._send(HTTPStatus.OK, kind, content)

    def _metrics(self) -> tuple[str, bytes]:
        encode, kind = choose_encoder(self.headers.get("Accept", ""))
        return kind, encode(self.server.metrics)

    def _run(self) -> tuple[str, bytes]:
        return "application/json", self.server.run().encode()

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Log no request."""
