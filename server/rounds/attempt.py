"""One attempt at a round: ask hospitals, check what comes back and keep it."""

import logging
import math
from collections.abc import Callable

from common.histograms import Histograms
from common.protocol import OWN_LOST, Hello, Reply
from common.readings import aucs_of
from common.runtime.logs import FOR_PEOPLE, fields
from common.secure.fixed import length
from common.wire import Blob, pack
from server.rounds.ask import HospitalLost, Hospitals
from server.rounds.checks import Rejected, check_reply, check_weights
from server.rounds.cohort import Cohort
from server.rounds.collected import Collected
from server.rounds.errands import Errand, Round, errands_of
from server.rounds.pace import WARNING, at_rate, norm_of, pace_of, squared_change, unusual
from server.rounds.progress import hospital_record
from server.rounds.staleness import carried_over
from server.rounds.underway import Answer, Outcome, UnderWay
from server.run import console
from server.run.events import AuditEvent, Lost, OwnStateLost, ReplyRejected, Unusual
from server.run.folder import RunFolder
from server.run.records import HospitalRecord, Pace
from server.run.spool import Spool, SpooledUpdates
from server.secure.sums import SecureSums
from server.strategies.base import UpdateInfo

log = logging.getLogger(__name__)


class Attempt:
    """Collects the replies to one instruction, and those of hospitals that are busy with another.

    Args:
        hospitals: Those that are connected.
        folder: Where everything is written.
        out: What goes out.
        spool: Keeps the updates that come back; None: none are asked for.
        cohort: Who is asked, unless it is busy; None: all that are connected.
        under_way: Errands of earlier attempts that still go on; None: there are none.
        groups: Secure sums that the updates make, if the instruction is for such.

    Attributes:
        cohort: Who is asked.
        collected: What came back so far.
    """

    def __init__(
        self,
        hospitals: Hospitals,
        folder: RunFolder,
        out: Round,
        spool: Spool | None = None,
        cohort: Cohort | None = None,
        under_way: UnderWay | None = None,
        groups: int = 1,
    ) -> None:
        self._hospitals = hospitals
        self._folder = folder
        self._out = out
        self._spool = spool
        self._sums = SecureSums(out, groups) if out.instruction.secure is not None else None
        self.cohort = cohort or Cohort.all_of(hospitals.present())
        self._under_way = under_way or UnderWay(folder.live)
        earlier, present = self._under_way.errands, self.cohort.present
        free = {name: present[name] for name in self.cohort.chances if name not in earlier}
        self._new = errands_of(out, free)
        self._note_sent()
        self._errands = earlier | self._new
        idle = sorted(present.keys() - self._errands)
        self.collected = Collected(asked=sorted(self._errands), idle=idle)

    def collect(
        self, timeout: float, enough: int = 0, check: Callable[[], object] = lambda: None
    ) -> Collected:
        """Ask, check reply by reply until the deadlines, and leave out updates that are far off.

        Args:
            timeout: Seconds that the hospitals have which are asked now.
            enough: Good replies after which the others are not waited for; 0: all are.
            check: Is called again and again meanwhile, to raise what makes waiting useless.

        Raises:
            OSError: The disk is full.
        """
        found = self.collected
        self._under_way.ask(self._new, timeout)

        def is_enough() -> bool:
            check()
            return 0 < enough <= len(found.hospitals)

        while True:
            for outcome in self._under_way.outcomes(is_enough):
                try:
                    self._check(outcome)
                except Rejected as reason:
                    self._reject(outcome.name, str(reason))
                except HospitalLost as lost:
                    self._lose(outcome.name, str(lost))
            self._reject_barred()
            self._reject_unusual()
            if is_enough() or not self._under_way.errands:
                break
        found.busy = sorted(self._under_way.errands)
        self._warn_of_unusual()
        return found

    def sum(self, least: int) -> None:
        """Sum the good updates, if that is to be done under masks; leave out who is in no sum.

        Args:
            least: Good updates that the round needs; with fewer there is no sum.
        """
        if self._sums is None or len(self.collected.hospitals) < least:
            return
        assert self._spool is not None  # noqa: S101 - updates were asked for
        found = self.collected
        self._folder.live.enter("sum")
        summed = self._sums.run(sorted(found.hospitals), least)
        for number, (mean, line) in enumerate(summed.means):
            info = UpdateInfo(mean.films, mean.norm, loss=line.loss)
            self._spool.put(f"sum-{number}", pack(mean.state), info)
            found.sums.append(line)
            log.info(console.sum_row(line))
        settings = self._out.instruction.secure
        assert settings is not None  # noqa: S101 - or nothing would be summed
        sent = 4 * length(self._out.trained, settings)
        for name, record in found.hospitals.items():
            size = record.bytes.model_copy(update={"sent": sent})
            found.hospitals[name] = record.model_copy(update={"bytes": size})
        parts = found.hospitals.values()
        found.spent = [part.privacy for part in parts if part.privacy is not None]
        found.liars = set(summed.liars)
        for name, reason in sorted(summed.lost.items()):
            self._leave_out(name)
            self._lose(name, reason)
        for name, reason in sorted(summed.rejected.items()):
            self._reject(name, reason)

    def _reject_barred(self) -> None:
        """Reject what came from hospitals that may not take part any more."""
        for name in sorted(self.collected.answered - self._under_way.errands.keys()):
            barred = self._hospitals.standing(self._errands[name].connection)
            if barred is not None:
                self._reject(name, barred)

    def _reject_unusual(self) -> None:
        """Reject updates that are far faster than usual, if there is a limit."""
        if limit := self._out.norm_limit:
            for name, why in self._unusual(limit).items():
                self._reject(name, why)

    def _warn_of_unusual(self) -> None:
        """Warn of updates that are far faster than usual, if there is no limit."""
        if not self._out.norm_limit:
            for name, why in self._unusual(WARNING).items():
                self._note(Unusual, name, why)

    def _unusual(self, limit: float) -> dict[str, str]:
        paces = {name: record.pace for name, record in self.collected.hospitals.items()}
        known = {name: pace for name, pace in paces.items() if pace is not None}
        return unusual(known, self._out.paces, limit)

    @property
    def hellos(self) -> dict[str, Hello]:
        """What those who were asked had said of themselves, by name."""
        return {name: errand.connection.hello for name, errand in self._errands.items()}

    def updates(self) -> SpooledUpdates:
        """Return the good updates."""
        assert self._spool is not None  # noqa: S101 - updates were asked for
        names = [f"sum-{number}" for number in range(len(self.collected.sums))]
        return self._spool.updates(names or self.collected.hospitals)

    def _note_sent(self) -> None:
        for name, errand in self._new.items():
            order = errand.instruction
            needed = order.task == "train" or not order.training.one_model
            if errand.instruction.begins_again and needed:
                why = (
                    f"it does not have what it kept after round {errand.instruction.counted}, and "
                    "begins again; give its client --state, a folder that stays"
                )
                self._note(OwnStateLost, name, why)
        self._folder.log.record(*(_sent(name, errand) for name, errand in self._new.items()))

    def _note_received(self, name: str, errand: Errand, reply: Reply, received: str | None) -> None:
        details: dict[str, object] = {
            "site": name,
            "identity": errand.instruction.identity.model_dump(),
            "status": reply.status,
            "sha256": received,
        }
        if errand.instruction.keep is not None:
            details["kept"] = reply.kept
        self._folder.log.record(AuditEvent(event="received", details=details))

    def _check(self, outcome: Outcome) -> None:
        """Check one reply, keep its weights and note the hospital's part.

        Raises:
            Rejected: It is not good enough.
            HospitalLost: There is no reply.
        """
        errand = outcome.errand
        if not isinstance(outcome.answer, Answer):
            errand.connection.backbone = errand.connection.holds = None
            raise outcome.answer
        reply, blob, received = outcome.answer
        self._note_received(outcome.name, errand, reply, received)
        if reply.reason == OWN_LOST and errand.instruction.counted in errand.connection.own:
            errand.connection.own.remove(errand.instruction.counted)  # it is sent the model next
            errand.connection.holds = None
            raise HospitalLost(OWN_LOST)
        check_reply(reply, errand.connection.hello, errand.instruction)
        errand.connection.backbone = self._out.backbone
        if errand.out.sha256 is not None:
            errand.connection.holds = errand.out.sha256
        if self._stale(errand):  # its scores are of an older model than the others'
            reply = reply.model_copy(update={"validation": None, "histograms": None})
        histograms = None if reply.histograms is None else Histograms.from_text(reply.histograms)
        if self._spool is not None:
            norm = pace = None
            if self._sums is not None:
                self._sums.add(outcome.name, errand.connection, reply)
            else:
                norm, pace = self._keep(self._spool, outcome.name, errand, reply, blob, received)
            record = hospital_record(
                reply,
                outcome.asked,
                outcome.fetched,
                len(errand.weights.blob),
                len(blob),
                norm,
                pace,
                aucs_of(histograms) if histograms is not None else None,
                self._stale(errand),
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

    def _keep(
        self,
        spool: Spool,
        name: str,
        errand: Errand,
        reply: Reply,
        blob: Blob,
        received: str | None,
    ) -> tuple[float, Pace]:
        """Check the weights, keep them as an update of the present model; return norm and pace.

        Raises:
            Rejected: They are not good enough.
        """
        before, instruction = errand.out.trained, errand.instruction
        state = check_weights(reply, blob, received, before, instruction)
        now = self._out.trained
        if stale := self._stale(errand):
            state = carried_over(before, state, now, stale)
            blob = pack(state)
        elif instruction.wire != "fp32":
            blob = pack(state)
        squared = squared_change(now, state)
        norm = norm_of(squared)
        if not math.isfinite(norm):
            raise Rejected("its update's norm is not finite")
        chance = self.cohort.chances.get(name, 1.0)
        own = instruction.training.lr  # of a late update not the round's
        spool.put(name, blob, UpdateInfo(reply.examples, norm, chance, reply.loss, own))
        pace = pace_of(squared, instruction.training, reply.examples)
        return norm, at_rate(pace, own, self._out.instruction.training.lr)

    def _stale(self, errand: Errand) -> int:
        """Return by how many rounds the model of an errand is older than the present one."""
        return self._out.instruction.identity.round - errand.instruction.identity.round

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
            stale=record.stale or None,
        )
        if len(self.collected.hospitals) == 1:
            log.info(console.HEADER, extra=FOR_PEOPLE)
        log.info(console.hospital_row(name, record), extra=told)

    def _lose(self, name: str, reason: str) -> None:
        self.collected.lost[name] = reason
        self._note(Lost, name, reason)

    def _reject(self, name: str, reason: str) -> None:
        """Leave out a reply and tell the hospital why."""
        errand = self._errands[name]
        errand.connection.backbone = errand.connection.holds = None
        errand.connection.tell(errand.instruction.identity, reason)
        self._leave_out(name)
        self.collected.rejected[name] = reason
        self._note(ReplyRejected, name, reason)

    def _leave_out(self, name: str) -> None:
        self.collected.hospitals.pop(name, None)
        self.collected.validations.pop(name, None)
        self.collected.histograms.pop(name, None)

    def _note(
        self, event: type[Lost | OwnStateLost | ReplyRejected | Unusual], name: str, reason: str
    ) -> None:
        identity = self._out.instruction.identity
        self._folder.log.record(
            event(site=name, round=identity.round, attempt=identity.attempt, reason=reason)
        )


def _sent(name: str, errand: Errand) -> AuditEvent:
    instruction = errand.instruction
    details = {
        "site": name,
        "identity": instruction.identity.model_dump(),
        "task": instruction.task,
        "weights": instruction.weights,
        "sha256": errand.weights.sha256,
    }
    if instruction.keep is not None:
        details["keep"] = instruction.keep.model_dump()
    return AuditEvent(event="sent", details=details)
