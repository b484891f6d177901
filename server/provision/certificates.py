"""The federation's certificate authority, and the server's certificate under it.

EC P-256 throughout. The authority's only use is that hospitals know the server by it; who a
hospital is, its own key says (:mod:`common.keys`).
"""

import re
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from pydantic import AfterValidator

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
        days: For how long the certificates that it signs will be valid; it lives ten times as long.
    """
    key = ec.generate_private_key(ec.SECP256R1())
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


def issue(
    authority: Authority,
    public: ec.EllipticCurvePublicKey,
    hosts: list[str],
    now: datetime,
    days: int,
) -> x509.Certificate:
    """Return a certificate for a server; it never outlives its authority.

    Args:
        authority: Signs it.
        public: The server's public key.
        hosts: DNS names and IP addresses under which hospitals reach the server.
        now: The time, in UTC.
        days: For how long it is valid.

    Raises:
        BadInput: The authority has expired.
    """
    end = authority.certificate.not_valid_after_utc
    if now >= end:
        raise BadInput(
            f"the CA expired on {end:%Y-%m-%d} and can sign nothing; make a federation anew with "
            "flower-provision new"
        )
    names = [x509.IPAddress(ip_address(h)) if _is_ip(h) else x509.DNSName(h) for h in hosts]
    return (
        _builder(
            _name("FedCXR server"),
            authority.certificate.subject,
            public,
            authority.key.public_key(),
        )
        .not_valid_before(now - CLOCKS_DIFFER)
        .not_valid_after(min(now + timedelta(days=days), end))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(authority.key, hashes.SHA256())
    )


def write_certificate(path: Path, certificate: x509.Certificate) -> None:
    """Write a certificate in PEM.

    Raises:
        OSError: The file cannot be written.
    """
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    write_whole(path, lambda file: file.write(pem))


def read_certificate(path: Path) -> x509.Certificate:
    """Read a certificate in PEM.

    Raises:
        BadInput: There is none.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise BadInput(f"{path}: not a certificate in PEM; restore it from a copy") from None


def read_authority(folder: Path) -> Authority:
    """Read ``ca.crt`` and ``ca.key`` of a folder.

    Raises:
        BadInput: One of them cannot be read, or they do not belong together.
    """
    certificate, path = read_certificate(folder / "ca.crt"), folder / "ca.key"
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise BadInput(
            f"{path}: cannot be read: {error.strerror}; put the CA's key back for this command"
        ) from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if (
        not isinstance(key, ec.EllipticCurvePrivateKey)
        or key.public_key() != certificate.public_key()
    ):
        raise BadInput(f"{path}: not the key of {folder / 'ca.crt'}; restore it from a copy")
    return Authority(certificate, key)


def names_of(certificate: bytes) -> list[str]:
    """Return the DNS names and addresses in a server's certificate, PEM.

    Raises:
        BadInput: It is no certificate, or names nobody.
    """
    try:
        parsed = x509.load_pem_x509_certificate(certificate)
        extension = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (ValueError, x509.ExtensionNotFound) as error:
        raise BadInput(
            f"server.crt: no certificate with a server's names ({type(error).__name__}); "
            "make it with flower-provision"
        ) from None
    names = extension.value
    addresses = names.get_values_for_type(x509.IPAddress)
    return [*names.get_values_for_type(x509.DNSName), *map(str, addresses)]


def check_pair(folder: Path, certificate: bytes, key: bytes) -> None:
    """Check that a server's key is that of its certificate, both PEM.

    Args:
        folder: Where both are from.
        certificate: The content of ``server.crt``, which is a certificate.
        key: The content of ``server.key``.

    Raises:
        BadInput: It is not.
    """
    try:
        public = serialization.load_pem_private_key(key, None).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadInput(
            f"{folder / 'server.key'}: no private key in PEM without a passphrase "
            f"({type(error).__name__}); restore it from a copy"
        ) from None
    if public != x509.load_pem_x509_certificate(certificate).public_key():
        raise BadInput(
            f"{folder / 'server.key'}: not the key of server.crt beside it; "
            "give both files of one flower-provision"
        )


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
