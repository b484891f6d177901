"""The round loop: ask the hospitals, check what they return, average it, keep it, repeat."""

import logging
from collections.abc import Callable, Mapping
from time import monotonic

from common.checkpoint import Provenance
from common.errors import FedCXRError, NoQuorum
from common.readings import Pooled
from common.runtime.logs import FOR_PEOPLE, fields
from common.scores import Scores, rounded
from common.state import State, returned
from common.wire import fingerprint
from server.rounds import canary
from server.rounds.ask import Hospitals
from server.rounds.attempt import Attempt, Collected, Round
from server.rounds.average import MovingAverage
from server.rounds.best import BestCopy
from server.rounds.checks import flaw_of, stop_if_diverged
from server.rounds.choosing import Choice
from server.rounds.closing import Closing
from server.rounds.drift import cosines
from server.rounds.outgoing import GlobalModel
from server.rounds.plan import Plan
from server.rounds.progress import Progress, across, at_fault, mean_loss
from server.rounds.waiting import RECONNECT_GRACE_SECONDS, RETURN_SECONDS, Waiting
from server.run import console
from server.run.events import (
    AuditEvent,
    Excluded,
    InitialModel,
    Left,
    Repeated,
    Resumed,
    StoppedEarly,
)
from server.run.folder import RunFolder
from server.run.forecast import seconds_left
from server.run.histograms import keep_pooled
from server.run.live import LiveWriter
from server.run.records import Result, RoundRecord, RoundSeconds, RunState, RunStatus
from server.run.spool import SpooledUpdates
from server.strategies import make_strategy
from server.strategies.base import RoundInfo, Strategy

log = logging.getLogger(__name__)


