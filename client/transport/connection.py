"""The client's connection: one gRPC stream of Flower's, made again whenever it ends.

Of Flower 1.41 its service is used: one bidirectional stream, on which the server asks and the
hospital answers. See docs/decisions/0002-flower-service.md.
"""

import logging
import os
import random
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from threading import Timer
from typing import Protocol, cast

import grpc
from flwr.proto.transport_pb2 import DESCRIPTOR as FLOWER
from flwr.proto.transport_pb2 import ClientMessage, ServerMessage

from client.kit import read_kit
from client.transport.form import check_of, first_of, message_of, serialised
from client.transport.messages import MessageHandler
from client.transport.proxy import Proxy, proxy_for
from common import net
from common.envelope import Envelope
from common.errors import BadInput, Refused
from common.protocol import Farewell, Greeting

log = logging.getLogger(__name__)

LONGEST_PAUSE = 30.0
"""Seconds between two attempts to connect, at most."""

BETWEEN_RUNS = 60.0
"""Seconds between two attempts while the next run is waited for."""

GREETING_SECONDS = 60.0
"""How long a server may take to greet once it is called."""


CHECK_SECONDS = 20.0
"""How long a server may take to greet when that is all that is wanted."""

UNREACHABLE = re.compile(
    r"Failed to connect to remote host: ([\w ]+)|address lookup failed for [^\]]*: ([\w ]+)"
)
"""What gRPC says of a port that is closed, and of a name that is not known."""


Answers = SimpleQueue[Envelope[ClientMessage] | None]
"""What is sent to the server, in its order; None ends the call."""


class Call(Protocol):
    """A stream to the server, as gRPC returns it."""

    def __iter__(self) -> Iterator[Envelope[ServerMessage]]:
        """Yield what the server sends."""

    def __next__(self) -> Envelope[ServerMessage]:
        """Return what it sends next."""

    def is_active(self) -> bool:
        """Return whether the stream is open."""

    def cancel(self) -> bool:
        """End it."""


def take_part(
    handler: MessageHandler,
    server: str,
    kit: Path | None,
    patience: float,
    between_runs: bool = False,
) -> None:
    """Connect to the server and take part until it says that the run is over.

    Args:
        handler: Answers for the hospital.
        server: ``HOST:PORT``; looked up again for each connection.
        kit: Folder with the hospital's certificates, read again for each connection; None: an
            unencrypted connection.
        patience: Seconds for which the server may be out of reach, at the start or later.
        between_runs: The last run is over: that there is no server yet is as it should be, so it is
            looked for rarely and without a word.

    Raises:
        Refused: The server does not let this hospital take part.
        BadInput: The server was out of reach for too long, or kit or shard cannot be used.
    """
    pause = 0.5
    proxy = _proxy_to(server)
    handler.farewell = None
    over = handler.run if between_runs else None
    if between_runs:
        time.sleep(BETWEEN_RUNS)  # the server of the last run may still be there
    lost = time.monotonic()
    connected = False
    while True:
        handler.heard = handler.asked = False
        try:
            channel = _channel(handler.hospital.name, server, kit, proxy)
        except BadInput as error:
            if not connected:  # later it may be a kit that is being replaced
                raise
            reason = str(error)
        else:
            reason = _one_connection(handler, channel, proxy)
        farewell = handler.farewell
        if farewell is not None and farewell.outcome == "refused":
            raise Refused(f"{server} refused {handler.hospital.name}: {farewell.reason}")
        if farewell is not None:
            log.info("the run is over: %s", farewell.reason)
            return
        if handler.heard:
            # Between runs it may be the server of the last one, which has nothing to ask any more.
            connected = connected or handler.asked or handler.run != over
            pause, lost = 0.5, time.monotonic()
        elif time.monotonic() - lost > patience:
            raise BadInput(
                f"{server}: no server within {patience:.0f} s ({reason}); check that it runs, that "
                "the address is right, and that both sides use --tls or both --insecure"
            )
        if between_runs and not connected:
            log.debug("%s is out of reach (%s)", server, reason)
            handler.rest()
            time.sleep(BETWEEN_RUNS)
            continue
        log.info("%s is out of reach (%s); trying again", server, reason)
        handler.lost()
        time.sleep(min(pause * random.uniform(0.5, 1), patience))  # noqa: S311 - not a secret
        pause = min(pause * 2, LONGEST_PAUSE)


