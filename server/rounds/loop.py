"""The round loop: ask the hospitals, check what they return, average it, keep it, repeat."""

import logging
from collections.abc import Callable
from dataclasses import replace
from time import monotonic
from typing import Literal

from common.checkpoint import Provenance
from common.errors import FedCXRError, NoQuorum
from common.histograms import total
from common.protocol import Identity, Instruction
from common.readings import Pooled, pooled
from common.runtime.logs import FOR_PEOPLE, fields
from common.scores import Scores, rounded
from common.state import WEIGHTS, State, join, select
from common.wire import fingerprint, pack
from server.rounds import canary
from server.rounds.ask import Hospitals
from server.rounds.attempt import Attempt, Collected, Round
from server.rounds.checks import DIVERGED, flaw_of
from server.rounds.choosing import Choice
from server.rounds.drift import cosines
from server.rounds.plan import Plan
from server.rounds.progress import Progress, across, at_fault, mean_loss
from server.rounds.sharing import best_model, shared_mean, to_keep
from server.rounds.waiting import Waiting
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
from server.run.histograms import write_histograms
from server.run.left_out import left_out
from server.run.live import LiveWriter
from server.run.records import Result, RoundRecord, RoundSeconds, RunState, RunStatus, Validation
from server.strategies import make_strategy
from server.strategies.base import RoundInfo, Strategy

log = logging.getLogger(__name__)

RETURN_SECONDS = 60.0
"""How long a resumed run waits for all hospitals before it goes on with a quorum; twice the
longest pause of a client between two attempts to connect."""

