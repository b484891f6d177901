"""Names, addresses, and the options of gRPC that both sides share."""

import errno
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

from common.errors import BadInput

SITE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"

SiteName = Annotated[str, StringConstraints(pattern=SITE_NAME)]
"""A hospital's name: up to 63 letters, digits, dots, dashes and underscores."""

LONGEST_SECONDS = 1e7
"""The longest round timeout, in seconds: four months."""

MESSAGE_BYTES = 64 << 20
"""Of the largest message that either side takes; a packed DenseNet-121 is 28.3 MB."""

GRPC_OPTIONS = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),  # without it a stopped peer is kept for a minute
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
)
"""Of both sides, which must agree on keepalive: a dead connection is found within 50 s, and one
on which nothing is said for hours, since a hospital trains, stays open through firewalls.
https://grpc.github.io/grpc/core/md_doc_keepalive.html"""


NO_PROXY = ("grpc.enable_http_proxy", 0)
"""For a channel to this machine: a proxy of the environment's, ``https_proxy``, is not asked."""


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``; an IPv6 host stands in brackets.

    Raises:
        ValueError: It is no such address.
    """
    host, colon, port = address.rpartition(":")
    name = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    plain = name != host or not set(host) & set(":/[]")
    if not colon or not name or not plain or not port.isascii() or not port.isdigit():
        raise ValueError("not HOST:PORT")
    try:
        name.encode("idna")
    except UnicodeError:
        raise ValueError("not a host's name") from None
    if not 0 < int(port) < 2**16:
        raise ValueError("the port is not between 1 and 65535")
    return name, int(port)


def unusable(option: str, address: str, error: OSError) -> BadInput:
    """Return what is said of an address on which nothing can listen, with what to do."""
    remedy = "give an address of this machine"
    if error.errno == errno.EADDRINUSE:
        remedy = "choose another port or end what uses it"
    elif error.errno == errno.EACCES:
        remedy = "choose a port from 1024 on"
    return BadInput(f"{option} {address}: {error.strerror}; {remedy}")


def _check_address(address: str) -> str:
    split_address(address)
    return address


Address = Annotated[str, AfterValidator(_check_address)]
"""``HOST:PORT``, validated."""
