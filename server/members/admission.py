"""Which hospitals may take part: those on the list, by certificate, and not excluded."""

from datetime import UTC, datetime

from common.certificates import Peer
from common.protocol import Greeting, Hello
from common.scores import MOST_IMAGES
from server.members.sites import SiteList
from server.run.folder import RunFolder


class Admission:
    """Decides which hospitals may take part in a run.

    Args:
        greeting: What is told to every hospital that connects.
        image_size: Pixels along each side that a hospital's images must have.
        folder: Has the hospitals that were excluded from the run.
        sites: The list of hospitals; None: any hospital may take part, by any name.
        max_examples: How many images a hospital may announce, for training or validation.
    """

    def __init__(
        self,
        greeting: Greeting,
        image_size: int,
        folder: RunFolder,
        sites: SiteList | None = None,
        max_examples: int = MOST_IMAGES,
    ) -> None:
        self._greeting = greeting
        self._image_size = image_size
        self._folder = folder
        self._sites = sites
        self._max_examples = max_examples

    @property
    def greeting(self) -> Greeting:
        """What is told to a hospital that connects now."""
        fields = {"time": datetime.now(UTC), "image_size": self._image_size}
        return self._greeting.model_copy(update=fields)

    def stranger(self, peer: Peer | None) -> str | None:
        """Return why a client with this certificate may not even say hello; None: it may."""
        if self._sites is None:
            return None
        if peer is None:
            return "it has no certificate"
        site = self._sites.lookup(peer.name)
        if site is not None and site.certificate != peer.certificate:
            return f"the list has another certificate for {peer.name}; use the one sent last"
        return self.barred(peer.name)

    def refusal(self, peer: Peer | None, hello: Hello) -> str | None:
        """Return why a hospital may not take part; None: it may."""
        return self.standing(peer, hello) or self._unfit(hello)

    def standing(self, peer: Peer | None, hello: Hello) -> str | None:
        """Return why a hospital that was let in may not stay; None: it may.

        Its certificate is compared again: by now the list may have another one for it.
        """
        if self._sites is None:
            return self.barred(hello.site)
        if peer is None or peer.name != hello.site:
            return f"its certificate is not that of {hello.site}"
        return self.stranger(peer)

    def barred(self, name: str) -> str | None:
        """Return why this hospital is barred, or None."""
        revoked = self._sites.refusal(name, datetime.now(UTC)) if self._sites else None
        return revoked or self._folder.exclusions.refusal(name)

    def _unfit(self, hello: Hello) -> str | None:
        if hello.image_size != self._image_size:
            return (
                f"its images are {hello.image_size} pixels wide, this run's are "
                f"{self._image_size}; make the shard again with --size {self._image_size}"
            )
        announced = max(hello.examples, hello.validation)
        if announced > self._max_examples:
            return (
                f"it announces {announced} images, more than --max-examples {self._max_examples} "
                "of the server allows, which bounds its share; the operator may give more with "
                "--resume"
            )
        return None
