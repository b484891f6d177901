"""The proxy between a hospital and the server, as the environment's variables name it.

gRPC reads lower-case variables alone, knows no form but ``http://HOST:PORT``, and passes over all
others in silence. Here the usual names and forms are read, and what cannot be used is told.
https://grpc.github.io/grpc/core/md_doc_environment_variables.html
"""

import re
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from common.net import split_address

VARIABLES = ("grpc_proxy", "https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY")
"""The first one that is set counts."""

EXCEPTIONS = ("no_grpc_proxy", "no_proxy", "NO_PROXY")

_FORM = re.compile(r"(?:http://)?(?P<login>[^/@\s]*@)?(?P<place>[^/@:\s]+:\d+)/?")

ANSWERS = {
    "407": "it wants a login: http://NAME:PASSWORD@{place} in {variable}",
    "403": "it does not let connections to the server through; ask whoever runs it",
}


class Proxy(NamedTuple):
    """A proxy.

    Attributes:
        variable: That names it.
        place: ``HOST:PORT``; never the login. Empty if what is named cannot be used.
        url: For gRPC, with the login.
    """

    variable: str
    place: str
    url: str

    def answered(self, code: str) -> str:
        """Return in words what it said to the request for a connection."""
        why = ANSWERS.get(code, "see its documentation").format(**self._asdict())
        return f"the proxy {self.place} answered {code}: {why}"


def proxy_for(host: str, environment: Mapping[str, str]) -> Proxy | None:
    """Return the proxy for connections to a host; None: it is connected to directly."""
    variable = next((name for name in VARIABLES if environment.get(name)), None)
    excepted = next((environment[name] for name in EXCEPTIONS if environment.get(name)), "")
    if variable is None or _is_excepted(host, excepted):
        return None
    found = _FORM.fullmatch(environment[variable].strip())
    if found is None or not _is_address(found["place"]):
        return Proxy(variable, "", "")
    return Proxy(variable, found["place"], f"http://{found['login'] or ''}{found['place']}")


def _is_address(place: str) -> bool:
    try:
        split_address(place)
    except ValueError:
        return False
    return True


def _is_excepted(host: str, excepted: str) -> bool:
    """Return whether a list of names, domains, addresses and networks has a host."""
    if host in ("localhost", "127.0.0.1", "::1"):
        return True
    entries = [entry.strip().lower().lstrip(".") for entry in excepted.split(",")]
    return any(
        entry == "*" or host.lower() == entry or host.lower().endswith(f".{entry}")
        for entry in filter(None, entries)
    ) or any(_is_in(host, entry) for entry in entries if "/" in entry)


def _is_in(host: str, network: str) -> bool:
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False
