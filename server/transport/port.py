"""What the operating system says of the port and of how many connections there may be."""

import resource
import socket

from common import net


def check_free(listen: str) -> None:
    """Check early, before anything is written, that an address is free.

    Raises:
        BadInput: Another process listens there, or the address is not this machine's.
    """
    host, port = net.split_address(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise net.unusable("--listen", listen, error) from None


def most_files() -> int:
    """Let this process open as many files as it may; return how many these are."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return 1 << 20 if most == resource.RLIM_INFINITY else most
