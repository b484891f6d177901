"""The federation's certificate authority, and the certificates that it signs.

EC P-256 throughout. Hospitals know the server by its certificate, and the server knows hospitals
by theirs.
"""

import os
import re
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, BinaryIO, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from pydantic import AfterValidator

from common.certificates import read_pair
from common.errors import BadInput
from common.runtime.files import write_whole

CLOCKS_DIFFER = timedelta(minutes=5)
"""A certificate is valid from so long before it was made."""

LONGEST = 3650
"""Days for which a certificate is valid at most."""

LABEL = r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)"
"""A part of a DNS name; no certificate can hold more than letters, digits and dashes."""

HOST = re.compile(rf"(?=.{{1,253}}$)({LABEL}\.)*(?![0-9]+$){LABEL}")


class Authority(NamedTuple):
    """A certificate that signs others, and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def _check_host(host: str) -> str:
    if not HOST.fullmatch(host) and not _is_ip(host):
        raise ValueError("neither a DNS name nor an IP address")
    return host


Host = Annotated[str, AfterValidator(_check_host)]
"""A DNS name or an IP address, validated: what can stand in a server's certificate."""


def new_authority(now: datetime, days: int) -> Authority:
    """Return a new authority, valid for at most ten years.

    Args:
        now: The time, in UTC.
        days: For how long the certificates that it signs are valid; it lives ten times as long.
    """
    key = new_key()
    name = _name("FedCXR CA")
    certificate = (
        _builder(name, name, key.public_key(), key.public_key())
        .not_valid_before(now - CLOCKS_DIFFER)
        .not_valid_after(now + timedelta(days=min(10 * days, LONGEST)))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


def issue_server(
    authority: Authority,
    public: ec.EllipticCurvePublicKey,
    hosts: list[str],
    now: datetime,
    days: int,
) -> x509.Certificate:
    """Return a certificate for the server; it never outlives its authority.

    It may act as a client too, so that the server's own health check can connect with it.

    Args:
        authority: Signs it.
        public: The server's public key.
        hosts: DNS names and IP addresses under which hospitals reach the server.
        now: The time, in UTC.
        days: For how long it is valid.

    Raises:
        BadInput: The authority has expired.
    """
    names = [x509.IPAddress(ip_address(h)) if _is_ip(h) else x509.DNSName(h) for h in hosts]
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = _leaf(authority, "FedCXR server", public, usages, now, days)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(authority.key, hashes.SHA256())


def issue_site(
    authority: Authority, public: ec.EllipticCurvePublicKey, name: str, now: datetime, days: int
) -> x509.Certificate:
    """Return a certificate for a hospital, which cannot serve; see :func:`issue_server`.

    Its common name is the hospital's. It is valid for no host and for no use but a client's, so
    that a hospital cannot pass for the server.
    """
    builder = _leaf(authority, name, public, [ExtendedKeyUsageOID.CLIENT_AUTH], now, days)
    return builder.sign(authority.key, hashes.SHA256())


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a new private key."""
    return ec.generate_private_key(ec.SECP256R1())


def write_key(
    path: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate | None = None
) -> None:
    """Write a private key for its owner alone (mode 600), and a certificate after it.

    Raises:
        OSError: The file cannot be written.
    """
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    if certificate is not None:
        pem += certificate.public_bytes(serialization.Encoding.PEM)
    write_whole(path, lambda file: file.write(pem), mode=0o600)


def write_certificate(path: Path, certificate: x509.Certificate) -> None:
    """Write a certificate in PEM.

    Raises:
        OSError: The file cannot be written.
    """
    pem = certificate.public_bytes(serialization.Encoding.PEM)

    def write(file: BinaryIO) -> None:
        os.fchmod(file.fileno(), 0o644)  # whatever the umask: the server may be another user
        file.write(pem)

    write_whole(path, write)


def read_authority(folder: Path) -> Authority:
    """Read ``ca.crt`` and ``ca.key`` of a folder.

    Raises:
        BadInput: One of them cannot be read, or they do not belong together.
    """
    path = folder / "ca.key"
    pair = read_pair(folder / "ca.crt", path, "put the CA's key back for this command")
    key = serialization.load_pem_private_key(pair.key, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BadInput(f"{path}: not an EC key; restore it from a copy")
    return Authority(x509.load_pem_x509_certificate(pair.certificate), key)


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return "%" not in host  # a zone means something on one machine alone


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePublicKey,
) -> x509.CertificateBuilder:
    """Begin a certificate with what those of an authority and a server share."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
    )


def _leaf(
    authority: Authority,
    name: str,
    public: ec.EllipticCurvePublicKey,
    usages: list[x509.ObjectIdentifier],
    now: datetime,
    days: int,
) -> x509.CertificateBuilder:
    """Begin a certificate that signs no others.

    Raises:
        BadInput: The authority has expired.
    """
    end = authority.certificate.not_valid_after_utc
    if now >= end:
        raise BadInput(
            f"the CA expired on {end:%Y-%m-%d} and can sign nothing; make a new federation with "
            "flower-provision new"
        )
    issuer = authority.certificate.subject
    return (
        _builder(_name(name), issuer, public, authority.key.public_key())
        .not_valid_before(now - CLOCKS_DIFFER)
        .not_valid_after(min(now + timedelta(days=days), end))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    )


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
