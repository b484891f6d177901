"""What becomes of an attempt with enough good replies: the next model, and the round's line."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic

from common.errors import BadInput
from common.protocol import PrivacySpent
from common.provenance import Provenance
from common.readings import Pooled
from common.runtime.logs import FOR_PEOPLE, fields
from common.scores import Scores
from common.state import State
from server.rounds.attempt import Attempt
from server.rounds.average import MovingAverage
from server.rounds.beside import Beside
from server.rounds.beside_next import BesideNext
from server.rounds.best import BestCopy
from server.rounds.checks import flaw_of
from server.rounds.drift import cosines
from server.rounds.errands import Round
from server.rounds.outgoing import GlobalModel
from server.rounds.plan import Plan
from server.rounds.progress import Progress, across, mean_loss
from server.rounds.spending import privacy_of, spent_in
from server.run import console
from server.run.events import AuditEvent
from server.run.folder import RunFolder
from server.run.forecast import seconds_left
from server.run.histograms import keep_pooled
from server.run.records import RoundRecord, RoundSeconds
from server.strategies.base import RoundInfo, Strategy

log = logging.getLogger(__name__)


@dataclass
class Finishing:
    """Makes the next model, and has the round kept beside the next one.

    Attributes:
        plan: How the run is to go.
        folder: Where everything is written.
        strategy: Combines the updates.
        model: The global one; is changed.
        average: Of the models, follows them; None: there is none.
        provenance: Of the run's models.
        test: Scores a state on the test shard; None: there is none.
        progress: Of the run; is told of each round.
        best: Keeps the best model.
        beside: Keeps rounds while the next ones go on.
        told: Is called whenever a round is safe.
    """

    plan: Plan
    folder: RunFolder
    strategy: Strategy
    model: GlobalModel
    average: MovingAverage | None
    provenance: Provenance
    test: Callable[[State], Scores] | None
    progress: Progress
    best: BestCopy
    beside: BesideNext
    told: Callable[[], object]

    def finish(self, out: Round, attempt: Attempt, start: float) -> None:
        """Average; save, test and write the round's line beside the next round.

        Args:
            out: What went out.
            attempt: What came back.
            start: Of the attempt, in seconds by :func:`time.monotonic`.

        Raises:
            BadInput: The strategy made a model that cannot be used.
            OSError: A file cannot be written.
        """
        replied = monotonic()
        number = out.instruction.identity.round
        drift = self._combine(number, out, attempt)
        averaged = monotonic()
        training, done = out.instruction.training, self.folder.rounds()
        spent = spent_in(done, attempt.collected.hospitals, training)
        told = [*spent.values(), *attempt.collected.spent]
        privacy = privacy_of(done, told, training)
        pooled = keep_pooled(self.folder.path, number, attempt.collected.histograms)
        if self.beside.busy:
            self.folder.live.enter("test")
            self.beside.wait()
        seconds = RoundSeconds(
            hospitals=replied - start,
            average=averaged - replied,
            save=0,
            test=0,
            total=monotonic() - start,
        )
        record = self._record(out, attempt, drift, spent, pooled, seconds)
        self.progress.note(record)
        self.folder.hold(record)
        state, kept = self.model.state, self._to_keep()
        asked = len(attempt.collected.asked)

        def keep(safe: Callable[[], None]) -> None:
            begin = monotonic()
            provenance = self.provenance.model_copy(update={"round": number, "privacy": privacy})
            architecture = self.plan.architecture
            self.folder.write_checkpoint(number, state, architecture, provenance, kept)
            save = monotonic() - begin
            averaged_model = {"round": number, "sha256": record.model_sha256}
            self.folder.log.record(AuditEvent(event="averaged", details=averaged_model))
            times = record.seconds.model_copy(update={"save": save})
            self._close(record.model_copy(update={"seconds": times}), state, asked, safe)

        self.beside.start(keep)

    def resume(self) -> None:
        """Score the model of the last round and write its line, if it has none."""
        if (record := self.folder.open_round) is not None:
            state, asked = self.model.state, len(record.cohort)
            self.beside.start(lambda safe: self._close(record, state, asked, safe))

    def _close(
        self, record: RoundRecord, state: State, asked: int, safe: Callable[[], None]
    ) -> None:
        """Score a model that is saved, and write its round's line: from now on it is done.

        Args:
            record: Of the round, without scores.
            state: The model.
            asked: Hospitals that were asked.
            safe: To call once a killed server would go on after the round.
        """
        if self.test is not None:
            self.folder.keep_open(record)
            self.told()
            safe()
            begin = monotonic()
            test = self.test(state)
            seconds = record.seconds.model_copy(update={"test": monotonic() - begin})
            record = record.model_copy(update={"test": test, "seconds": seconds})
        self.folder.write_round(record)
        if self.test is None:
            self.told()
            safe()
        self.best.update()
        self._say(record, asked)

    def _combine(self, number: int, out: Round, attempt: Attempt) -> dict[str, float | None]:
        """Average the updates; return each hospital's cosine.

        Raises:
            BadInput: The strategy made a model that cannot be used.
        """
        self.folder.live.enter("average")
        taking_part = self.progress.known | attempt.collected.there
        hospitals = max(self.plan.min_clients, len(taking_part))
        updates = attempt.updates()
        about = RoundInfo(number, out.instruction.training, hospitals)
        after = self.strategy.combine(out.trained, updates, about)
        if (flaw := flaw_of(after)) is not None:
            raise BadInput(
                f"round {number}: --strategy {self.plan.strategy.strategy} made a model that "
                f"cannot be used: {flaw}; the run is as it was after round {number - 1}: start "
                "another with other settings of the strategy, or mend your own strategy and go on "
                "with --resume"
            )
        drift = cosines(out.trained, after, updates)
        self.model.follow(out, after)
        if self.average is not None:
            self.average.follow(self.model.state)
        return drift

    def _to_keep(self) -> State:
        """Return what is kept beside the model."""
        average = self.average.state if self.average is not None else {}
        strategy = self.strategy.state_dict()
        return Beside(strategy, average, self.model.sent, self.model.residual).to_keep()

    def _record(
        self,
        out: Round,
        attempt: Attempt,
        drift: Mapping[str, float | None],
        spent: Mapping[str, PrivacySpent],
        pooled: Pooled | None,
        seconds: RoundSeconds,
    ) -> RoundRecord:
        """Return the round's line, without what is known once the model is saved and scored."""
        found, identity = attempt.collected, out.instruction.identity
        hospitals = {
            name: record.model_copy(update={"cosine": drift.get(name), "privacy": spent.get(name)})
            for name, record in sorted(found.hospitals.items())
        }
        answered = found.hospitals.keys() | found.rejected.keys()
        missing = (self.progress.known | set(found.asked)) - answered
        equal = not self.plan.strategy.believes_claims  # or one could choose the best model alone
        validation = across(found.validations, equal)
        return RoundRecord(
            round=identity.round,
            attempt=identity.attempt,
            auc=validation.auc,
            auc_by_finding=validation.auc_by_finding,
            lr=out.instruction.training.lr,
            loss=mean_loss(attempt.updates().infos.values()),
            test=None,
            hospitals=hospitals,
            rejected=found.rejected,
            missing=sorted(missing - {*found.idle, *found.busy}),
            drawn=dict(attempt.cohort.chances) if self.plan.participation.fraction < 1 else None,
            busy=found.busy,
            pooled=pooled,
            secure=found.sums or None,
            seconds=seconds,
            model_sha256=self.model.weights.sha256,
        )

    def _say(self, record: RoundRecord, asked: int) -> None:
        """Log a round that is done, the best one so far and how long the others will take."""
        rounds, best = self.plan.rounds, self.progress.best
        left = seconds_left([each.seconds.total for each in self.folder.rounds()], rounds)
        told = fields(
            "round done",
            round=record.round,
            rounds=rounds,
            hospitals=len(record.hospitals),
            asked=asked,
            seconds=record.seconds.total,
            loss=record.loss,
            auc=record.auc,
            test_auc=record.test.auc if record.test else None,
            best_round=best[1] if best else None,
            best_auc=best[0] if best else None,
            seconds_left=left,
        )
        log.info(console.summary(record, rounds, asked, best, left), extra=told)
        if (words := console.privacy_spent(record)) is not None:
            log.info(words, extra=FOR_PEOPLE)
