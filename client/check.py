"""``flower-client --check``: what stands between this hospital and taking part, without joining."""

import os
import socket
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from client.hospital import Hospital
from client.kit import Kit, read_kit
from client.policy import read_policy
from client.transport.connection import first_message
from client.transport.proxy import Proxy, proxy_for
from common.errors import BadInput, FedCXRError
from common.model import choose_device
from common.net import split_address
from common.protocol import Farewell, Greeting
from common.runtime.memory import free_memory, training_memory
from common.shard import Shard, open_for_training

if TYPE_CHECKING:
    from client.cli import ClientSettings

SECONDS = 10.0
"""For the connection to the port."""

CLOCK = timedelta(minutes=1)
"""By how much the clocks may differ before it is told: certificates begin and end by them."""

T = TypeVar("T")


class Finding(NamedTuple):
    """What one look came to.

    Attributes:
        what: Was looked at.
        text: What was found.
        good: Whether the hospital can take part as far as that goes.
    """

    what: str
    text: str
    good: bool = True

    def line(self) -> str:
        """Return it as a line of the list."""
        return f"{'ok' if self.good else 'FAIL':<5}{self.what:<12} {self.text}"


def check(settings: "ClientSettings") -> None:
    """Look at everything and print a line for each finding.

    Raises:
        BadInput: Something is in the way.
    """
    bad = 0
    for finding in findings(settings):
        print(finding.line(), flush=True)
        bad += not finding.good
    if bad:
        raise BadInput(f"{bad} of these are in the way; the list is above")


def findings(settings: "ClientSettings") -> Iterator[Finding]:
    """Yield what is found, from this machine outwards; ends where going on makes no sense."""
    shard = yield from _look("shard", lambda: _labelled(settings.data))
    if shard is not None:
        yield Finding("shard", f"{len(shard)} films of {shard.manifest.size} pixels")
        if choose_device(settings.device).type == "cpu":
            yield _memory(shard.manifest.size)
    policy = yield from _look("policy", lambda: read_policy(settings.policy))
    kit = None
    if settings.tls is not None:
        kit = yield from _look("certificate", lambda: _kit(settings))
        if kit is None:
            return
        yield Finding("certificate", kit.notice or f"of {kit.name}, valid")
    name = kit.name if kit else settings.site
    greeting = yield from _greeting(settings, name)
    if greeting is None or shard is None or policy is None:
        return
    device = choose_device(settings.device)
    hospital = Hospital(name, shard, device, policy=policy, precision=settings.fixed_precision)
    hello = yield from _look("training", lambda: hospital.greet(greeting))
    if hello is not None:
        films = f"{hello.examples} films"
        if greeting.secure or policy.secure_aggregation:
            films = "films whose number stays here"
        told = f"{films} to train on, {hello.validation} to validate"
        yield Finding("training", f"{told}, on {hospital.device} in {hospital.precision}")
    if greeting.image_size not in (None, shard.manifest.size):
        size = greeting.image_size
        text = f"this run's are {size} pixels wide; make the shard again with --size {size}"
        yield Finding("image size", text, good=False)


def _labelled(data: Path) -> Shard:
    """Return the shard.

    Raises:
        BadInput: It cannot be used, or has no labels.
    """
    shard = open_for_training(data)
    shard.labelled()
    return shard


def _look(what: str, look: Callable[[], T]) -> Generator[Finding, None, T | None]:
    """Return what a look gives; yield why it gives nothing."""
    try:
        return look()
    except FedCXRError as error:
        yield Finding(what, str(error), good=False)
        return None


def _kit(settings: "ClientSettings") -> Kit:
    assert settings.tls is not None  # noqa: S101 - there is a kit
    return read_kit(settings.tls, datetime.now(UTC), settings.name)


def _memory(size: int) -> Finding:
    needed, free = training_memory(size), free_memory()
    text = f"{free / 2**30:.1f} GiB are free; a step on the CPU takes {needed / 2**30:.1f}"
    return Finding("memory", text, good=free >= needed)


def _greeting(settings: "ClientSettings", name: str) -> Generator[Finding, None, Greeting | None]:
    """Go to the server as far as its greeting, step by step."""
    host, port = split_address(settings.server)
    proxy = proxy_for(host, os.environ)
    yield _proxy(proxy)
    if proxy is not None and proxy.place:
        host, port = split_address(proxy.place)
    addresses = yield from _look("name", lambda: _addresses(host, port))
    if addresses is None:
        return None
    yield Finding("name", f"{host} is {', '.join(addresses)}")
    reached = yield from _look("port", lambda: _reach(host, port))
    if reached is None:
        return None
    yield Finding("port", reached)
    message = yield from _look("server", lambda: first_message(settings.server, name, settings.tls))
    if isinstance(message, Farewell):
        yield Finding("server", f"{message.outcome}: {message.reason}", good=False)
        return None
    if message is not None:
        yield Finding("server", f"greets {name}, run {message.run}, fedcxr {message.version}")
        yield _clock(message)
    return message


def _proxy(proxy: Proxy | None) -> Finding:
    if proxy is None:
        return Finding("proxy", "none")
    if not proxy.place:
        text = f"{proxy.variable} is ignored: it names no proxy as http://HOST:PORT"
        return Finding("proxy", text)
    return Finding("proxy", f"{proxy.place}, from {proxy.variable}")


def _addresses(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise BadInput(f"{host}: {error.strerror}; ask the operator for the address") from None
    return sorted({str(address[0]) for *_, address in found})


def _reach(host: str, port: int) -> str:
    try:
        socket.create_connection((host, port), SECONDS).close()
    except OSError as error:
        why = error.strerror or str(error)
        raise BadInput(
            f"{host}:{port}: {why}; does the server run, and may this machine connect to it?"
        ) from None
    return f"{host}:{port} can be reached"


def _clock(greeting: Greeting) -> Finding:
    if greeting.time is None:
        return Finding("clock", "the server does not tell its own")
    behind = greeting.time - datetime.now(UTC)
    seconds = f"{abs(behind.total_seconds()):.0f} s"
    text = f"{seconds} {'behind' if behind > timedelta() else 'ahead of'} the server's"
    return Finding("clock", text, good=abs(behind) <= CLOCK)
