"""What the operating system says of the port and of how many connections there may be."""

import resource
import socket

from common import net
from common.errors import BadInput


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


def most_files() -> int:
    """Let this process open as many files as it may; return how many these are."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return 1 << 20 if most == resource.RLIM_INFINITY else most
