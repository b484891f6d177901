"""Who may take part: whoever is on the list, signs the challenge, and has not been excluded."""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from common.errors import BadInput
from common.evaluation import MOST_IMAGES
from common.keys import verifies
from common.protocol import Greeting, Hello
from server.registry import Registry
from server.run_folder import RunFolder


class Admission:
    """Greets with a fresh challenge and judges the answers.

    Args:
        run: The run's id.
        seed: The run's seed.
        image_size: Pixels along each side that a hospital's images must have.
        folder: Holds who was excluded from the run.
        registry: The list of sites with their keys; None: whoever comes is believed.
        names: Under which hospitals reach this server, as its certificate has them.
        max_examples: How many images a hospital may announce, for training or validation.
    """

    def __init__(
        self,
        run: str,
        seed: int,
        image_size: int,
        folder: RunFolder,
        registry: Registry | None = None,
        names: Sequence[str] = (),
        max_examples: int = MOST_IMAGES,
    ) -> None:
        self._run = run
        self._seed = seed
        self._image_size = image_size
        self._folder = folder
        self._registry = registry
        self._max_examples = max_examples
        self._names = {name.lower() for name in names}

    def greeting(self) -> Greeting:
        """Return a greeting whose challenge was never used before."""
        return Greeting(run=self._run, seed=self._seed, nonce=secrets.token_hex(16))

    def refusal(self, greeting: Greeting, hello: Hello) -> str | None:
        """Return why a hospital may not take part; None: it may.

        Its name is not believed before its signature has been checked.
        """
        return self._forged(greeting, hello) or self.barred(hello.site) or self._unfit(hello)

    def standing(self, greeting: Greeting, hello: Hello) -> str | None:
        """Return why a hospital that was let in may not stay; None: it may.

        Its signature is checked anew: the key on the list may be another one by now.
        """
        return self.barred(hello.site) or self._forged(greeting, hello)

    def barred(self, name: str) -> str | None:
        """Return why nobody of this name may take part; None: somebody may."""
        revoked = self._registry.refusal(name, datetime.now(UTC)) if self._registry else None
        return revoked or self._folder.exclusion(name)

    def _forged(self, greeting: Greeting, hello: Hello) -> str | None:
        if self._registry is None:
            return None
        site = self._registry.lookup(hello.site)
        if site is None or not verifies(site.key, hello.signed_part(greeting), hello.signature):
            return f"{hello.site} is not on the list with the key that it signed with"
        if hello.server.lower() not in self._names:
            return f"the signature is meant for another server, {hello.server}"
        return None

    def _unfit(self, hello: Hello) -> str | None:
        if hello.image_size != self._image_size:
            return (
                f"its images are {hello.image_size} pixels wide, this run's are "
                f"{self._image_size}; make the shard anew with --size {self._image_size}"
            )
        announced = max(hello.examples, hello.validation)
        if announced > self._max_examples:
            return (
                f"it announces {announced} images, more than --max-examples {self._max_examples} "
                "of the server allows; its share in the average would be too large"
            )
        return None


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
        public = load_pem_private_key(key, None).public_key()
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
