"""One attempt at a round: ask all hospitals that are connected, check and keep what comes back."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from common.histograms import Histograms
from common.protocol import Hello, Instruction
from common.readings import aucs_of
from common.runtime.logs import fields
from common.scores import Scores
from common.state import TRAINED, WEIGHTS, Spec, State, is_float, join, select, spec_of
from common.wire import fingerprint, pack
from server.rounds.ask import Errand, HospitalLost, Hospitals, Outcome, Weights, ask_all
from server.rounds.checks import Rejected, check_reply, check_weights
from server.rounds.pace import WARNING, pace_of, unusual, update_norm
from server.rounds.progress import hospital_record
from server.run import console
from server.run.events import AuditEvent, Lost, ReplyRejected, Unusual
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
    """

    instruction: Instruction
    state: State
    packed: bytes
    backbone: str | None
    norm_limit: float
    paces: Mapping[str, Sequence[Pace]]
    extras: dict[str, State] = field(default_factory=dict)
    returns: tuple[str, ...] = ()

    @property
    def trained(self) -> State:
        """The part of the model that hospitals train and return."""
        return select(self.state, TRAINED[self.instruction.training.mode])

    @property
    def returned(self) -> Spec:
        """All that hospitals return, joined: what they trained, and floats for each extra state."""
        trained = spec_of(self.trained)
        floats = spec_of({name: a for name, a in self.trained.items() if is_float(a)})
        return join({WEIGHTS: trained, **dict.fromkeys(self.returns, floats)})


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
        """Return what each hospital is asked; who holds the frozen backbone gets the head alone."""
        out = self._out
        errands: dict[str, Errand] = {}
        ready: dict[bool, tuple[Instruction, Weights]] = {}
        for name, connection in self._hospitals.present().items():
            has_backbone = out.backbone is not None and connection.backbone == out.backbone
            if has_backbone not in ready:
                ready[has_backbone] = self._outgoing(has_backbone)
            instruction, weights = ready[has_backbone]
            errands[name] = Errand(connection, instruction, weights)
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

    def _outgoing(self, head_alone: bool) -> tuple[Instruction, Weights]:
        """Return what goes to all that have the backbone, or to all others."""
        instruction = self._out.instruction
        if not head_alone:
            return instruction, Weights(self._out.packed)
        head = select(self._out.state, "head")
        blob = pack(join({WEIGHTS: head, **self._out.extras}))
        return instruction.model_copy(update={"weights": "head"}), Weights(blob)

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
            self._spool.put(outcome.name, blob, UpdateInfo(reply.examples, norm))
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

    def _note(self, event: type[Lost | ReplyRejected | Unusual], name: str, reason: str) -> None:
        identity = self._out.instruction.identity
        self._folder.log.record(
            event(site=name, round=identity.round, attempt=identity.attempt, reason=reason)
        )