class Rounds:
    """Runs the rounds of one run, from where it stands.

    Args:
        plan: How the run is to go.
        hospitals: Those that are connected.
        folder: Where everything is written.
        state: The global model of the last round that is done; the first one, if none is.
        provenance: Of the run's models; its ``start`` is where the first one comes from.
        test: Scores a state on the test shard; None: there is none.
        strategy: As it was after the last round that is done; default: a new one.
        average: The same; default: a new one, if there is to be one.

    Attributes:
        folder: The run's.
        asked: Hospitals that were asked last: in the last round or to score its model; of a resumed
            run those expected back.
    """

    def __init__(
        self,
        plan: Plan,
        hospitals: Hospitals,
        folder: RunFolder,
        state: State,
        provenance: Provenance,
        test: Callable[[State], Scores] | None,
        strategy: Strategy | None = None,
        average: MovingAverage | None = None,
    ) -> None:
        self._plan = plan
        self._hospitals = hospitals
        self.folder = folder
        self._strategy = strategy or make_strategy(plan.strategy, returned(state, plan.training))
        self._model = GlobalModel(plan, self._strategy, state)
        self._average = average or (MovingAverage(plan.ema, state) if plan.ema else None)
        self._equal = not plan.strategy.believes_claims  # or one could choose the best model alone
        self._provenance = provenance
        self._test = test
        self._waiting = Waiting(plan, hospitals, self._write_status)
        choice = Choice(plan.strategy.believes_claims, plan.min_gain)
        self._progress = Progress.of(folder.rounds(), folder.events(), choice)
        self._best = BestCopy(folder, self._progress, plan.one_model)
        self.asked = folder.to_return()

    def run(self) -> Result:
        """Run all rounds and a closing evaluation.

        Raises:
            NoQuorum: Too few hospitals came, or too few answered well.
            OSError: A file cannot be written; what was written before is whole.
        """
        with LiveWriter(self.folder.path, self.folder.live):
            return self._run()

    def _run(self) -> Result:
        plan, done = self._plan, self._progress.round
        if done:
            log.info("going on after round %d of %d", done, plan.rounds)
            self.folder.log.record(Resumed(round=done))
            self._best.update()
        else:
            self._introduce()
        deadline = monotonic() + RETURN_SECONDS
        self._waiting.gather(RETURN_SECONDS if done else plan.round_timeout, enough=bool(done))
        self._hospitals.wait_for_return(self.asked, max(0.0, deadline - monotonic()))
        for name in sorted(self.asked - self._hospitals.present().keys()):
            self.folder.log.record(Left(site=name))
            self.asked.remove(name)  # or the first round would wait for it again
        if plan.canary and not done:
            self._canary()
        reason = None
        for number in range(done + 1, plan.rounds + 1):
            if reason := self._progress.choice.why_stop(plan.early_stop):
                self.folder.log.record(StoppedEarly(round=number - 1, reason=reason))
                break
            self._round(number)
        closing = Closing(
            plan,
            self._hospitals,
            self.folder,
            self._progress,
            self._model,
            self._best,
            equal=self._equal,
            asked=self.asked,
            test=self._test,
            average=self._average,
            provenance=self._provenance,
        )
        return closing.run(reason)

    def _introduce(self) -> None:
        """Say where the first model comes from and how good it is."""
        if (origin := self._provenance.start) is not None:
            log.info("initial model: %s: %s", self._provenance.init, origin.describe())
        if self._test is not None:
            scores = self._test(self._model.state)
            log.info("initial model: test AUC %s", rounded(scores.auc))
            self.folder.log.record(InitialModel(test=scores))

    def _write_status(self, state: RunState, **fields: int) -> None:
        done = self._progress.round if self.asked else None  # nobody was asked: no round yet
        rounds = self._plan.rounds
        if state == "waiting":
            self.folder.live.enter("waiting", fields["needed"])
        self.folder.status.write(RunStatus(state=state, round=done, rounds=rounds, **fields))

    def _round(self, number: int) -> None:
        plan = self._plan
        rate = plan.training_in(number).lr
        at = "" if rate == self._rate_before() else f", at learning rate {rate:g}"
        for turn in range(1, plan.attempts + 1):
            if not self._waiting.wait_for(plan.needed, plan.round_timeout):
                self._waiting.give_up(plan.needed)
            self._hospitals.wait_for_return(self.asked, RECONNECT_GRACE_SECONDS)
            start = monotonic()
            told = fields("round", round=number, rounds=plan.rounds, attempt=turn)
            log.info("round %d of %d%s", number, plan.rounds, at, extra=told)
            log.info(console.HEADER, extra=FOR_PEOPLE)
            out = self._model.to_train(number, turn, self._progress)
            identity = out.instruction.identity
            self.folder.live.begin(identity, "hospitals", number, plan.needed)
            with self.folder.spool(out.returned) as spool:
                attempt = Attempt(self._hospitals, self.folder, out, spool)
                self.asked = set(attempt.collected.asked)
                found = attempt.collect(plan.round_timeout)
                self._strike(found)
                if len(found.hospitals) >= plan.needed:
                    self._finish_round(number, turn, start, out, attempt)
                    return
            stop_if_diverged(number, rate, plan.training.lr, found.hospitals, found.rejected)
            good, bad = sorted(found.hospitals), at_fault(found.hospitals, found.rejected)
            self.folder.log.record(
                Repeated(round=number, attempt=turn, hospitals=good, rejected=bad)
            )
            log.warning(
                "round %d: only %d of the %d hospitals that are needed%s",
                number,
                len(found.hospitals),
                plan.needed,
                "; the round is repeated" if turn < plan.attempts else "",
            )
        raise NoQuorum(
            f"round {number}: fewer than {plan.needed} good replies in {plan.attempts} attempts; "
            f"see rejected and lost in {self.folder.path / 'events.jsonl'}; --resume goes on"
        )

    def _rate_before(self) -> float:
        """Return the learning rate of the round before."""
        done = self.folder.rounds()
        return (done[-1].lr if done else None) or self._plan.training.lr

    def _canary(self) -> None:
        """Let each hospital train on a few batches; nothing of it is averaged or kept.

        Raises:
            NoQuorum: Too few are fine.
        """
        out = self._model.to_train(0, 1, self._progress)
        shown = canary.ask(self._plan, self._hospitals, self.folder, out)
        self.asked = set(shown.hospitals)
        self.folder.log.record(shown)
        canary.say(self._plan, shown)

    def _strike(self, found: Collected) -> None:
        """Exclude hospitals that have sent too many bad replies in a row."""
        bad = at_fault(found.hospitals, found.rejected)
        for name in self._progress.struck_out(found.hospitals, bad):
            self.folder.exclude(name, found.rejected[name])
            self.folder.log.record(Excluded(site=name, reason=found.rejected[name]))
            self._hospitals.dismiss(name, self.folder.exclusion(name) or "")

    def _finish_round(
        self, number: int, turn: int, start: float, out: Round, attempt: Attempt
    ) -> None:
        """Average, save, test and write the round's line."""
        replied = monotonic()
        drift = self._combine(number, out, attempt.updates())
        averaged = monotonic()
        self._save(number)
        saved = monotonic()
        test = self._score()
        pooled = keep_pooled(self.folder.path, number, attempt.collected.histograms)
        seconds = RoundSeconds(
            hospitals=replied - start,
            average=averaged - replied,
            save=saved - averaged,
            test=monotonic() - saved,
            total=monotonic() - start,
        )
        self._record(number, turn, attempt.collected, drift, test, pooled, seconds)

    def _combine(self, number: int, out: Round, updates: SpooledUpdates) -> dict[str, float | None]:
        """Average the updates; return each hospital's cosine.

        Raises:
            FedCXRError: The average cannot be used.
        """
        self.folder.live.enter("average")
        hospitals = max(self._plan.min_clients, len(self._progress.known | self.asked))
        about = RoundInfo(number, out.instruction.training, hospitals)
        after = self._strategy.combine(out.trained, updates, about)
        if (flaw := flaw_of(after)) is not None:
            raise FedCXRError(
                f"round {number}: --strategy {self._plan.strategy.strategy} made a model that "
                f"cannot be used: {flaw}; nothing was sent, the run is as it was after round "
                f"{number - 1}"
            )
        drift = cosines(out.trained, after, updates)
        self._model.set({**self._model.state, **after})
        if self._average is not None:
            self._average.follow(self._model.state)
        return drift

    def _save(self, number: int) -> None:
        self.folder.live.enter("save")
        average = self._average.to_keep() if self._average is not None else {}
        self.folder.write_checkpoint(
            number,
            self._model.state,
            self._plan.architecture,
            self._provenance.model_copy(update={"round": number}),
            self._strategy.state_dict() | average,
        )

    def _score(self) -> Scores | None:
        """Return the model's scores on the server's own test shard, if there is one."""
        if self._test is None:
            return None
        self.folder.live.enter("test")
        return self._test(self._model.state)

    def _record(
        self,
        number: int,
        turn: int,
        found: Collected,
        drift: Mapping[str, float | None],
        test: Scores | None,
        pooled: Pooled | None,
        seconds: RoundSeconds,
    ) -> None:
        """Write the round's line: from now on it is done."""
        hospitals = {
            name: record.model_copy(update={"cosine": drift[name]})
            for name, record in sorted(found.hospitals.items())
        }
        answered = found.hospitals.keys() | found.rejected.keys()
        validation = across(found.validations, self._equal)
        record = RoundRecord(
            round=number,
            attempt=turn,
            auc=validation.auc,
            auc_by_finding=validation.auc_by_finding,
            lr=self._plan.training_in(number).lr,
            loss=mean_loss(hospitals),
            test=test,
            hospitals=hospitals,
            rejected=found.rejected,
            missing=sorted((self._progress.known | set(found.asked)) - answered),
            pooled=pooled,
            seconds=seconds,
            model_sha256=fingerprint(self._model.packed),
        )
        averaged_model = {"round": number, "sha256": record.model_sha256}
        self.folder.log.record(AuditEvent(event="averaged", details=averaged_model))
        self.folder.write_round(record)
        self._progress.note(record)
        self._best.update()
        self._write_status("running")
        self._say(record, len(found.asked))

    def _say(self, record: RoundRecord, asked: int) -> None:
        """Log a round that is done, the best one so far and how long the others will take."""
        rounds, best = self._plan.rounds, self._progress.best
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
