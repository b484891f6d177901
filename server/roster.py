"""The hospitals that are connected, by name: who comes, who goes, who has to go."""

import logging
from collections.abc import Callable
from threading import Condition, Thread
from typing import Protocol

from common.protocol import Farewell, Greeting, Instruction, Message, Ping
from server.admission import Admission
from server.run_folder import RunFolder
from server.sites import Site

log = logging.getLogger(__name__)

HALF_OPEN_SECONDS = 60.0
"""After which keepalive has found a connection dead, if it is."""

FAREWELL_SECONDS = 10.0
"""How long all hospitals together may take to hear that the run is over."""


class Connected(Site, Protocol):
    """A hospital with the connection that it is behind."""

    @property
    def connection(self) -> object:
        """What the transport calls it."""

    @property
    def busy(self) -> bool:
        """Whether something is being asked of it."""

    def answers(self, message: Message) -> bool:
        """Say something that asks for no work; return whether an answer came."""

    def part(self, farewell: Farewell) -> None:
        """Say the last words and close the connection."""

    def close(self) -> None:
        """Close the connection."""


class Roster:
    """Keeps the hospitals by name; see :class:`server.sites.Sites`.

    Args:
        admission: Says who may take part.
        folder: Where comings and goings are written.
        seal: Makes what the transport sends of an instruction and its weights.
    """

    def __init__(
        self,
        admission: Admission,
        folder: RunFolder,
        seal: Callable[[Instruction, bytes], object],
    ) -> None:
        self.admission = admission
        self.seal = seal
        self._folder = folder
        self._sites: dict[str, Connected] = {}
        self._changed = Condition()

    def wait_for(self, count: int, timeout: float) -> bool:
        """Wait until so many hospitals have said hello; return whether they have."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._sites) >= count, timeout)

    def present(self) -> dict[str, Site]:
        """Return those who have said hello, are still connected and may still take part."""
        with self._changed:
            sites = dict(sorted(self._sites.items()))
        standings = {name: self.admission.standing(name) for name in sites}
        for name, reason in standings.items():
            if reason is not None:
                self.dismiss(name, reason)
        return {name: site for name, site in sites.items() if standings[name] is None}

    def standing(self, name: str) -> str | None:
        """Return why a hospital may not take part any more; None: it may."""
        return self.admission.standing(name)

    def dismiss(self, name: str, reason: str) -> None:
        """Tell a hospital that it may not take part any more."""
        with self._changed:
            site = self._sites.pop(name, None)
        if site is not None:
            self._refuse(site, reason)

    def say_farewell(self, reason: str) -> None:
        """Tell everybody that the run is over, all at once."""
        farewell = Farewell(outcome="finished", reason=reason)
        with self._changed:
            sites = list(self._sites.values())
        for site in sites:
            Thread(target=site.part, args=(farewell,), daemon=True).start()
        with self._changed:
            self._changed.wait_for(lambda: not self._sites, FAREWELL_SECONDS)

    def note_stranger(self, reason: str) -> None:
        """Note that somebody connected who is no hospital."""
        log.warning("a connection was closed: no hello (%s)", reason)

    def enter(self, site: Connected, greeting: Greeting) -> None:
        """Take in who said hello, or tell why not."""
        hello = site.hello
        refusal = self.admission.refusal(greeting, hello) or self._displace(site)
        if refusal is not None:
            self._refuse(site, refusal)
            return
        log.info("%s joined with %d images", hello.site, hello.examples)
        self._folder.write_event("joined", site=hello.site, examples=hello.examples)
        self._folder.audit.write("joined", site=hello.site, hello=hello.model_dump())
        with self._changed:
            self._changed.notify_all()

    def leave(self, connection: object) -> None:
        """Forget a connection that was closed."""
        with self._changed:
            gone = [n for n, site in self._sites.items() if site.connection is connection]
            for name in gone:
                del self._sites[name]
            self._changed.notify_all()
        for name in gone:
            log.info("%s left", name)
            self._folder.write_event("left", site=name)

    def _displace(self, site: Connected) -> str | None:
        """Give a hospital its place, unless another process of the same name has it; say so then.

        The same process that comes again has lost its old connection, whatever that looks like
        from here. Of another process the old connection is given up only when it is dead.
        """
        name = site.hello.site
        taken = f"a hospital named {name} is connected already; use --name"
        with self._changed:
            old = self._sites.get(name)
        if old is not None and old.hello.process != site.hello.process and self._alive(old):
            return taken
        with self._changed:
            if self._sites.get(name, old) is not old:
                return taken
            self._sites[name] = site
        if old is not None:
            old.close()
        return None

    def _alive(self, old: Connected) -> bool:
        """Return whether a connection lives; of a busy one only its keepalive can tell."""
        if old.answers(Ping()):
            return True
        if not old.busy:
            return False
        name = old.hello.site
        with self._changed:
            return not self._changed.wait_for(
                lambda: self._sites.get(name) is not old, HALF_OPEN_SECONDS
            )

    def _refuse(self, site: Connected, reason: str) -> None:
        name = site.hello.site
        log.warning("%s refused: %s", name, reason)
        self._folder.write_event("refused", site=name, reason=reason)
        self._folder.audit.write("refused", site=name, reason=reason)
        farewell = Farewell(outcome="refused", reason=reason)
        Thread(target=site.part, args=(farewell,), daemon=True).start()
