"""The secure sums of one attempt at a round: who is in which, and what comes of them."""

import logging
from dataclasses import dataclass, field
from time import monotonic

from common.protocol import Reply
from common.secure.fixed import Mean, OutOfRange, from_words, length
from common.secure.graph import groups
from common.secure.keys import BadKeys, SignedKeys, check_signature
from common.secure.settings import FEWEST
from server.rounds.ask import Connection
from server.rounds.checks import Rejected
from server.rounds.errands import Round
from server.run.records import SecureSum
from server.secure.aggregation import Aggregation, NoSum
from server.secure.conduct import Conducted, conduct

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

    def run(self, names: list[str]) -> Summed:
        """Sum the updates of hospitals whose replies were good.

        Args:
            names: Theirs.
        """
        identity, seed = self._out.instruction.identity, self._out.instruction.seed
        if len(names) < FEWEST * self._count:
            few = f"{len(names)} hospitals make no {self._count} secure sums of {FEWEST} or more"
            return Summed(lost=dict.fromkeys(names, few))
        summed = Summed()
        for group in groups(names, self._count, seed, identity.round):
            self._sum(group, summed)
        if len(summed.means) < self._count:  # or what compares the sums would compare too few
            others = {name for _, line in summed.means for name in line.hospitals}
            few = f"only {len(summed.means)} of {self._count} secure sums have come"
            summed.lost |= dict.fromkeys(others - summed.rejected.keys(), few)
            summed.means = []
        return summed

    def _sum(self, names: list[str], summed: Summed) -> None:
        instruction, before = self._out.instruction, self._out.trained
        settings = instruction.secure
        assert settings is not None  # noqa: S101 - or nothing would be summed
        keys = {name: self._keys[name] for name in names}
        aggregation = Aggregation(
            instruction.identity, keys, settings, instruction.seed, length(before, settings)
        )
        start, found = monotonic(), Conducted()
        try:
            conduct(aggregation, self._connections, found)
            words, there = aggregation.result()
            mean = from_words(words, before, len(there), settings)
        except (NoSum, OutOfRange) as why:
            log.warning("secure sum of %s: %s", ", ".join(names), why)
            there, reason = [], f"there is no secure sum: {why}"
        else:
            reason = "its masked update is not in the secure sum"
            took = monotonic() - start
            line = SecureSum(
                hospitals=there,
                dropped=sorted(set(names) - set(there)),
                films=mean.films,
                loss=None if instruction.training.dp == "sample" else mean.loss,
                norm=mean.norm,
                seconds=took,
                received=found.received,
            )
            summed.means.append((mean, line))
        self._blame(found, aggregation, summed)
        left = set(names) - set(there) - summed.rejected.keys()
        summed.lost |= {name: found.lost.get(name, reason) for name in left}

    @staticmethod
    def _blame(found: Conducted, aggregation: Aggregation, summed: Summed) -> None:
        """Say whose fault it is that a sum is smaller, or that there is none."""
        liars = dict(aggregation.liars)
        for name, count in found.accused.items():
            if 2 * count > aggregation.others_near(name) > 0:
                liars[name] = f"{count} hospitals could not use the keys or shares that it sent"
        summed.liars |= liars
        summed.rejected |= found.improper | liars
