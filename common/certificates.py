"""What both sides read of certificates: X.509 in PEM, with EC P-256 keys.

The federation's CA signs the server's certificate and one for each hospital. Only
``flower-provision`` makes them; see :mod:`server.provision.certificates`.
"""

import hashlib
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from common.errors import BadInput
from common.runtime.files import remedy as remedy_for

NOTICE = timedelta(days=30)
"""How long before the end of a certificate there is a warning."""


class Pair(NamedTuple):
    """A certificate and its private key, both PEM, as gRPC takes them."""

    certificate: bytes
    key: bytes


class Peer(NamedTuple):
    """What a handshake has proven about the other end of a connection.

    Attributes:
        name: The common name of its certificate, which the federation's CA has signed.
        certificate: The certificate's fingerprint: the SHA-256 of its DER form, in hexadecimal.
    """

    name: str
    certificate: str


def read_file(path: Path, remedy: str) -> bytes:
    """Return the content of a file of a TLS folder.

    Raises:
        BadInput: It cannot be read; says the remedy.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        how = remedy_for(error, remedy)
        raise BadInput(f"{path}: cannot be read: {error.strerror}; {how}") from None


def read_certificate(path: Path, remedy: str = "restore it from a copy") -> x509.Certificate:
    """Read a certificate.

    Raises:
        BadInput: There is none; says the remedy.
    """
    return _parse(path, read_file(path, remedy), remedy)


def _parse(path: Path, content: bytes, remedy: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(content)
    except ValueError:
        raise BadInput(f"{path}: not a certificate in PEM; {remedy}") from None


def read_pair(certificate_path: Path, key_path: Path, remedy: str) -> Pair:
    """Read a certificate and its key, which may be in one file; that is read once.

    Raises:
        BadInput: One of them cannot be read, or they do not belong together; says the remedy.
    """
    content = read_file(certificate_path, remedy)
    certificate = _parse(certificate_path, content, remedy)
    secret = content if key_path == certificate_path else read_file(key_path, remedy)
    try:
        key = serialization.load_pem_private_key(secret, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BadInput(
            f"{key_path}: no private key in PEM without a passphrase; {remedy}"
        ) from None
    if key.public_key() != certificate.public_key():
        raise BadInput(f"{key_path}: not the key of {certificate_path}; {remedy}")
    return Pair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def check_valid(
    path: Path,
    certificate: x509.Certificate,
    ca: x509.Certificate,
    now: datetime,
    renew: str,
    replace: str,
) -> None:
    """Check what a handshake checks, which tells the other side alone what is wrong.

    Args:
        path: Where the certificate is from.
        certificate: To be valid now, and signed by ``ca``.
        ca: The federation's CA.
        now: The time, with its zone.
        renew: What to do if it is expired.
        replace: What to do if it is of another CA.

    Raises:
        BadInput: It is expired, not valid yet, or of another CA.
    """
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now >= end:
        raise BadInput(f"{path}: its certificate expired on {end:%Y-%m-%d}; {renew}")
    if now < begin:
        raise BadInput(
            f"{path}: its certificate is valid from {begin:%Y-%m-%d %H:%M} UTC on, and this "
            f"machine's clock says {now:%Y-%m-%d %H:%M}; set the clock"
        )
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        raise BadInput(
            f"{path}: its certificate is not of the CA in ca.crt beside it; {replace}"
        ) from None


def expiry_notice(what: str, end: datetime, now: datetime, remedy: str) -> str | None:
    """Return a warning if a certificate is about to expire, else None.

    Args:
        what: The file, or whose it is.
        end: Until when it is valid.
        now: The time, with its zone.
        remedy: What to do about it.
    """
    if end - now > NOTICE:
        return None
    if end <= now:
        return f"{what}: the certificate expired on {end:%Y-%m-%d}; {remedy}"
    return (
        f"{what}: the certificate expires on {end:%Y-%m-%d}, in {(end - now).days} days; {remedy}"
    )


def fingerprint_of(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate's DER form, as 64 hexadecimal digits."""
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def common_name(certificate: x509.Certificate) -> str:
    """Return the subject's common name, empty if it has none."""
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def hosts_of(certificate: x509.Certificate) -> list[str]:
    """Return the DNS names and IP addresses for which a certificate is valid."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = names.get_values_for_type(x509.IPAddress)
    return [*names.get_values_for_type(x509.DNSName), *map(str, addresses)]
