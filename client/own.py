"""What a hospital keeps of its own from round to round.

That is its part of the model, its control variate, and what has not travelled yet.

::

    own/RUN/round-NNNN.safetensors     in the client's ``--state``, as it was after that round

A round counts for the hospital once the server has averaged its reply; the next instruction says
which one that was. Files of later rounds are of replies that were lost or rejected, or of a round
that is repeated: the hospital goes on from the one that counted, so that both sides agree, and a
repeated round gives the same bytes.
"""

import logging
import re
from pathlib import Path

from client.state import Unwritable
from common.net import SITE_NAME
from common.options import Training, Wire
from common.runtime.files import drop_temporary, write_whole
from common.state import (
    OF_LOCAL,
    RESIDUAL,
    WEIGHTS,
    Spec,
    State,
    join,
    kept_back,
    parameters_of,
    returned,
    split,
)
from common.wire import WireError, is_packed, pack, unpack

log = logging.getLogger(__name__)

FILE = re.compile(r"round-(\d+)\.safetensors")


class OwnLost(Exception):  # noqa: N818 - a finding, not a fault
    """What a hospital kept is lost, and the server counts on it."""


def spec_of_own(model: Spec, training: Training, wire: Wire) -> Spec:
    """Return all that a hospital keeps, joined.

    Its part of the model, what training remembers, and what has not travelled yet.

    Args:
        model: The whole model's.
        training: Settings.
        wire: How trained weights travel.
    """
    parameters = parameters_of(returned(model, training))
    remembers = training.local in ("scaffold", "feddyn")
    return join(
        {
            WEIGHTS: kept_back(model, training),
            OF_LOCAL: parameters if remembers else {},
            RESIDUAL: parameters if wire != "fp32" else {},
        }
    )


class OwnStates:
    """Keeps a hospital's own states of the last rounds of each run.

    Args:
        root: The folder ``own``; None: they are kept in memory, and are lost with the process.
    """

    def __init__(self, root: Path | None) -> None:
        self._root = root
        self._memory: dict[tuple[str, int], bytes] = {}

    def rounds(self, run: str) -> tuple[int, ...]:
        """Return the rounds of a run after which something is kept that can be read, sorted."""
        folder, kept = self._folder(run), self._kept(run)
        if folder is None:
            return kept
        return tuple(number for number in kept if is_packed(_file(folder, number)))

    def load(self, run: str, number: int, spec: Spec) -> dict[str, State]:
        """Return what was kept after a round; nothing if it is lost.

        Args:
            run: The run's name.
            number: The round; 0: nothing was kept yet.
            spec: All that is kept, joined.
        """
        if not number:
            return {}
        folder = self._folder(run)
        try:
            if folder is None:
                return split(unpack(self._memory[run, number], spec))
            return split(unpack(_file(folder, number).read_bytes(), spec))
        except (OSError, KeyError, WireError) as error:
            log.warning(
                "what this hospital kept of its own after round %d of run %s is lost (%s); it "
                "begins again with what the server sends",
                number,
                run,
                type(error).__name__,
            )
            return {}

    def keep(self, run: str, counted: int, number: int, state: State) -> None:
        """Keep what is there after a round, and of earlier ones the one that counted.

        Args:
            run: The run's name.
            counted: The last round that counted.
            number: The round.
            state: All that is kept, joined.

        Raises:
            Unwritable: It cannot be written.
        """
        folder, blob = self._folder(run), pack(state)
        if folder is None:  # of other runs nothing is kept: they are over
            kept = {key: value for key, value in self._memory.items() if key == (run, counted)}
            self._memory = kept | {(run, number): blob}
            return
        old = set(self._kept(run)) - {counted, number}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            drop_temporary(_file(folder, number))
            write_whole(_file(folder, number), lambda file: file.write(blob))
            for stale in old:
                _file(folder, stale).unlink(missing_ok=True)
        except OSError as error:
            raise Unwritable(folder, error) from None

    def _kept(self, run: str) -> tuple[int, ...]:
        """Return the rounds of a run after which something is kept, damaged files too, sorted."""
        folder = self._folder(run)
        if folder is None:
            return tuple(sorted(number for name, number in self._memory if name == run))
        names = [path.name for path in folder.glob("round-*")]
        return tuple(sorted(int(found[1]) for name in names if (found := FILE.fullmatch(name))))

    def _folder(self, run: str) -> Path | None:
        """Return where a run's are; None if nowhere, or if its name could lead out of the root."""
        if self._root is None or not re.fullmatch(SITE_NAME, run):
            return None
        return self._root / run


def _file(folder: Path, number: int) -> Path:
    return folder / f"round-{number:04d}.safetensors"
