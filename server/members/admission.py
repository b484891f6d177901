"""Who may take part: whoever is on the list, signs the challenge, and has not been excluded."""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime

from common.keys import verifies
from common.protocol import Greeting, Hello
from common.scores import MOST_IMAGES
from server.members.registry import Registry
from server.run.folder import RunFolder


class Admission:
    """Greets with a fresh challenge and judges the answers.

    Args:
        run: The run's id.
        seed: The run's seed.
        image_size: Pixels along each side that a hospital's images must have.
        folder: Holds who was excluded from the run.
        registry: The list of sites with their keys; None: whoever comes is believed.
        names: The server's names, as in its certificate.
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
        """Return why this hospital is barred, or None."""
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
