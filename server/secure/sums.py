"""The secure sums of one attempt at a round: who is in which, and what comes of them."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic

from common.protocol import Reply
from common.secure.fixed import Mean, OutOfRange, from_words, length
from common.secure.graph import groups
from common.secure.keys import BadKeys, SignedKeys, check_signature
from common.secure.settings import FEWEST
from common.secure.terms import terms_of
from server.rounds.ask import Connection
from server.rounds.checks import Rejected
from server.rounds.errands import Round
from server.run.records import SecureSum
from server.secure.aggregation import Aggregation, NoSum
from server.secure.conduct import Conducted, confirm, gather, reveal

log = logging.getLogger(__name__)


@dataclass
class Summed:
    """What came of the sums.

    Attributes:
        means: What each sum stands for, with its line for the record.
        lost: Why a hospital is in no sum, by name.
        rejected: The same of those whose own fault it is.
        liars: Of these, those that may not take part again.
    """

    means: list[tuple[Mean, SecureSum]] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    liars: dict[str, str] = field(default_factory=dict)


@dataclass
class _Begun:
    """A sum on its way.

    Attributes:
        sum: The server's part in it.
        found: Who went away.
        reason: Why it will not come; empty: it may.
        seconds: That it took so far.
    """

    sum: Aggregation
    found: Conducted = field(default_factory=Conducted)
    reason: str = ""
    seconds: float = 0.0

    def try_to(
        self,
        step: Callable[[Aggregation, Mapping[str, Connection], Conducted], None],
        connections: Mapping[str, Connection],
    ) -> None:
        """Go on with it, unless it will not come."""
        start = monotonic()
        try:
            if not self.reason:
                step(self.sum, connections, self.found)
        except NoSum as why:
            self.reason = str(why)
        self.seconds += monotonic() - start


class SecureSums:
    """Collects the keys of hospitals that have trained, and sums their updates.

    Args:
        out: What went out; has the settings.
        count: Of sums.
    """

    def __init__(self, out: Round, count: int) -> None:
        self._out = out
        self._count = count
        self._keys: dict[str, SignedKeys] = {}
        self._connections: dict[str, Connection] = {}

    def add(self, name: str, connection: Connection, reply: Reply) -> None:
        """Take in the keys that come with a reply.

        Raises:
            Rejected: There are none, or they are not the hospital's.
        """
        identity = self._out.instruction.identity.model_dump()
        if reply.keys is None or reply.weights is not None:
            raise Rejected("has no keys for the secure sum")
        if connection.peer is not None:
            try:
                if check_signature(reply.keys, name, identity) != connection.peer.certificate:
                    raise BadKeys("the keys come with another certificate than the connection")
            except BadKeys as bad:
                raise Rejected(str(bad)) from None
        self._keys[name], self._connections[name] = reply.keys, connection

    def run(self, names: list[str], least: int) -> Summed:
        """Sum the updates of hospitals whose replies were good.

        No sum is unmasked before it is known that the round will count, and none after one has
        failed: the sums of a repeated round would differ from it by those who were missing.

        Args:
            names: Theirs.
            least: How many of them must be in the sums.
        """
        identity, seed = self._out.instruction.identity, self._out.instruction.seed
        if len(names) < FEWEST * self._count:
            few = f"{len(names)} hospitals make no {self._count} secure sums of {FEWEST} or more"
            return Summed(lost=dict.fromkeys(names, few))
        summed = Summed()
        digest = terms_of(self._out.instruction, self._out.trained, self._out.backbone).digest
        begun = [
            _Begun(self._aggregation(group, digest))
            for group in groups(names, self._count, seed, identity.round)
        ]
        for each in begun:
            each.try_to(gather, self._connections)
        ready = sum(len(each.sum.in_sum) for each in begun)
        if any(each.reason for each in begun) or ready < least:
            few = f"{ready} masked updates have come, and {least} are needed"
            for each in begun:
                each.reason = each.reason or few
        for each in begun:
            each.try_to(confirm, self._connections)
        failed = next((each.reason for each in begun if each.reason), "")
        for each in begun:
            each.reason = each.reason or (failed and f"another sum has failed: {failed}")
            each.try_to(reveal, self._connections)
            failed = self._finish(each, summed) or failed
        if len(summed.means) < self._count:  # or what compares the sums would compare too few
            others = {name for _, line in summed.means for name in line.hospitals}
            few = f"only {len(summed.means)} of {self._count} secure sums have come"
            summed.lost |= dict.fromkeys(others - summed.rejected.keys(), few)
            summed.means = []
        return summed

    def _aggregation(self, names: list[str], terms: str) -> Aggregation:
        instruction, before = self._out.instruction, self._out.trained
        settings = instruction.secure
        assert settings is not None  # noqa: S101 - or nothing would be summed
        return Aggregation(
            instruction.identity,
            {name: self._keys[name] for name in names},
            settings,
            instruction.seed,
            terms,
            length(before, settings),
        )

    def _finish(self, begun: "_Begun", summed: Summed) -> str:
        """Read the mean off a sum, and say who is not in it; return why there is none, or ""."""
        instruction, before = self._out.instruction, self._out.trained
        settings, names = instruction.secure, begun.sum.names
        assert settings is not None  # noqa: S101 - or nothing would be summed
        there, failed = list[str](), ""
        try:
            if begun.reason:
                raise NoSum(begun.reason)
            words, there = begun.sum.result()
            mean = from_words(words, before, len(there), settings)
        except (NoSum, OutOfRange) as why:
            log.warning("secure sum of %s: %s", ", ".join(names), why)
            there, failed = [], str(why)
            reason = f"there is no secure sum: {why}"
        else:
            reason = "its masked update is not in the secure sum"
            line = SecureSum(
                hospitals=there,
                dropped=sorted(set(names) - set(there)),
                films=mean.films,
                loss=None if instruction.training.dp == "sample" else mean.loss,
                norm=mean.norm,
                seconds=begun.seconds,
                received=begun.found.received,
            )
            summed.means.append((mean, line))
        self._blame(begun.found, begun.sum, summed)
        left = set(names) - set(there) - summed.rejected.keys()
        summed.lost |= {name: begun.found.lost.get(name, reason) for name in left}
        return failed

    @staticmethod
    def _blame(found: Conducted, aggregation: Aggregation, summed: Summed) -> None:
        """Say whose fault it is that a sum is smaller, or that there is none."""
        liars = dict(aggregation.liars)
        for name, count in found.accused.items():
            if 2 * count > aggregation.others_near(name) > 0:
                liars[name] = f"{count} hospitals could not use the keys or shares that it sent"
        summed.liars |= liars
        summed.rejected |= found.improper | liars