def first_message(server: str, name: str, kit: Path | None) -> Greeting | Farewell:
    """Connect, and return what the server says first; it is told that this is only a check.

    Args:
        server: ``HOST:PORT``.
        name: The hospital's.
        kit: Folder with its certificates; None: an unencrypted connection.

    Raises:
        BadInput: No connection, no greeting, or one of another protocol.
    """
    proxy = _proxy_to(server)
    answers: Answers = SimpleQueue()
    with _channel(name, server, kit, proxy) as channel:
        call = _join(channel, answers, CHECK_SECONDS)
        try:
            first = first_of(next(call).message)
            if isinstance(first, Greeting):
                answers.put(check_of(name))
                for _ in call:  # the server closes the connection once it has read this
                    pass
            return first
        except StopIteration:
            raise BadInput(f"{server}: it closed the connection without a word") from None
        except grpc.RpcError as error:
            raise BadInput(f"{server}: {_reason(error, False, proxy)}") from None
        finally:
            answers.put(None)


def _proxy_to(server: str) -> Proxy | None:
    """Return the proxy on the way to the server, and tell of it."""
    proxy = proxy_for(net.split_address(server)[0], os.environ)
    if proxy is None:
        return None
    if not proxy.place:
        log.warning(
            "%s is ignored: it names no proxy as http://HOST:PORT, the only form that gRPC can use",
            proxy.variable,
        )
        return None
    log.info("connecting through the proxy %s (%s)", proxy.place, proxy.variable)
    return proxy


def _one_connection(handler: MessageHandler, channel: grpc.Channel, proxy: Proxy | None) -> str:
    """Answer on one connection until it ends; return why it ended."""
    answers: Answers = SimpleQueue()
    with channel:
        call = _join(channel, answers)
        silence = Timer(GREETING_SECONDS, call.cancel)
        silence.daemon = True
        silence.start()
        try:
            for received in call:
                silence.cancel()
                answers.put(handler.answer(received, call.is_active, answers.put))
                if handler.farewell is not None:
                    answers.put(None)  # the server closes the connection once it has read this
        except grpc.RpcError as error:
            return _reason(error, handler.heard, proxy)
        finally:
            silence.cancel()
            answers.put(None)
    return "the connection was closed"


def _join(channel: grpc.Channel, answers: Answers, timeout: float | None = None) -> Call:
    """Call Flower's service, whose own stub would copy weights in and out of its messages."""
    service = FLOWER.services_by_name["FlowerService"]
    join = channel.stream_stream(f"/{service.full_name}/Join", serialised, message_of)
    return cast(Call, join(iter(answers.get, None), timeout=timeout))


def _reason(error: grpc.RpcError, heard: bool, proxy: Proxy | None) -> str:
    """Return in a few words why a connection ended: certificates, proxy, name or port."""
    if not isinstance(error, grpc.Call):
        return type(error).__name__
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.CANCELLED and not heard:
        return f"no greeting within {GREETING_SECONDS:.0f} s"
    if "Hostname Verification Check failed" in details:
        return f"{code.name}, the server's certificate is for other names"
    if "CERTIFICATE_VERIFY_FAILED: certificate has expired" in details:
        return f"{code.name}, the server's certificate has expired; tell the operator"
    if found := re.search(r"CERTIFICATE_VERIFY_FAILED: ([\w -]+)", details):
        why = f"the server's certificate is not accepted: {found[1]}"
        return f"{code.name}, {why}; use the kit of this server's federation"
    if proxy is not None and (
        found := re.search(r"HTTP proxy returned response code (\d+)", details)
    ):
        return f"{code.name}, {proxy.answered(found[1])}"
    if found := UNREACHABLE.search(details):
        whom = f"the proxy {proxy.place}: " if proxy else ""
        return f"{code.name}, {whom}{found[found.lastindex or 0]}"
    return code.name


def _channel(name: str, server: str, kit: Path | None, proxy: Proxy | None) -> grpc.Channel:
    """Return a channel to the server.

    Raises:
        BadInput: The kit cannot be used, or is another hospital's.
    """
    way = ("grpc.http_proxy", proxy.url) if proxy else net.NO_PROXY
    # A connection of its own, where several hospitals are threads of one process.
    options = (*net.GRPC_OPTIONS, ("grpc.use_local_subchannel_pool", 1), way)
    if kit is None:
        return grpc.insecure_channel(server, options)
    credentials = read_kit(kit, datetime.now(UTC), name).credentials()
    return grpc.secure_channel(server, credentials, options)
