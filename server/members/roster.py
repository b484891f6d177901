"""The hospitals that are connected, by name: who comes, who goes, who has to go."""

import logging
from collections.abc import Callable, Collection
from threading import Condition, Thread
from time import monotonic
from typing import Protocol

from common.protocol import Farewell, Instruction, Message, Ping
from server.members.admission import Admission
from server.rounds.ask import Site
from server.run.folder import RunFolder
from server.run.records import Joined, Left, Refused

log = logging.getLogger(__name__)

HALF_OPEN_SECONDS = 60.0
"""After which keepalive has found a connection dead, if it is."""

FAREWELL_SECONDS = 10.0
"""How long all hospitals together may take to hear that the run is over."""

ABSENT_SECONDS = 60.0
"""How long the end waits for who took part to the last and is not there to hear of it; twice the
longest pause of a client between two attempts to connect."""

BUSY_POLL_SECONDS = 0.05
"""Seconds between two looks at whether hospitals are busy: becoming idle raises no event."""


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
    """Keeps the hospitals by name; see :class:`server.rounds.ask.Sites`.

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
        self._farewell: Farewell | None = None
        self._told: dict[str, str] = {}  # the process by the hospital's name
        self._changed = Condition()

    def wait_for(self, count: int, timeout: float) -> bool:
        """Wait until so many hospitals have said hello; return whether they have."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._sites) >= count, timeout)

    def wait_for_return(self, names: Collection[str], timeout: float) -> None:
        """Wait until these hospitals are there and free, those who still may take part."""
        awaited = [name for name in names if self.admission.barred(name) is None]
        deadline = monotonic() + timeout

        def are_back() -> bool:
            sites = [self._sites.get(name) for name in awaited]
            return all(site is not None and not site.busy for site in sites)

        with self._changed:
            if not are_back() and timeout:
                absent = ", ".join(sorted(set(awaited) - self._sites.keys())) or "busy hospitals"
                log.info("waiting up to %.0f s for %s", timeout, absent)
            while not are_back() and monotonic() < deadline:
                self._changed.wait(BUSY_POLL_SECONDS)

    def present(self) -> dict[str, Site]:
        """Return those who have said hello, are still connected and may still take part."""
        with self._changed:
            sites = dict(sorted(self._sites.items()))
        standings = {name: self.standing(site) for name, site in sites.items()}
        for name, reason in standings.items():
            if reason is not None:
                self._dismiss(sites[name], reason)
        return {name: site for name, site in sites.items() if standings[name] is None}

    def standing(self, site: Site) -> str | None:
        """Return why a hospital may not take part any more; None: it may."""
        return self.admission.standing(site.greeting, site.hello)

    def may_stay(self, connection: object) -> bool:
        """Return whether a connection is that of a hospital which may still take part."""
        with self._changed:
            sites = [site for site in self._sites.values() if site.connection is connection]
        return any(self.standing(site) is None for site in sites)

    def dismiss(self, name: str, reason: str) -> None:
        """Tell a hospital that it may not take part any more."""
        with self._changed:
            site = self._sites.get(name)
        if site is not None:
            self._dismiss(site, reason)

    def _dismiss(self, site: Connected, reason: str) -> None:
        """Part with a hospital, unless another connection has taken its place meanwhile."""
        with self._changed:
            if self._sites.get(site.hello.site) is not site:
                return
            del self._sites[site.hello.site]
        self._refuse(site, reason)

    def say_farewell(
        self, reason: str, awaited: Collection[str] = (), patience: float = ABSENT_SECONDS
    ) -> None:
        """Tell everybody that the run is over, all at once, and from now on whoever comes.

        Args:
            reason: Why it is over.
            awaited: Hospitals to wait a while for, should they not be there.
            patience: Seconds to wait for them.
        """
        farewell = Farewell(outcome="finished", reason=reason)
        with self._changed:
            self._farewell = farewell
            sites = list(self._sites.values())
        for site in sites:
            self._part(site, farewell)
        with self._changed:
            self._changed.wait_for(lambda: not self._sites, FAREWELL_SECONDS)
        awaited = {name for name in awaited if self.admission.barred(name) is None}
        with self._changed:
            if absent := sorted(awaited - self._told.keys()):
                log.info("waiting up to %.0f s to tell %s", patience, ", ".join(absent))
                self._changed.wait_for(lambda: self._told.keys() >= awaited, patience)

    def _part(self, site: Connected, farewell: Farewell) -> None:
        """Tell a hospital that the run is over, and note that it has heard."""

        def part() -> None:
            try:
                if site.answers(farewell):
                    with self._changed:
                        self._told[site.hello.site] = site.hello.process
                        self._changed.notify_all()
            finally:
                site.close()

        Thread(target=part, daemon=True).start()

    def note_stranger(self, reason: str) -> None:
        """Note that somebody connected who is no hospital."""
        log.warning("a connection was closed: no hello (%s)", reason)

    def enter(self, site: Connected) -> None:
        """Take in who said hello, or tell why not.

        Raises:
            OSError: It cannot be written down; the connection is to be closed then.
        """
        hello = site.hello
        refusal = self.admission.refusal(site.greeting, hello)
        if refusal is None and self._told.get(hello.site) == hello.process:
            return  # it waits for the next run, and finds that this server has ended
        refusal = refusal or self._displace(site)
        if refusal is not None:
            self._refuse(site, refusal)
            return
        if self._farewell is not None:
            self._part(site, self._farewell)
        self._folder.log.record(Joined(site=hello.site, examples=hello.examples, hello=hello))
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
            self._folder.log.record(Left(site=name))

    def _displace(self, site: Connected) -> str | None:
        """Give a hospital its place, unless another process of the same name has it; say so then.

        The same process that comes again has lost its old connection, whatever that looks like
        from here. Of another process the old connection is given up only when it is dead.
        """
        name = site.hello.site
        taken = f"a hospital named {name} is connected already; use --name"
        with self._changed:
            old = self._sites.get(name)
        gone = None if old is None else self.standing(old)
        other = old is not None and gone is None and old.hello.process != site.hello.process
        if old is not None and other and self._alive(old):
            return taken
        with self._changed:
            if self._sites.get(name, old) is not old:
                return taken
            self._sites[name] = site
        if old is not None and gone is not None:
            self._refuse(old, gone)
        elif old is not None:
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
        farewell = Farewell(outcome="refused", reason=reason[:500])
        try:
            self._folder.log.record(Refused(site=name, reason=reason))
        finally:  # on a full disk it has to go, too
            Thread(target=site.part, args=(farewell,), daemon=True).start()
