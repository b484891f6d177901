"""What goes out in an attempt, and what of it each hospital is asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from common.options import Part
from common.protocol import Instruction
from common.state import WEIGHTS, State, join, returned, select
from common.wire import pack
from server.rounds.ask import Connection, Weights
from server.run.records import Pace


class Change(NamedTuple):
    """What goes to hospitals that hold what went out in the round before.

    Attributes:
        base: Hash of that.
        blob: Its change, and the round's ``extras``, as they travel.
    """

    base: str
    blob: bytes


@dataclass(frozen=True)
class Round:
    """What goes out in an attempt.

    Attributes:
        instruction: What every hospital is to do, all weights beside it.
        state: The global model, as it goes out.
        packed: All that travels: the model and ``extras``.
        backbone: Hash of the frozen backbone, whose holders get the head alone; None: all is
            trained.
        norm_limit: Updates so many times faster than usual are rejected; 0: none is.
        paces: Of the hospitals' updates in earlier rounds; see :mod:`server.rounds.pace`.
        extras: Named states that go out beside the weights.
        counted: The last round in which each hospital's reply counted, by name.
        sha256: Of what is trained, packed; None: changes of it will not go out.
        change: What goes to those who hold the trained part of the round before, if they lack
            nothing else; None: the model goes to all.
        residual: What has not gone out yet, nor with this round.
    """

    instruction: Instruction
    state: State
    packed: Weights
    backbone: str | None
    norm_limit: float
    paces: Mapping[str, Sequence[Pace]]
    extras: dict[str, State] = field(default_factory=dict)
    counted: Mapping[str, int] = field(default_factory=dict)
    sha256: str | None = None
    change: Change | None = None
    residual: State = field(default_factory=dict)

    @property
    def trained(self) -> State:
        """The part of the model that hospitals train and return."""
        return returned(self.state, self.instruction.training)


class Errand(NamedTuple):
    """What one hospital is asked.

    Attributes:
        connection: To the hospital.
        instruction: What it is to do.
        weights: What it is to do it with.
        out: What goes out in the attempt.
    """

    connection: Connection
    instruction: Instruction
    weights: Weights
    out: Round


def errands_of(out: Round, connections: Mapping[str, Connection]) -> dict[str, Errand]:
    """Return what each hospital is asked; none is sent what it holds already.

    Args:
        out: What goes out in the attempt.
        connections: To those who are asked, by name.
    """
    errands: dict[str, Errand] = {}
    ready: dict[tuple[Part, bool], Weights] = {}
    for name, connection in connections.items():
        part = _part_for(out, connection)
        change = _change_for(out, connection, part)
        what = part, change is not None
        if what not in ready:
            ready[what] = _weights(out, part, change)
        counted = _counted(out, connection)
        fields = {
            "weights": part,
            "counted": counted,
            "begins_again": counted > 0 and counted not in connection.own,
            "base": change.base if change else None,
        }
        instruction = out.instruction.model_copy(update=fields)
        errands[name] = Errand(connection, instruction, ready[what], out)
    return errands


def _counted(out: Round, connection: Connection) -> int:
    """Return the round after which a hospital's own states count; 0: none are kept yet."""
    keeps = out.instruction.training.keeps_state
    return out.counted.get(connection.hello.site, 0) if keeps else 0


def _part_for(out: Round, connection: Connection) -> Part:
    """Return the part of the model that a hospital does not hold."""
    if out.backbone is not None:
        return "head" if connection.backbone == out.backbone else "all"
    shared = out.instruction.training.shared
    return shared if _counted(out, connection) in connection.own else "all"


def _change_for(out: Round, connection: Connection, part: Part) -> Change | None:
    """Return the change that a hospital needs which lacks a part of the model; None: the part."""
    holds = out.change is not None and connection.holds == out.change.base
    return out.change if holds and select(out.state, part).keys() == out.trained.keys() else None


def _weights(out: Round, part: Part, change: Change | None) -> Weights:
    """Return what goes to all that lack this part of the model, or its change."""
    if change is not None:
        return Weights(change.blob)
    if part == "all":
        return out.packed
    return Weights(pack(join({WEIGHTS: select(out.state, part), **out.extras})))
