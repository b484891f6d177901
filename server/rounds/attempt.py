"""One attempt at a round: ask all hospitals that are connected, check and keep what comes back."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from common.histograms import Histograms
from common.options import Part
from common.protocol import Hello, Instruction
from common.readings import aucs_of
from common.runtime.logs import fields
from common.scores import Scores
from common.state import WEIGHTS, Spec, State, join, parameters_of, returned, select, spec_of
from common.wire import fingerprint, pack
from server.rounds.ask import (
    Connection,
    Errand,
    HospitalLost,
    Hospitals,
    Outcome,
    Weights,
    ask_all,
)
from server.rounds.checks import Rejected, check_reply, check_weights
from server.rounds.pace import WARNING, pace_of, unusual, update_norm
from server.rounds.progress import hospital_record
from server.run import console
from server.run.events import AuditEvent, Lost, OwnStateLost, ReplyRejected, Unusual
from server.run.folder import RunFolder
from server.run.records import HospitalRecord, Pace
from server.run.spool import Spool, SpooledUpdates
from server.strategies.base import UpdateInfo

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Round:
    """What goes out in an attempt.

    Attributes:
        instruction: What every hospital is to do, all weights beside it.
        state: The global model.
        packed: All that travels, as one blob: the model and ``extras``.
        backbone: Hash of the frozen backbone, whose holders get the head alone; None: all is
            trained.
        norm_limit: Updates so many times faster than usual are rejected; 0: none is.
        paces: Of the hospitals' updates in earlier rounds; see :mod:`server.rounds.pace`.
        extras: Named states that go out beside the weights.
        returns: Names of the states that hospitals return beside the weights.
        counted: The last round in which each hospital's reply counted, by name.
    """

    instruction: Instruction
    state: State
    packed: bytes
    backbone: str | None
    norm_limit: float
    paces: Mapping[str, Sequence[Pace]]
    extras: dict[str, State] = field(default_factory=dict)
    returns: tuple[str, ...] = ()
    counted: Mapping[str, int] = field(default_factory=dict)

    @property
    def trained(self) -> State:
        """The part of the model that hospitals train and return."""
        return returned(self.state, self.instruction.training)

    @property
    def returned(self) -> Spec:
        """All that hospitals return, joined: weights, and parameters for each extra state."""
        trained = spec_of(self.trained)
        return join({WEIGHTS: trained, **dict.fromkeys(self.returns, parameters_of(trained))})


@dataclass
class Collected:
    """What came back in one attempt."""

    asked: list[str]
    hospitals: dict[str, HospitalRecord] = field(default_factory=dict)
    validations: dict[str, Scores] = field(default_factory=dict)
    histograms: dict[str, Histograms] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)


class Attempt:
    """Collects the replies to one instruction.

    Args:
        hospitals: Those that are connected.
        folder: Where everything is written.
        out: What goes out.
        spool: Keeps the updates that come back; None: none are asked for.
    """

    def __init__(
        self,
        hospitals: Hospitals,
        folder: RunFolder,
        out: Round,
        spool: Spool | None = None,
    ) -> None:
        self._hospitals = hospitals
        self._folder = folder
        self._out = out
        self._spool = spool
        self._errands = self._make_errands()
        self.collected = Collected(asked=list(self._errands))

    def collect(self, timeout: float) -> Collected:
        """Ask, check reply by reply until the deadline, and leave out updates that are far off.

        Raises:
            OSError: The disk is full.
        """
        found = self.collected
        for outcome in ask_all(self._errands, timeout, self._folder.live):
            try:
                self._check(outcome)
            except Rejected as reason:
                self._reject(outcome.name, str(reason))
            except HospitalLost as lost:
                self._lose(outcome.name, str(lost))
        answered = found.hospitals.keys() | found.validations.keys() | found.rejected.keys()
        for name in self._errands.keys() - answered - found.lost.keys():
            self._lose(name, "no reply before the deadline")
        for name in sorted(found.hospitals.keys() | found.validations.keys()):
            barred = self._hospitals.standing(self._errands[name].connection)
            if barred is not None:
                self._reject(name, barred)
        self._compare()
        return found

    def _compare(self) -> None:
        """Reject updates that are far faster than usual, or warn of them."""
        paces = {name: record.pace for name, record in self.collected.hospitals.items()}
        limit = self._out.norm_limit
        found = unusual(
            {name: pace for name, pace in paces.items() if pace is not None},
            self._out.paces,
            limit or WARNING,
        )
        for name, why in found.items():
            if limit:
                self._reject(name, why)
            else:
                self._note(Unusual, name, why)

    @property
    def hellos(self) -> dict[str, Hello]:
        """What those who were asked had said of themselves, by name."""
        return {name: errand.connection.hello for name, errand in self._errands.items()}

    def updates(self) -> SpooledUpdates:
        """Return the good updates."""
        assert self._spool is not None  # noqa: S101 - updates were asked for
        return self._spool.updates(self.collected.hospitals)

    def _make_errands(self) -> dict[str, Errand]:
        """Return what each hospital is asked; none is sent what it holds already."""
        errands: dict[str, Errand] = {}
        ready: dict[tuple[Part, int], tuple[Instruction, Weights]] = {}
        for name, connection in self._hospitals.present().items():
            what = self._part_for(connection), self._counted(connection)
            if what not in ready:
                ready[what] = self._outgoing(*what)
            instruction, weights = ready[what]
            errands[name] = Errand(connection, instruction, weights)
            if instruction.counted and instruction.counted not in connection.own:
                why = f"it does not have what it kept after round {instruction.counted}"
                self._note(OwnStateLost, name, why)
            details = {
                "site": name,
                "identity": instruction.identity.model_dump(),
                "task": instruction.task,
                "weights": instruction.weights,
                "sha256": weights.sha256,
            }
            if instruction.keep is not None:
                details["keep"] = instruction.keep.model_dump()
            self._folder.log.record(AuditEvent(event="sent", details=details))
        return errands

    def _counted(self, connection: Connection) -> int:
        """Return the round after which a hospital's own states count; 0: none are kept yet."""
        keeps = self._out.instruction.training.keeps_state
        return self._out.counted.get(connection.hello.site, 0) if keeps else 0

    def _part_for(self, connection: Connection) -> Part:
        """Return the part of the model that a hospital does not hold."""
        out, training = self._out, self._out.instruction.training
        if out.backbone is not None:
            return "head" if connection.backbone == out.backbone else "all"
        return training.shared if self._counted(connection) in connection.own else "all"

    def _outgoing(self, part: Part, counted: int) -> tuple[Instruction, Weights]:
        """Return what goes to all that lack this part of the model."""
        out = self._out
        fields = {"weights": part, "counted": counted}
        instruction = out.instruction.model_copy(update=fields)
        if part == "all":
            return instruction, Weights(out.packed)
        blob = pack(join({WEIGHTS: select(out.state, part), **out.extras}))
        return instruction, Weights(blob)

    def _check(self, outcome: Outcome) -> None:
        """Check one reply, keep its weights and note the hospital's part.

        Raises:
            Rejected: It is not good enough.
            HospitalLost: There is no reply.
        """
        errand = self._errands[outcome.name]
        if not isinstance(outcome.answer, tuple):
            errand.connection.backbone = None
            raise outcome.answer
        reply, blob = outcome.answer
        received = fingerprint(blob) if blob else None
        details: dict[str, object] = {
            "site": outcome.name,
            "identity": errand.instruction.identity.model_dump(),
            "status": reply.status,
            "sha256": received,
        }
        if errand.instruction.keep is not None:
            details["kept"] = reply.kept
        self._folder.log.record(AuditEvent(event="received", details=details))
        check_reply(reply, errand.connection.hello, errand.instruction)
        errand.connection.backbone = self._out.backbone
        histograms = None if reply.histograms is None else Histograms.from_text(reply.histograms)
        if self._spool is not None:
            before = self._out.trained
            state = check_weights(
                reply, blob, received, before, self._out.returned, errand.instruction
            )
            norm = update_norm(before, state)
            if not math.isfinite(norm):
                raise Rejected("its update's norm is not finite")
            self._spool.put(outcome.name, blob, UpdateInfo(reply.examples, norm, loss=reply.loss))
            record = hospital_record(
                reply,
                outcome.asked,
                outcome.fetched,
                len(errand.weights.blob),
                len(blob),
                norm,
                pace_of(before, state, errand.instruction.training, reply.examples),
                aucs_of(histograms) if histograms is not None else None,
            )
            self.collected.hospitals[outcome.name] = record
            if errand.instruction.batches is None:
                errand.connection.own.add(errand.instruction.identity.round)
                self._say(outcome.name, record)
        if reply.memory is not None:
            self.collected.memory[outcome.name] = reply.memory
        if reply.kept:
            self.collected.kept.append(outcome.name)
        if reply.validation is not None:
            self.collected.validations[outcome.name] = reply.validation
        if histograms is not None:
            self.collected.histograms[outcome.name] = histograms

    def _say(self, name: str, record: HospitalRecord) -> None:
        told = fields(
            "reply",
            round=self._out.instruction.identity.round,
            site=name,
            examples=record.examples,
            loss=record.loss,
            auc=record.auc,
            seconds=record.seconds.train,
            bytes=record.bytes.sent,
        )
        log.info(console.hospital_row(name, record), extra=told)

    def _lose(self, name: str, reason: str) -> None:
        self.collected.lost[name] = reason
        self._note(Lost, name, reason)

    def _reject(self, name: str, reason: str) -> None:
        """Leave out a reply and tell the hospital why."""
        errand = self._errands[name]
        errand.connection.backbone = None
        errand.connection.tell(errand.instruction.identity, reason)
        self.collected.hospitals.pop(name, None)
        self.collected.validations.pop(name, None)
        self.collected.histograms.pop(name, None)
        self.collected.rejected[name] = reason
        self._note(ReplyRejected, name, reason)

    def _note(
        self, event: type[Lost | OwnStateLost | ReplyRejected | Unusual], name: str, reason: str
    ) -> None:
        identity = self._out.instruction.identity
        self._folder.log.record(
            event(site=name, round=identity.round, attempt=identity.attempt, reason=reason)
        )
