"""The hospitals that are connected, by name: joining, leaving, dismissal."""

import logging
from collections.abc import Callable, Collection
from threading import Condition, Thread
from time import monotonic
from typing import Protocol

from common.certificates import Peer
from common.message import Message
from common.protocol import Farewell, Ping, RunResult
from server.members.admission import Admission
from server.members.refusals import Refusals
from server.rounds.ask import Connection
from server.run.events import Joined, Left
from server.run.folder import RunFolder

log = logging.getLogger(__name__)

HALF_OPEN_SECONDS = 60.0
"""After which keepalive has found a connection dead, if it is."""

FAREWELL_SECONDS = 10.0
"""How long all hospitals together may take to hear that the run is over."""

ABSENT_SECONDS = 60.0
"""How long the end of a run waits for hospitals of the last round that are not connected, to tell
them; twice the longest pause of a client between two attempts to connect."""

BUSY_POLL_SECONDS = 0.05
"""Seconds between two looks at whether hospitals are busy: becoming idle raises no event."""


class OpenConnection(Connection, Protocol):
    """What else the roster needs of a connection."""

    @property
    def busy(self) -> bool:
        """Whether an answer of the hospital is being waited for."""

    @property
    def closed(self) -> bool:
        """Whether the hospital is gone; :meth:`Roster.leave` may follow later."""

    def answers(self, message: Message) -> bool:
        """Send a message that asks for no work; return whether an answer came."""

    def part(self, farewell: Farewell) -> None:
        """Say farewell and close the connection."""

    def close(self) -> None:
        """Close the connection."""


