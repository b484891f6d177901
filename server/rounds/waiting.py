"""Waiting for hospitals, before the first round and while one has too few."""

import logging
from time import monotonic
from typing import NoReturn, Protocol

from common.errors import NoQuorum
from server.rounds.ask import Hospitals
from server.rounds.plan import Plan
from server.run.exclusions import Exclusions
from server.run.records import RunState

log = logging.getLogger(__name__)

RETURN_SECONDS = 60.0
"""How long a resumed run waits for all hospitals before it goes on with a quorum; twice the
longest pause of a client between two attempts to connect."""

RECONNECT_GRACE_SECONDS = 5.0
"""How long a round waits for hospitals that were asked last and are not connected, such as one that
was late and cut off. A hospital that is gone for good costs this once."""


class Teller(Protocol):
    """Writes how the run stands."""

    def __call__(self, state: RunState, **fields: int) -> None:
        """Write the state and, while the run waits, how many hospitals are there and needed."""


class Waiting:
    """Waits for as many hospitals as are needed, and says meanwhile that it does.

    Args:
        plan: How the run is to go.
        hospitals: Those that are connected.
        exclusions: Those that may not come.
        tell: Writes how the run stands.
    """

    def __init__(
        self, plan: Plan, hospitals: Hospitals, exclusions: Exclusions, tell: Teller
    ) -> None:
        self._plan = plan
        self._hospitals = hospitals
        self._exclusions = exclusions
        self._tell = tell

    def gather(self, patience: float, enough: bool) -> None:
        """Wait for the hospitals.

        Args:
            patience: Seconds that all of them may take to come.
            enough: Whether as many as a round needs will do after that.

        Raises:
            NoQuorum: Too few came.
        """
        plan = self._plan
        log.info("waiting for %d hospitals", plan.min_clients)
        if self.wait_for(plan.min_clients, patience):
            return
        if enough and self.wait_for(plan.needed, max(0.0, plan.round_timeout - patience)):
            return
        self.give_up(plan.needed if enough else plan.min_clients)

    def wait_for(self, count: int, patience: float) -> bool:
        """Wait for hospitals and log now and then which have come; return whether all have."""
        deadline = monotonic() + patience
        there = len(self._hospitals.present())
        short = there < count
        if short:
            self._tell("waiting", hospitals=there, needed=count)
        while not self._hospitals.wait_for(count, min(10.0, max(0.0, deadline - monotonic()))):
            if monotonic() >= deadline:
                return False
            there = len(self._hospitals.present())
            self._tell("waiting", hospitals=there, needed=count)
            log.info("waiting for %d hospitals; there are: %s", count, self._names())
        if short:
            self._tell("running")
        return True

    def _names(self) -> str:
        return ", ".join(self._hospitals.present()) or "none"

    def give_up(self, count: int) -> NoReturn:
        """End the run for want of hospitals.

        Raises:
            NoQuorum: Always; says how many are needed and which are there.
        """
        raise NoQuorum(
            f"{count} hospitals are needed, and after {self._plan.round_timeout:.0f} s there are: "
            f"{self._names()}; {self._exclusions.remedy()}start more clients, or lower "
            "--min-clients or --quorum, and go on with --resume"
        )
