"""``flower-predict --serve``: a page in the browser to try a model on one film at a time.

The film is in memory alone (memfd_create(2), which Linux has), and gone with the answer. Requests
are not logged.
"""

import base64
import io
import json
import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from string import Template
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, urlsplit

from common.findings import FINDINGS
from common.net import split_address, unusable
from predict.calibration import Calibration
from predict.films import dullness
from predict.job import Job
from predict.overlay import draw

log = logging.getLogger(__name__)

LIMIT_MB = 100
"""Largest file that is taken; a film of 43 x 43 cm at 0.1 mm has 37 MB."""

IDLE_SECONDS = 60
"""After which a connection on which nothing comes is closed."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src "
    "'unsafe-inline'; img-src data:; connect-src 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

BYTES = "application/octet-stream"
"""A type that the pages of other sites cannot send without this server's leave."""


class Refusal(Exception):  # noqa: N818 - named for what it is
    """A request that is not answered with a prediction: status, and a sentence that says why."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def serve(job: Job, address: str, *, anyone: bool) -> None:
    """Serve the page until a signal ends the command.

    Args:
        job: The model.
        address: HOST:PORT.
        anyone: Whether requests under other names than this machine's are answered.

    Raises:
        BadInput: The address cannot be used, or the package for heat maps is not installed.
    """
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    names = None if anyone else own_names(address)
    # On the instance's class, since the constructor opens the socket.
    kind = type("Server", (PageServer,), {"address_family": family})
    try:
        server: PageServer = kind((host, port), job, names)
    except OSError as error:
        raise unusable("--serve", address, error) from None
    with server:
        log.info("http://%s shows the page; Ctrl-C ends it", address)
        server.serve_forever()


def own_names(address: str) -> set[str]:
    """Return what the header Host of a request to this machine may be, for an address to serve."""
    _, port = split_address(address)
    names = {address, *(f"{name}:{port}" for name in ("localhost", "127.0.0.1", "[::1]"))}
    if port == 80:  # clients leave it out
        names |= {name.removesuffix(":80") for name in names}
    return names


class PageServer(ThreadingHTTPServer):
    """The page's server; one film at a time is computed.

    Args:
        address: Host and port.
        job: The model.
        names: Hosts that requests may name, or None for all. A page of another site that lets its
            own name point to this machine is so refused.
    """

    daemon_threads = True
    block_on_close = False  # a browser keeps its connection open

    def __init__(self, address: tuple[str, int], job: Job, names: set[str] | None) -> None:
        self.names = names
        self._job = job
        self._method = job.heatmaps()
        self._lock = Lock()
        page = (files("predict") / "page.html").read_text(encoding="utf-8")
        self.page = Template(page).substitute(
            model=escape(Path(job.name).name),
            size=job.size,
            limit=LIMIT_MB,
            calibrated=_calibrated(job.calibration),
        )
        super().__init__(address, Handler)

    def answer(self, content: bytes, finding: str | None) -> dict[str, Any]:
        """Return what the page shows of a film.

        Args:
            content: The film's file.
            finding: Whose heat map; None: the most probable.

        Raises:
            Refusal: It is no film that the model knows.
        """
        with in_memory(content) as file, self._lock:
            prediction = self._job.predict_one(file)
            if isinstance(prediction, str):
                raise Refusal(
                    HTTPStatus.UNPROCESSABLE_ENTITY, f"The file is refused: {prediction}."
                )
            shown = finding or prediction.likeliest
            picture = io.BytesIO()
            draw(self._method, prediction, shown).save(picture, "PNG")
            cause = dullness(prediction.film)
        image = base64.b64encode(picture.getbuffer()).decode()
        return {
            "probabilities": {
                name: float(str(value))
                for name, value in zip(FINDINGS, prediction.probabilities, strict=True)
            },
            "called": prediction.called,
            "finding": shown,
            "heatmap": f"data:image/png;base64,{image}",
            "note": f"The model sees little on this film; likely cause: {cause}." if cause else "",
        }

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002
        """Log a connection's error by its type alone; a browser that leaves is none."""
        error = sys.exception()
        if not isinstance(error, OSError):
            log.error("a request failed: %s", type(error).__name__, exc_info=_if_debug())


