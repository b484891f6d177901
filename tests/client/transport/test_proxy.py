"""Proxies: which one the environment names, and what happens on the way through real ones."""

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from client.state import ClientState
from client.transport.connection import take_part
from client.transport.messages import MessageHandler
from client.transport.proxy import EXCEPTIONS, VARIABLES, proxy_for
from common.errors import BadInput
from experiments.launch.local import free_port
from tests.support.scripted import SOMEBODY, says_goodbye, serving

SERVER = "server.invalid:8080"
"""Is known to the proxy alone."""


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, None),
        ({"https_proxy": "http://proxy.example:3128"}, "proxy.example:3128"),
        ({"HTTPS_PROXY": "http://proxy.example:3128/"}, "proxy.example:3128"),
        ({"HTTP_PROXY": "proxy.example:3128"}, "proxy.example:3128"),
        ({"https_proxy": "http://me:secret@proxy.example:3128"}, "proxy.example:3128"),
        ({"https_proxy": "https://proxy.example:3128"}, ""),
        ({"https_proxy": "socks5://proxy.example:3128"}, ""),
        ({"https_proxy": "proxy.example"}, ""),
        ({"https_proxy": "proxy.example:80800"}, ""),
        ({"https_proxy": "proxy..example:3128"}, ""),
        ({"https_proxy": "a:1", "grpc_proxy": "b:2"}, "b:2"),
        ({"https_proxy": "a:1", "no_proxy": "server.example"}, None),
        ({"https_proxy": "a:1", "NO_PROXY": "other, .example"}, None),
        ({"https_proxy": "a:1", "NO_PROXY": "*"}, None),
        ({"https_proxy": "a:1", "NO_PROXY": "ver.example"}, "a:1"),
        ({"https_proxy": "a:1", "no_grpc_proxy": "x", "no_proxy": "server.example"}, "a:1"),
    ],
)
def test_the_usual_variables_and_forms_are_read(
    environment: dict[str, str], place: str | None
) -> None:
    proxy = proxy_for("server.example", environment)
    assert (None if proxy is None else proxy.place) == place


def test_networks_and_this_machine_are_excepted() -> None:
    environment = {"HTTPS_PROXY": "a:1", "NO_PROXY": "10.0.0.0/8,fd00::/8"}
    assert proxy_for("10.1.2.3", environment) is None
    assert proxy_for("fd00::1", environment) is None
    assert proxy_for("11.1.2.3", environment) is not None
    assert proxy_for("localhost", environment) is None


def pass_on(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@contextmanager
def proxying(answer: bytes, port: int | None = None) -> Iterator[str]:
    """Run a proxy that answers the first request so and, given a port, passes bytes on to it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            client.recv(4096)
            client.sendall(answer)
            if port is None:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", port))
            for ends in ((client, server), (server, client)):
                threading.Thread(target=pass_on, args=ends, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, *EXCEPTIONS):
        monkeypatch.delenv(name, raising=False)


def connect(patience: float) -> None:
    take_part(MessageHandler(SOMEBODY, ClientState(None)), SERVER, None, patience)  # type: ignore[arg-type]


def test_a_hospital_takes_part_through_a_proxy(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "client")
    with serving(says_goodbye) as (service, address):
        port = int(address.rpartition(":")[2])
        with proxying(b"HTTP/1.1 200 OK\r\n\r\n", port) as place:
            monkeypatch.setenv("HTTPS_PROXY", f"me:secret@{place}")
            connect(20.0)
    assert service.calls == 1
    assert f"connecting through the proxy {place} (HTTPS_PROXY)" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (407, "wants a login: http://NAME:PASSWORD@{place} in https_proxy"),
        (403, "does not let connections to the server through"),
        (502, "see its documentation"),
    ],
)
def test_what_a_proxy_answers_is_told(monkeypatch: pytest.MonkeyPatch, code: int, why: str) -> None:
    with proxying(b"HTTP/1.1 %d No\r\n\r\n" % code) as place:
        monkeypatch.setenv("https_proxy", f"http://{place}")
        with pytest.raises(BadInput) as caught:
            connect(0.1)
    assert f"the proxy {place} answered {code}: " in str(caught.value)
    assert why.format(place=place) in str(caught.value)


def test_a_proxy_that_is_away_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    place = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("https_proxy", place)
    with pytest.raises(BadInput, match=f"the proxy {place}: Connection refused"):
        connect(0.1)


def test_a_proxy_that_cannot_be_used_is_named_as_ignored(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("https_proxy", "https://me:secret@proxy.example:3128")
    with pytest.raises(BadInput, match="UNAVAILABLE, "):
        connect(0.1)
    assert "https_proxy is ignored: it names no proxy as http://HOST:PORT" in caplog.text
    assert "secret" not in caplog.text
