"""Public keys of an attempt, signed with the key of the hospital's certificate."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from pydantic import BaseModel, ConfigDict, Field

from common.certificates import Pair, common_name, fingerprint_of
from common.secure.masks import context

PublicKey = Annotated[bytes, Field(min_length=32, max_length=32)]


class BadKeys(ValueError):  # noqa: N818 - a verdict, not a fault
    """Keys are not proven to be a hospital's; says why."""


class SignedKeys(BaseModel):
    """What a hospital shows of its keys for one attempt."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, ser_json_bytes="base64", val_json_bytes="base64"
    )

    mask: PublicKey = Field(description="for the masks; its private part is shared")
    seal: PublicKey = Field(description="for what travels sealed; its private part never leaves")
    certificate: bytes = Field(b"", max_length=2048, description="DER; empty: nothing is signed")
    signature: bytes = Field(b"", max_length=128, description="ECDSA over SHA-256, DER")


class Signer(NamedTuple):
    """Who signs for a hospital, and whose signatures it takes.

    Attributes:
        key: Of the hospital's certificate.
        certificate: The hospital's, DER.
        ca: That has signed the certificates of all hospitals.
    """

    key: ec.EllipticCurvePrivateKey
    certificate: bytes
    ca: x509.Certificate

    @classmethod
    def of(cls, pair: Pair, ca: bytes) -> "Signer":
        """Return the signer of a kit.

        Args:
            pair: The hospital's certificate and key.
            ca: The CA's certificate, PEM.
        """
        key = load_pem_private_key(pair.key, password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)  # noqa: S101 - of the CA's making
        certificate = x509.load_pem_x509_certificate(pair.certificate).public_bytes(Encoding.DER)
        return cls(key, certificate, x509.load_pem_x509_certificate(ca))


def sign(
    name: str, attempt: Mapping[str, object], mask: bytes, seal: bytes, signer: Signer | None
) -> SignedKeys:
    """Return keys with the signature that they are a hospital's in an attempt.

    Args:
        name: The hospital's.
        attempt: Run, round and attempt.
        mask: Public key for masks.
        seal: Public key for what travels sealed.
        signer: The hospital's; None: nothing is signed.
    """
    if signer is None:
        return SignedKeys(mask=mask, seal=seal)
    signature = signature_of(_signed(name, attempt, mask, seal), signer)
    return SignedKeys(mask=mask, seal=seal, certificate=signer.certificate, signature=signature)


def check_keys(
    keys: SignedKeys,
    name: str,
    attempt: Mapping[str, object],
    ca: x509.Certificate | None,
    now: datetime,
) -> None:
    """Check that keys are a hospital's in an attempt.

    Args:
        keys: What is shown.
        name: The hospital's.
        attempt: Run, round and attempt.
        ca: That has signed its certificate; None: nothing can be checked.
        now: The time, with its zone.

    Raises:
        BadKeys: They are not; says why.
    """
    if ca is None:
        return
    certificate = _certificate(keys, name)
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        raise BadKeys(f"the keys of {name} come without a certificate of the CA") from None
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise BadKeys(f"the certificate of {name} is not valid now")
    check_signature(keys, name, attempt)


def check_signature(keys: SignedKeys, name: str, attempt: Mapping[str, object]) -> str:
    """Check that keys are signed with the certificate beside them; return its fingerprint.

    Args:
        keys: What is shown.
        name: The hospital's.
        attempt: Run, round and attempt.

    Raises:
        BadKeys: They are not, or it is another's.
    """
    certificate = _certificate(keys, name)
    if common_name(certificate) != name:
        raise BadKeys(f"the keys of {name} come with another's certificate")
    try:
        _verify(certificate, _signed(name, attempt, keys.mask, keys.seal), keys.signature)
    except InvalidSignature:
        raise BadKeys(f"the keys of {name} are not signed by it for this attempt") from None
    return fingerprint_of(certificate)


def _certificate(keys: SignedKeys, name: str) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(keys.certificate)
    except ValueError:
        raise BadKeys(f"the keys of {name} come without a certificate of the CA") from None


def _signed(name: str, attempt: Mapping[str, object], mask: bytes, seal: bytes) -> bytes:
    return context("fedcxr secure aggregation 1 keys", attempt, name, mask.hex(), seal.hex())


def bond(
    attempt: Mapping[str, object],
    names: Sequence[str],
    terms: str,
    keys: Mapping[str, SignedKeys],
    pair: tuple[str, str],
) -> bytes:
    """Return what two hospitals must agree on to have a key in common, as bytes.

    Keys that follow from it are new, since both have made a pair for this attempt, and both have
    seen the same names and the same terms.

    Args:
        attempt: Run, round and attempt.
        names: Of all in the sum.
        terms: See :func:`common.secure.terms.terms_of`.
        keys: Of both at least.
        pair: The two hospitals, in any order.
    """
    seen = [[name, keys[name].mask.hex(), keys[name].seal.hex()] for name in sorted(pair)]
    return context(attempt, _digest(names), terms, seen)


def list_of(
    attempt: Mapping[str, object],
    names: Sequence[str],
    terms: str,
    survivors: Sequence[str],
    keys: SignedKeys,
) -> bytes:
    """Return what a hospital signs when it confirms who is in a sum.

    Args:
        attempt: Run, round and attempt.
        names: Of all who began it.
        terms: As in :func:`bond`.
        survivors: Of those in the sum.
        keys: The signing hospital's: a server that lets it begin the attempt anew, with new keys,
            cannot use what it has signed before.
    """
    about = "fedcxr secure aggregation 1 list"
    own = [keys.mask.hex(), keys.seal.hex()]
    return context(about, attempt, _digest(names), terms, _digest(survivors), own)


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256(context(sorted(names))).hexdigest()


def signature_of(content: bytes, signer: Signer | None) -> bytes:
    """Return a hospital's signature; empty without a signer."""
    return b"" if signer is None else signer.key.sign(content, ec.ECDSA(SHA256()))


def is_signed(content: bytes, signature: bytes, keys: SignedKeys) -> bool:
    """Return whether content is signed with the certificate beside a hospital's checked keys."""
    try:
        _verify(x509.load_der_x509_certificate(keys.certificate), content, signature)
    except (ValueError, InvalidSignature):
        return False
    return True


def _verify(certificate: x509.Certificate, content: bytes, signature: bytes) -> None:
    public = certificate.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise InvalidSignature
    public.verify(signature, content, ec.ECDSA(SHA256()))