def _calibrated(calibration: Calibration) -> str:
    """Return what the page says of its probabilities."""
    if not calibration:
        return "the probabilities are not calibrated"
    if len(calibration) == len(FINDINGS):
        return "the probabilities are calibrated on the hospitals' validation films"
    return (
        f"the probabilities of {len(calibration)} of the {len(FINDINGS)} findings are calibrated "
        "on the hospitals' validation films, those of the others are not"
    )


class Handler(BaseHTTPRequestHandler):
    """Answers one connection's requests."""

    server: PageServer
    protocol_version = "HTTP/1.1"
    server_version = "flower-predict"
    sys_version = ""
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        """Answer with the page."""
        try:
            self._check_host()
            if urlsplit(self.path).path != "/":
                raise Refusal(HTTPStatus.NOT_FOUND, "There is nothing here; open /.")
        except Refusal as refusal:
            self._refuse(refusal)
            return
        self._send(HTTPStatus.OK, "text/html; charset=utf-8", self.server.page.encode())

    def do_POST(self) -> None:
        """Answer with a film's probabilities and heat map, as JSON."""
        try:
            self._check_host()
            url = urlsplit(self.path)
            if url.path != "/predict":
                raise Refusal(HTTPStatus.NOT_FOUND, "There is nothing here; open /.")
            finding = next(iter(parse_qs(url.query).get("finding", [])), None)
            if finding is not None and finding not in FINDINGS:
                raise Refusal(HTTPStatus.BAD_REQUEST, f"A finding is one of {', '.join(FINDINGS)}.")
            answer = self.server.answer(self._body(), finding)
        except Refusal as refusal:
            self._refuse(refusal)
        except OSError:  # of the connection
            self.close_connection = True
        except Exception as error:
            log.error("internal error, %s", type(error).__name__, exc_info=_if_debug())
            self._refuse(
                Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "The model failed on this film.")
            )
        else:
            self._send_json(HTTPStatus.OK, answer)

    def _check_host(self) -> None:
        names = self.server.names
        if names is not None and self.headers.get("Host") not in names:
            raise Refusal(HTTPStatus.FORBIDDEN, "This page is for its own machine alone.")

    def _body(self) -> bytes:
        if self.headers.get_content_type() != BYTES:
            raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"A film is sent as {BYTES}.")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise Refusal(HTTPStatus.LENGTH_REQUIRED, "The request does not tell its length.")
        if int(length) > LIMIT_MB << 20:
            raise Refusal(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The file is larger than {LIMIT_MB} MB."
            )
        if not int(length):
            raise Refusal(HTTPStatus.BAD_REQUEST, "The file is empty.")
        content = self.rfile.read(int(length))
        if len(content) < int(length):
            raise ConnectionResetError
        return content

    def _refuse(self, refusal: Refusal) -> None:
        self.close_connection = True  # its body may be unread
        self._send_json(refusal.status, {"error": str(refusal)})

    def _send_json(self, status: int, answer: Mapping[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(answer).encode())

    def _send(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        headers = {**HEADERS, "Content-Type": kind, "Content-Length": str(len(content))}
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def send_error(
        self,
        code: int,
        message: str | None = None,  # noqa: ARG002 - it quotes the request
        explain: str | None = None,  # noqa: ARG002
    ) -> None:
        """Answer a request that http.server does not understand."""
        self.close_connection = True
        self._send_json(code, {"error": "The request is not understood; open /."})

    def log_message(self, *_: object) -> None:
        """Log nothing: films and who looks at them are nobody's business."""


@contextmanager
def in_memory(content: bytes) -> Iterator[Path]:
    """Yield the path of a file that is on no disk and gone after the block."""
    with os.fdopen(os.memfd_create("film"), "wb") as file:
        file.write(content)
        file.flush()
        yield Path(f"/proc/self/fd/{file.fileno()}")


def _if_debug() -> bool:
    return log.isEnabledFor(logging.DEBUG)