RECONNECT_GRACE_SECONDS = 5.0
"""How long a round waits for hospitals that were asked last and are not connected, such as one that
was late and cut off. A hospital that is gone for good costs this once."""


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
    ) -> None:
        self._plan = plan
        self._hospitals = hospitals
        self.folder = folder
        self._strategy = strategy or make_strategy(plan.strategy)
        self._set_state(state)
        self._provenance = provenance
        self._test = test
        self._waiting = Waiting(plan, hospitals, self._write_status)
        choice = Choice(plan.strategy.believes_claims, plan.min_gain)
        self._progress = Progress.of(folder.rounds(), folder.events(), choice)
        self._kept: int | None = None
        self.asked = folder.to_return()
        self._backbone = fingerprint(pack(select(state, "backbone")))

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
            self._keep_best()
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
        last = self._progress.round
        if (test := self.folder.rounds()[-1].test) is not None:
            for row in console.findings_table({"test AUC": test.auc_by_finding}):
                log.info(row, extra=FOR_PEOPLE)
        found, validation, of_all = self._closing_evaluation()
        self._share_best(found)
        self.folder.copy_checkpoint(last, "final.pt")
        best, by = self._progress.best, self._progress.choice.by
        if best is None:
            self.folder.copy_checkpoint(last, "best.pt")
        else:
            log.info("best model: of round %d, %s validation AUC %s", best[1], by, rounded(best[0]))
        if lost := left_out(self.folder.rounds(), self.folder.events()):
            what = "; ".join(f"{name}: {why}" for name, why in lost.items())
            log.warning("%d rounds are done; not every hospital counts: %s", last, what)
        else:
            log.info("%d rounds are done; every reply counts", last)
        return Result(
            round=last,
            rounds=plan.rounds,
            reason=reason,
            best_round=best[1] if best else last,
            best_by=by if best else None,
            validation=validation,
            pooled=of_all,
            shared=shared_mean(found.validations) if plan.share_model else None,
        )

    def _introduce(self) -> None:
        """Say where the first model comes from and how good it is."""
        if (origin := self._provenance.start) is not None:
            log.info("initial model: %s: %s", self._provenance.init, origin.describe())
        if self._test is not None:
            scores = self._test(self._state)
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
        for turn in range(1, plan.attempts + 1):
            if not self._waiting.wait_for(plan.needed, plan.round_timeout):
                self._waiting.give_up(plan.needed)
            self._hospitals.wait_for_return(self.asked, RECONNECT_GRACE_SECONDS)
            start = monotonic()
            told = fields("round", round=number, rounds=plan.rounds, attempt=turn)
            log.info("round %d of %d", number, plan.rounds, extra=told)
            log.info(console.HEADER, extra=FOR_PEOPLE)
            out = self._outgoing(number, turn, "train")
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
            self._stop_if_diverged(number, found)
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

    def _canary(self) -> None:
        """Let each hospital train on a few batches; nothing of it is averaged or kept.

        Raises:
            NoQuorum: Too few are fine.
        """
        plan, start = self._plan, monotonic()
        log.info("canary: each hospital trains on %d batches", canary.BATCHES)
        patience = min(plan.round_timeout, canary.CANARY_SECONDS)
        out = self._outgoing(0, 1, "train")
        few = {"batches": canary.BATCHES, "seconds": patience}
        out = replace(out, instruction=out.instruction.model_copy(update=few))
        self.folder.live.begin(out.instruction.identity, "hospitals", 0, plan.needed)
        with self.folder.spool(out.returned) as spool:
            attempt = Attempt(self._hospitals, self.folder, out, spool)
            found = attempt.collect(patience)
        self.asked = set(found.asked)
        shown = canary.canary_round(plan, found, attempt.hellos, monotonic() - start)
        self.folder.log.record(shown)
        canary.say(plan, shown)

    def _outgoing(self, number: int, attempt: int, task: Literal["train", "evaluate"]) -> Round:
        plan = self._plan
        instruction = Instruction(
            identity=Identity(run=plan.run, round=number, attempt=attempt),
            task=task,
            weights="all",
            architecture=plan.architecture,
            training=plan.training,
            seed=plan.seed,
            seconds=plan.round_timeout,
        )
        backbone = self._backbone if plan.training.mode == "linear" else None
        paces = self._progress.paces
        out = Round(instruction, self._state, self._packed, backbone, plan.norm_limit, paces)
        if task == "evaluate":
            return out
        returns = self._strategy.extra_states
        if not (extras := self._strategy.sends(out.trained)):
            return replace(out, returns=returns)
        packed = pack(join({WEIGHTS: self._state, **extras}))
        return replace(out, packed=packed, extras=extras, returns=returns)

    def _about(self, out: Round) -> RoundInfo:
        instruction = out.instruction
        known = self._progress.known | self.asked
        hospitals = max(self._plan.min_clients, len(known))
        return RoundInfo(instruction.identity.round, instruction.training, hospitals)

    def _strike(self, found: Collected) -> None:
        """Exclude hospitals that have sent too many bad replies in a row."""
        bad = at_fault(found.hospitals, found.rejected)
        for name in self._progress.struck_out(found.hospitals, bad):
            self.folder.exclude(name, found.rejected[name])
            self.folder.log.record(Excluded(site=name, reason=found.rejected[name]))
            self._hospitals.dismiss(name, self.folder.exclusion(name) or "")

    def _stop_if_diverged(self, number: int, found: Collected) -> None:
        """End the run if training diverges at most hospitals: the same again would do the same.

        Raises:
            NoQuorum: It does.
        """
        diverged = sum(why.startswith(DIVERGED) for why in found.rejected.values())
        answered = len(found.hospitals) + len(found.rejected)
        if 2 * diverged > answered:
            lr = self._plan.training.lr
            raise NoQuorum(
                f"round {number}: {DIVERGED} {lr:g} at {diverged} of {answered} hospitals; go on "
                f"from the model before it with a lower rate: --resume --change lr={lr / 10:g}"
            )

    def _set_state(self, state: State) -> None:
        self._state = state
        self._packed = pack(state)

    def _finish_round(
        self, number: int, turn: int, start: float, out: Round, attempt: Attempt
    ) -> None:
        """Average, save, test and write the round's line."""
        replied = monotonic()
        found, live = attempt.collected, self.folder.live
        live.enter("average")
        updates = attempt.updates()
        after = self._strategy.combine(out.trained, updates, self._about(out))
        if (flaw := flaw_of(after)) is not None:
            raise FedCXRError(
                f"round {number}: --strategy {self._plan.strategy.strategy} made a model that cannot be "
                f"used: {flaw}; nothing was sent, the run is as it was after round {number - 1}"
            )
        drift = cosines(out.trained, after, updates)
        self._set_state({**self._state, **after})
        averaged = monotonic()
        live.enter("save")
        provenance = self._provenance.model_copy(update={"round": number})
        self.folder.write_checkpoint(
            number,
            self._state,
            self._plan.architecture,
            provenance,
            self._strategy.state_dict(),
        )
        saved = monotonic()
        if self._test is not None:
            live.enter("test")
        test = self._test(self._state) if self._test is not None else None
        hospitals = {
            name: record.model_copy(update={"cosine": drift[name]})
            for name, record in sorted(found.hospitals.items())
        }
        answered = found.hospitals.keys() | found.rejected.keys()
        validation = self._across(found)
        record = RoundRecord(
            round=number,
            attempt=turn,
            auc=validation.auc,
            auc_by_finding=validation.auc_by_finding,
            loss=mean_loss(hospitals),
            test=test,
            hospitals=hospitals,
            rejected=found.rejected,
            missing=sorted((self._progress.known | set(found.asked)) - answered),
            pooled=self._pooled(found, number),
            seconds=RoundSeconds(
                hospitals=replied - start,
                average=averaged - replied,
                save=saved - averaged,
                test=monotonic() - saved,
                total=monotonic() - start,
            ),
            model_sha256=fingerprint(self._packed),
        )
        averaged_model = {"round": number, "sha256": record.model_sha256}
        self.folder.log.record(AuditEvent(event="averaged", details=averaged_model))
        self.folder.write_round(record)
        self._progress.note(record)
        self._keep_best()
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

    def _across(self, found: Collected) -> Validation:
        """Return the hospitals' mean AUC; one that lies must not choose the best model alone."""
        return across(found.validations, equal=not self._plan.strategy.believes_claims)

    def _pooled(self, found: Collected, number: int) -> Pooled | None:
        """Keep the hospitals' histograms; return the AUC of all their films together."""
        write_histograms(self.folder.path, number, found.histograms)
        summed = total(found.histograms.values())
        return pooled(summed) if summed else None

    def _keep_best(self) -> None:
        """Copy the model that the hospitals scored best so far, while it is among the last few."""
        best = self._progress.best
        if best is None or best[1] == self._kept:
            return
        if self.folder.checkpoint(best[1]).exists():
            self.folder.copy_checkpoint(best[1], "best.pt")
        self._kept = best[1]

    def _closing_evaluation(self) -> tuple[Collected, Validation, Pooled | None]:
        """Let the hospitals score the final model; no further round would."""
        log.info("the hospitals score the final model")
        last = self._progress.round
        out = self._outgoing(last + 1, 1, "evaluate")
        self._hospitals.wait_for_return(self.asked, RECONNECT_GRACE_SECONDS)
        found = self._evaluate(out, "final", last)
        validation = self._across(found)
        of_all = self._pooled(found, last + 1)
        self._progress.choice.note(last, validation.auc, of_all)
        self._keep_best()
        log.info(
            "final model: validation AUC %s over %d hospitals, %s over all their films",
            rounded(validation.auc),
            len(found.validations),
            rounded(of_all.auc if of_all else None),
        )
        return found, validation, of_all

    def _share_best(self, final: Collected) -> None:
        """Give the hospitals the best model too, if it is shared and not the final one.

        Their scores of it are known since the round after it, and change nothing.
        """
        plan, best, last = self._plan, self._progress.best, self._progress.round
        if not plan.share_model or best is None or best[1] == last:
            return
        if (state := best_model(self.folder, best[1], plan.architecture)) is None:
            return
        out = self._outgoing(last + 1, 2, "evaluate")
        self._hospitals.wait_for_return(final.validations, RECONNECT_GRACE_SECONDS)
        self._evaluate(replace(out, state=state, packed=pack(state)), "best", best[1])

    def _evaluate(self, out: Round, model: Literal["final", "best"], number: int) -> Collected:
        """Let the hospitals score a model, and keep it if it is shared."""
        plan = self._plan
        if plan.share_model:
            out = to_keep(out, model, number, plan.strategy.strategy)
        last = self._progress.round
        self.folder.live.begin(out.instruction.identity, "closing", last, plan.needed)
        attempt = Attempt(self._hospitals, self.folder, out)
        self.asked |= set(attempt.collected.asked)
        found = attempt.collect(plan.round_timeout)
        if plan.share_model:
            log.info(
                "%s model: kept by %d of %d hospitals", model, len(found.kept), len(found.asked)
            )
        return found
