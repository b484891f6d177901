"""The round loop: ask the hospitals, check what they return, average it, keep it, repeat."""

import logging
from collections.abc import Callable
from time import monotonic

from common.errors import NoQuorum
from common.provenance import Provenance
from common.runtime.logs import fields
from common.scores import Scores, rounded
from common.secure.settings import SecureSettings
from common.state import State, returned, spec_of
from server.rounds import canary
from server.rounds.ask import Hospitals
from server.rounds.attempt import Attempt
from server.rounds.average import MovingAverage
from server.rounds.beside_next import BesideNext
from server.rounds.best import BestCopy
from server.rounds.checks import stop_if_diverged
from server.rounds.choosing import Choice
from server.rounds.closing import Closing
from server.rounds.cohort import Cohort, draw
from server.rounds.collected import Collected
from server.rounds.finishing import Finishing
from server.rounds.outgoing import GlobalModel
from server.rounds.plan import Plan
from server.rounds.progress import Progress, at_fault
from server.rounds.underway import UnderWay
from server.rounds.waiting import RECONNECT_GRACE_SECONDS, RETURN_SECONDS, Waiting
from server.run.events import (
    Excluded,
    InitialModel,
    Left,
    Repeated,
    Resumed,
    StoppedEarly,
)
from server.run.folder import NOISE_KEY, RunFolder
from server.run.live import LiveWriter
from server.run.records import Result, RunState, RunStatus
from server.strategies import make_strategy
from server.strategies.base import Strategy

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
        sent: What is trained, as it went out in that round; None: no round is done.
        residual: What had not gone out with it; None: the same.

    Attributes:
        folder: The run's.
        expected: Hospitals that were there last: in the last round or to score its model; of a
            resumed run those expected back.
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
        sent: State | None = None,
        residual: State | None = None,
    ) -> None:
        self._plan = plan
        self._hospitals = hospitals
        self.folder = folder
        strategy = strategy or make_strategy(
            plan.strategy,
            returned(state, plan.training),
            folder.path / NOISE_KEY if plan.training.dp == "site" else None,
        )
        self._model = GlobalModel(plan, strategy, state, sent or {}, residual or {})
        self._average = average or (MovingAverage(plan.ema, state) if plan.ema else None)
        self._provenance = provenance
        self._test = test
        self._waiting = Waiting(plan, hospitals, folder.exclusions, self._write_status)
        choice = Choice(plan.strategy.believes_claims, plan.min_gain)
        self._progress = Progress.of(folder.rounds(), folder.events(), choice)
        self._best = BestCopy(folder, self._progress, plan.one_model)
        self._beside = BesideNext()
        self._standing: tuple[RunState, dict[str, int]] = ("running", {})
        self._finishing = Finishing(
            plan,
            folder,
            strategy,
            self._model,
            self._average,
            provenance,
            test,
            self._progress,
            self._best,
            self._beside,
            self._tell_again,
        )
        ends = plan.participation.rounds_end
        self._under_way = UnderWay(folder.live) if ends else None  # None: nothing outlives a round
        self.expected = folder.to_return()

    def run(self) -> Result:
        """Run all rounds and a closing evaluation.

        Raises:
            NoQuorum: Too few hospitals came, or too few answered well.
            OSError: A file cannot be written; what was written before is whole.
        """
        try:
            with LiveWriter(self.folder.path, self.folder.live), self._beside:
                return self._run()
        finally:
            self.folder.drop_replies()

    def _run(self) -> Result:
        plan, done = self._plan, self._progress.round
        if done:
            log.info("going on after round %d of %d", done, plan.rounds)
            self.folder.log.record(Resumed(round=done))
            self._best.update()
            self._finishing.resume()
        else:
            self._introduce()
        deadline = monotonic() + RETURN_SECONDS
        self._waiting.gather(RETURN_SECONDS if done else plan.round_timeout, enough=bool(done))
        self._hospitals.wait_for_return(self.expected, max(0.0, deadline - monotonic()))
        for name in sorted(self.expected - self._hospitals.present().keys()):
            self.folder.log.record(Left(site=name))
            self.expected.remove(name)  # or the first round would wait for it again
        if plan.canary and not done:
            self._canary()
        reason = None
        for number in range(done + 1, plan.rounds + 1):
            if reason := self._progress.choice.why_stop(plan.early_stop):
                self._beside.wait_until_safe()
                self.folder.log.record(StoppedEarly(round=number - 1, reason=reason))
                break
            self._round(number)
        if self._beside.busy:
            self.folder.live.enter("test")
        self._beside.wait()
        closing = Closing(
            plan,
            self._hospitals,
            self.folder,
            self._progress,
            self._model,
            self._best,
            self._under_way,
            asked=self.expected,
            test=self._test,
            average=self._average,
            provenance=self._provenance,
        )
        return closing.run(reason)

    def _introduce(self) -> None:
        """Say where the first model comes from and how good it is."""
        if (origin := self._provenance.start) is not None:
            log.info("initial model: %s: %s", self._provenance.init, origin.describe())
        if (test := self._test) is None:
            return
        state = self._model.state

        def score(safe: Callable[[], None]) -> None:
            safe()
            scores = test(state)
            log.info("initial model: test AUC %s", rounded(scores.auc))
            self.folder.log.record(InitialModel(test=scores))

        self._beside.start(score)

    def _write_status(self, state: RunState, **fields: int) -> None:
        self._standing = state, fields
        if state == "waiting":
            self.folder.live.enter("waiting", fields["needed"])
        self._tell_again()

    def _tell_again(self) -> None:
        state, fields = self._standing
        done = self.folder.safe if self.expected else None  # nobody was asked: no round yet
        rounds = self._plan.rounds
        self.folder.status.write(RunStatus(state=state, round=done, rounds=rounds, **fields))

    def _round(self, number: int) -> None:
        plan = self._plan
        rate = plan.training_in(number).lr
        at = "" if rate == self._rate_before() else f", at learning rate {rate:g}"
        for turn in range(1, plan.attempts + 1):
            if not self._waiting.wait_for(plan.needed, plan.round_timeout):
                self._waiting.give_up(plan.needed)
            earlier = self._under_way.errands if self._under_way else {}
            self._hospitals.wait_for_return(self.expected - earlier.keys(), RECONNECT_GRACE_SECONDS)
            start = monotonic()
            told = fields("round", round=number, rounds=plan.rounds, attempt=turn)
            log.info("round %d of %d%s", number, plan.rounds, at, extra=told)
            cohort = self._draw(number, turn)
            secure = self._secure(number, turn, cohort)
            out = self._model.to_train(number, turn, self._progress, secure)
            if out.instruction.training.keeps_state or plan.training.dp == "site":
                self.folder.live.enter("save")
                self._beside.wait_until_safe()
            identity = out.instruction.identity
            busy = {name: errand.instruction.identity for name, errand in earlier.items()}
            self.folder.live.begin(identity, "hospitals", number, plan.needed, busy)
            attempt = Attempt(
                self._hospitals,
                self.folder,
                out,
                self.folder.spool(spec_of(out.trained)),
                cohort,
                self._under_way,
                plan.secure.secure_groups,
            )
            self.expected = attempt.collected.there
            found = attempt.collect(
                plan.round_timeout, plan.participation.rounds_end, self._beside.check
            )
            stop_if_diverged(
                number, rate, plan.training.lr, len(found.asked) - len(found.lost), found.rejected
            )
            self._beside.wait_until_safe()
            attempt.sum(plan.needed)
            self._strike(found)
            if found.counted >= plan.needed:
                self._finishing.finish(out, attempt, start)
                return
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
            f"see rejected and lost in {self.folder.path / 'events.jsonl'}; "
            f"{self.folder.exclusions.remedy()}--resume goes on"
        )

    def _rate_before(self) -> float:
        """Return the learning rate of the round before."""
        done = self.folder.rounds()
        return (done[-1].lr if done else None) or self._plan.training.lr

    def _draw(self, number: int, turn: int) -> Cohort:
        plan, chosen = self._plan, self._plan.participation
        present = self._hospitals.present()
        examples = {name: connection.hello.examples for name, connection in present.items()}
        chances = draw(
            examples, chosen.fraction, chosen.sample, plan.needed, plan.seed, number, turn
        )
        return Cohort(present, chances)

    def _secure(self, number: int, turn: int, cohort: Cohort) -> SecureSettings | None:
        """Return the settings of an attempt's secure sums, if updates are to be summed."""
        plan, count = self._plan, len(cohort.chances)
        rotation = plan.seed + number if plan.training.wire == "int8" else None
        return plan.secure.settings(plan.most_films, count, self.folder.rounds(), turn, rotation)

    def _canary(self) -> None:
        """Let each hospital train on a few batches; nothing of it is averaged or kept.

        Raises:
            NoQuorum: Too few are fine.
        """
        out = self._model.to_train(0, 1, self._progress)
        shown = canary.ask(self._plan, self._hospitals, self.folder, out)
        self.expected = set(shown.hospitals)
        self.folder.log.record(shown)
        canary.say(self._plan, shown)

    def _strike(self, found: Collected) -> None:
        """Exclude hospitals that have sent too many bad replies in a row."""
        bad = at_fault(found.hospitals, found.rejected)
        for name in {*self._progress.struck_out(found.hospitals, bad), *found.liars}:
            self.folder.exclusions.add(name, found.rejected[name])
            self.folder.log.record(Excluded(site=name, reason=found.rejected[name]))
            self._hospitals.dismiss(name, self.folder.exclusions.refusal(name) or "")