class Roster:
    """Keeps the connections by the hospital's name; see :class:`server.rounds.ask.Hospitals`.

    Args:
        admission: Decides which hospitals may take part.
        folder: Where joining and leaving is written.
    """

    def __init__(self, admission: Admission, folder: RunFolder) -> None:
        self.admission = admission
        self._folder = folder
        self._refusals = Refusals(folder.log)
        self._connections: dict[str, OpenConnection] = {}
        self._farewell: Callable[[str], Farewell] | None = None  # by the hospital's name
        self._told: dict[str, str] = {}  # the process by the hospital's name
        self._joined: set[OpenConnection] = set()
        self._changed = Condition()

    def wait_for(self, count: int, timeout: float) -> bool:
        """Wait until so many hospitals have said hello; return whether they have."""
        self.present()  # or hospitals that were barred meanwhile would count
        with self._changed:
            return self._changed.wait_for(lambda: len(self._open()) >= count, timeout)

    def wait_for_return(self, names: Collection[str], timeout: float) -> None:
        """Wait until these hospitals are connected and free, those that still may take part."""
        awaited = [name for name in names if self.admission.barred(name) is None]
        deadline = monotonic() + timeout

        def are_back() -> bool:
            known = self._open()
            return all(name in known and not known[name].busy for name in awaited)

        with self._changed:
            if not are_back() and timeout:
                absent = ", ".join(sorted(set(awaited) - self._open().keys())) or "busy hospitals"
                log.info("waiting up to %.0f s for %s", timeout, absent)
            while not are_back() and monotonic() < deadline:
                self._changed.wait(BUSY_POLL_SECONDS)

    def present(self) -> dict[str, Connection]:
        """Return those that have said hello, are still connected and may still take part."""
        with self._changed:
            known = dict(sorted(self._open().items()))
        standings = {name: self.standing(connection) for name, connection in known.items()}
        for name, reason in standings.items():
            if reason is not None:
                self._dismiss(known[name], reason)
        return {name: known[name] for name, reason in standings.items() if reason is None}

    def _open(self) -> dict[str, OpenConnection]:
        """Return the connections without those of which :meth:`leave` has yet to be told."""
        return {name: known for name, known in self._connections.items() if not known.closed}

    def standing(self, connection: Connection) -> str | None:
        """Return why a hospital may not take part any more; None: it may."""
        return self.admission.standing(connection.peer, connection.hello)

    def dismiss(self, name: str, reason: str) -> None:
        """Tell a hospital that it may not take part any more."""
        with self._changed:
            connection = self._connections.get(name)
        if connection is not None:
            self._dismiss(connection, reason)

    def _dismiss(self, connection: OpenConnection, reason: str) -> None:
        """Part with a hospital, unless another connection has taken its place meanwhile."""
        name = connection.hello.site
        with self._changed:
            if self._connections.get(name) is not connection:
                return
            del self._connections[name]
        try:
            self._folder.log.record(Left(site=name, reason=reason))
        finally:
            self._refuse(connection, reason)

    def say_farewell(
        self,
        reason: str,
        awaited: Collection[str] = (),
        patience: float = ABSENT_SECONDS,
        results: Callable[[str], RunResult | None] = lambda _name: None,
    ) -> None:
        """Tell all hospitals at once that the run is over, and later ones when they connect.

        Args:
            reason: Why it is over.
            awaited: Hospitals to wait a while for, should they not be there.
            patience: Seconds to wait for them.
            results: What a hospital is told of the run beside that, by its name.
        """

        def farewell(name: str) -> Farewell:
            return Farewell(outcome="finished", reason=reason, result=results(name))

        with self._changed:
            self._farewell = farewell
            known = list(self._connections.values())
        for connection in known:
            self._part(connection, farewell(connection.hello.site))
        with self._changed:
            self._changed.wait_for(lambda: not self._connections, FAREWELL_SECONDS)
        awaited = {name for name in awaited if self.admission.barred(name) is None}
        with self._changed:
            if absent := sorted(awaited - self._told.keys()):
                log.info("waiting up to %.0f s to tell %s", patience, ", ".join(absent))
                self._changed.wait_for(lambda: self._told.keys() >= awaited, patience)

    def _part(self, connection: OpenConnection, farewell: Farewell) -> None:
        """Tell a hospital that the run is over, and note that it has heard."""

        def part() -> None:
            try:
                if connection.answers(farewell):
                    with self._changed:
                        self._told[connection.hello.site] = connection.hello.process
                        self._changed.notify_all()
            finally:
                connection.close()

        Thread(target=part, daemon=True).start()

    def turn_away(self, peer: Peer | None) -> Farewell | None:
        """Return what to tell a client whose certificate is not welcome; None: it may say hello.

        Raises:
            OSError: The event cannot be written.
        """
        reason = self.admission.stranger(peer)
        if reason is None:
            return None
        self._refusals.record(peer.name if peer else "", reason)
        return Farewell(outcome="refused", reason=reason[:500])

    def enter(self, connection: OpenConnection) -> None:
        """Let a hospital in that has said hello, or tell it why not.

        Raises:
            OSError: The event cannot be written; the caller closes the connection then.
        """
        hello = connection.hello
        refusal = self.admission.refusal(connection.peer, hello)
        if refusal is None and self._told.get(hello.site) == hello.process:
            return  # it waits for the next run, and finds that this server has ended
        refusal = refusal or self._displace(connection)
        if refusal is not None:
            self._refuse(connection, refusal)
            return
        if self._farewell is not None:
            # The run is over: it neither joins nor leaves.
            self._part(connection, self._farewell(hello.site))
            return
        self._refusals.forget(hello.site)
        films = None if self.admission.greeting.secure else hello.examples
        self._folder.log.record(Joined(site=hello.site, examples=films, hello=hello))
        with self._changed:
            self._joined.add(connection)
            self._changed.notify_all()

    def leave(self, connection: OpenConnection) -> None:
        """Forget a connection that was closed."""
        name = connection.hello.site
        with self._changed:
            gone = self._connections.get(name) is connection
            if gone:
                del self._connections[name]
            self._changed.notify_all()
            joined = connection in self._joined
            self._joined.discard(connection)
        if gone and joined:
            self._folder.log.record(Left(site=name))

    def _displace(self, connection: OpenConnection) -> str | None:
        """Give a hospital its place, unless another process of the same name has it; say so then.

        If the same process connects again it has lost its old connection, whatever that looks like
        from here. The old connection of another process is given up only when it is dead.
        """
        name = connection.hello.site
        remedy = "use --name" if connection.peer is None else "end it; no two may use one kit"
        while True:
            with self._changed:
                old = self._connections.get(name)
            gone = None if old is None else self.standing(old)
            other = old is not None and old.hello.process != connection.hello.process
            if old is not None and gone is None and other and self._alive(old):
                return f"a hospital named {name} is connected already; {remedy}"
            with self._changed:
                if self._connections.get(name, old) is old:
                    self._connections[name] = connection
                    break
        if old is not None and gone is not None:
            self._refuse(old, gone)
        elif old is not None:
            old.close()
        return None

    def _alive(self, old: OpenConnection) -> bool:
        """Return whether a connection lives; of a busy one only its keepalive can tell."""
        if old.answers(Ping()):
            return True
        if not old.busy:
            return False
        name = old.hello.site
        with self._changed:
            return not self._changed.wait_for(
                lambda: self._connections.get(name) is not old, HALF_OPEN_SECONDS
            )

    def _refuse(self, connection: OpenConnection, reason: str) -> None:
        farewell = Farewell(outcome="refused", reason=reason[:500])
        try:
            self._refusals.record(connection.hello.site, reason)
        finally:  # on a full disk it has to go, too
            Thread(target=connection.part, args=(farewell,), daemon=True).start()
