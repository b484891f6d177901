"""What a hospital is known by, from its kit: the CA's certificate, its own, and its key.

The handshake tells a client nothing of why its certificate is not accepted, so it is looked at here
first.
"""

import re
import stat
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from common.certificates import (
    Pair,
    check_valid,
    common_name,
    expiry_notice,
    read_certificate,
    read_pair,
)
from common.errors import BadInput
from common.net import SITE_NAME

CA, IDENTITY = "ca.crt", "site.pem"
REMEDY = "ask the federation's operator for this hospital's kit"


class Kit(NamedTuple):
    """A hospital's certificates.

    Attributes:
        name: The hospital's, as in its certificate.
        ca: The CA's certificate, PEM.
        pair: The hospital's certificate and key.
        notice: A warning if the certificate is about to expire.
    """

    name: str
    ca: bytes
    pair: Pair
    notice: str | None

    def credentials(self) -> grpc.ChannelCredentials:
        """Return credentials by which each side knows the other."""
        return grpc.ssl_channel_credentials(self.ca, self.pair.key, self.pair.certificate)


def read_kit(folder: Path, now: datetime, name: str | None = None) -> Kit:
    """Read a kit as ``flower-provision`` writes it.

    Args:
        folder: Has ``ca.crt`` and ``site.pem``, the hospital's key with its certificate.
        now: The time, with its zone.
        name: The hospital's, which the certificate must have; None: any.

    Raises:
        BadInput: A file cannot be read, the server would not accept the certificate, or it is
            another hospital's.
    """
    identity = folder / IDENTITY
    ca = read_certificate(folder / CA, REMEDY)
    try:
        mode = stat.S_IMODE(identity.stat().st_mode)
    except OSError as error:
        raise BadInput(f"{identity}: cannot be read: {error.strerror}; {REMEDY}") from None
    if mode & 0o077:
        raise BadInput(
            f"{identity}: others than its owner may use it (mode {mode:o}); chmod 600 it"
        )
    pair = read_pair(identity, identity, REMEDY)
    certificate = x509.load_pem_x509_certificate(pair.certificate)
    check_valid(identity, certificate, ca, now, f"{REMEDY}, renewed", REMEDY)
    end = certificate.not_valid_after_utc
    kit = Kit(
        common_name(certificate),
        ca.public_bytes(serialization.Encoding.PEM),
        pair,
        expiry_notice(str(identity), end, now, f"{REMEDY}, renewed"),
    )
    if not re.match(SITE_NAME, kit.name):
        raise BadInput(f"{identity}: its certificate is not a hospital's; {REMEDY}")
    if name is not None and kit.name != name:
        raise BadInput(f"{folder}: is the kit of {kit.name}, not of {name}; {REMEDY}")
    return kit
