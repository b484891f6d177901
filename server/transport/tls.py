"""The server's end of TLS: its certificate, and the hospitals' certificates that it requires."""

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from common.certificates import (
    Pair,
    Peer,
    check_valid,
    common_name,
    expiry_notice,
    fingerprint_of,
    hosts_of,
    read_certificate,
    read_pair,
)
from common.errors import BadInput

log = logging.getLogger(__name__)

REMEDY = "give --tls the folder server of flower-provision"
RENEW = "flower-provision renew FOLDER --server makes a new one"


class ServerTLS:
    """The server's certificate as it is on disk now: a renewed one counts without a restart.

    Args:
        folder: Has ``ca.crt``, ``server.crt`` and ``server.key``.

    Attributes:
        ca: The CA's certificate.
        pair: The server's certificate and key.
        hosts: The server's names, as in its certificate.

    Raises:
        BadInput: A file cannot be read, or they do not belong together.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ca = read_certificate(folder / "ca.crt", REMEDY)
        self._warned = ""
        self._notice: str | None = None
        self.pair = self._read()
        self.hosts = hosts_of(x509.load_pem_x509_certificate(self.pair.certificate))
        if not self.hosts:
            raise BadInput(f"{folder / 'server.crt'}: not a server's certificate; {REMEDY}")

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials with which only clients that have a certificate of the CA connect.

        The names of gRPC are those of https://grpc.github.io/grpc/python/grpc.html.
        """
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(),
            self._changed,  # type: ignore[arg-type]  # None is allowed; the stubs forget it
            require_client_authentication=True,
        )

    @property
    def ca_pem(self) -> bytes:
        """The CA's certificate as gRPC takes it."""
        return self.ca.public_bytes(serialization.Encoding.PEM)

    def _read(self) -> Pair:
        file = self._folder / "server.crt"
        pair = read_pair(file, self._folder / "server.key", REMEDY)
        certificate = x509.load_pem_x509_certificate(pair.certificate)
        now = datetime.now(UTC)
        check_valid(file, certificate, self.ca, now, RENEW, REMEDY)
        notice = expiry_notice(str(file), certificate.not_valid_after_utc, now, RENEW)
        if notice and notice != self._notice:  # at the start, and once a day
            log.warning("%s", notice)
        self._notice = notice
        return pair

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        pair = (self.pair.key, self.pair.certificate)
        return grpc.ssl_server_certificate_configuration([pair], self.ca_pem)

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what has changed since the last handshake; None: nothing."""
        try:
            pair = self._read()
        except BadInput as error:
            if str(error) != self._warned:
                log.warning("%s; the certificate read last stays in use", error)
            self._warned = str(error)
            return None
        if pair == self.pair:
            return None
        self.pair, self._warned = pair, ""
        log.info("%s: read again", self._folder / "server.crt")
        return self._configuration()


def peer_of(context: grpc.ServicerContext) -> Peer | None:
    """Return what the handshake has proven of the other end; None: it asked for no certificate."""
    pems: Any = context.auth_context().get("x509_pem_cert")  # a sequence, whatever the stubs say
    if not pems:
        return None
    certificate = x509.load_pem_x509_certificate(pems[0])
    return Peer(common_name(certificate), fingerprint_of(certificate))
