"""What happens after the last round: the final model is scored, and the models may be shared."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from common.accounting import Privacy
from common.checkpoint import write_checkpoint
from common.provenance import Provenance
from common.readings import Pooled
from common.runtime.logs import FOR_PEOPLE
from common.scores import Scores, rounded
from common.state import State
from common.wire import pack
from server.rounds.ask import Hospitals, Weights
from server.rounds.attempt import Attempt
from server.rounds.average import MovingAverage
from server.rounds.best import BestCopy
from server.rounds.cohort import Cohort
from server.rounds.collected import Collected
from server.rounds.errands import Round
from server.rounds.outgoing import GlobalModel
from server.rounds.plan import Plan
from server.rounds.progress import Progress, across
from server.rounds.sharing import best_model, shared_mean, to_keep
from server.rounds.spending import privacy_of
from server.rounds.underway import UnderWay
from server.rounds.waiting import RECONNECT_GRACE_SECONDS
from server.run import console
from server.run.events import FinalModel
from server.run.folder import RunFolder
from server.run.histograms import keep_pooled, pooled_of
from server.run.left_out import left_out
from server.run.records import AverageScores, Result, Validation

log = logging.getLogger(__name__)


@dataclass
class Closing:
    """Ends a run whose rounds are done.

    Attributes:
        plan: How the run is to go.
        hospitals: Those that are connected.
        folder: Where everything is written.
        progress: Of the run.
        model: The final one.
        best: Keeps the best one.
        under_way: Errands of the rounds that still go on; None: none do.
        asked: Hospitals that were asked last; those that are asked here are added.
        test: Scores a state on the test shard; None: there is none.
        average: Of the models; None: there is none.
        provenance: Of the run's models.
    """

    plan: Plan
    hospitals: Hospitals
    folder: RunFolder
    progress: Progress
    model: GlobalModel
    best: BestCopy
    under_way: UnderWay | None
    asked: set[str]
    test: Callable[[State], Scores] | None
    average: MovingAverage | None
    provenance: Provenance

    def run(self, reason: str | None) -> Result:
        """Let the hospitals score the final model, share the models and write the last ones.

        Args:
            reason: Why no further round is worth it; None: all rounds are done.

        Raises:
            OSError: A file cannot be written.
        """
        plan, progress, last = self.plan, self.progress, self.progress.round
        self._say_test_scores()
        too_late = self._let_finish()
        found, validation, of_all = self._score_final()
        self._share_best(found)
        of_average = self._score_average(found)
        self._write_models()
        self._say_left_out(too_late)
        return Result(
            round=last,
            rounds=plan.rounds,
            reason=reason,
            best_round=progress.best[1] if progress.best else last,
            best_by=progress.choice.by if progress.best else None,
            validation=validation,
            pooled=of_all,
            shared=shared_mean(found.validations) if plan.share_model else None,
            ema=of_average,
        )

    def _say_test_scores(self) -> None:
        if (test := self.folder.rounds()[-1].test) is not None:
            for row in console.findings_table({"test AUC": test.auc_by_finding}):
                log.info(row, extra=FOR_PEOPLE)

    def _let_finish(self) -> str:
        """Wait for hospitals that still train, whose replies come too late to count; name them."""
        if self.under_way is None or not (errands := self.under_way.errands):
            return ""
        names = ", ".join(sorted(errands))
        log.info("waiting for %s to finish; this training comes too late to count", names)
        last = self.progress.round
        out = self.model.to_score(last + 1, 1, self.progress)
        busy = {name: errand.instruction.identity for name, errand in errands.items()}
        identity, needed = out.instruction.identity, self.plan.needed
        self.folder.live.begin(identity, "closing", last, needed, busy)
        nobody = Cohort({}, {})
        rest = Attempt(self.hospitals, self.folder, out, None, nobody, self.under_way)
        rest.collect(0)
        return names

    def _score_final(self) -> tuple[Collected, Validation, Pooled | None]:
        """Let the hospitals score the final model; no further round would."""
        log.info("the hospitals score the final model")
        last = self.progress.round
        out = self.model.to_score(last + 1, 1, self.progress)
        self.hospitals.wait_for_return(self.asked, RECONNECT_GRACE_SECONDS)
        found = self._evaluate(out, "final", last)
        validation = across(found.validations, not self.plan.strategy.believes_claims)
        of_all = keep_pooled(self.folder.path, last + 1, found.histograms)
        final = FinalModel(round=last, auc=validation.auc, pooled=of_all)
        if len(found.answered) < self.plan.needed:
            # So few hospitals' AUC is not to be compared with that of all.
            log.warning(
                "the final model is scored by %d hospitals, and a round needs %d: it is not "
                "compared with the best one",
                len(found.answered),
                self.plan.needed,
            )
            final = FinalModel(round=last, auc=None, pooled=None)
        self.folder.log.record(final)  # before best.pt follows it
        self.progress.note_final(final)
        self.best.update()
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
        plan, best, last = self.plan, self.progress.best, self.progress.round
        if not plan.share_model or not plan.one_model or best is None or best[1] == last:
            return
        if (state := best_model(self.folder, best[1], plan.architecture)) is None:
            return
        out = self.model.to_score(last + 1, 2, self.progress)
        self.hospitals.wait_for_return(final.validations, RECONNECT_GRACE_SECONDS)
        self._evaluate(replace(out, state=state, packed=Weights(pack(state))), "best", best[1])

    def _evaluate(self, out: Round, model: Literal["final", "best"], number: int) -> Collected:
        """Let the hospitals score a model, and keep it if it is shared."""
        plan = self.plan
        if plan.share_model:
            privacy = self._privacy_after(number)
            out = to_keep(out, model, number, plan.strategy.strategy, privacy)
        found = self._collect(out)
        if plan.share_model:
            log.info(
                "%s model: kept by %d of %d hospitals", model, len(found.kept), len(found.asked)
            )
        return found

    def _collect(self, out: Round) -> Collected:
        last, plan = self.progress.round, self.plan
        self.folder.live.begin(out.instruction.identity, "closing", last, plan.needed)
        attempt = Attempt(self.hospitals, self.folder, out)
        self.asked.update(attempt.collected.asked)
        return attempt.collect(plan.round_timeout)

    def _score_average(self, final: Collected) -> AverageScores | None:
        """Write the moving average of the models, if there is one, and let all score it."""
        if (average := self.average) is None:
            return None
        last = self.progress.round
        told = {"round": last, "ema": average.decay, "privacy": self._privacy_after(last)}
        provenance = self.provenance.model_copy(update=told)
        file = self.folder.path / "ema.pt"
        write_checkpoint(file, average.state, self.plan.architecture, provenance)
        log.info("the hospitals score the moving average of the models")
        out = self.model.to_score(last + 1, 3, self.progress)
        self.hospitals.wait_for_return(final.validations, RECONNECT_GRACE_SECONDS)
        found = self._collect(
            replace(out, state=average.state, packed=Weights(pack(average.state)))
        )
        scores = AverageScores(
            test=self.test(average.state) if self.test is not None else None,
            validation=across(found.validations, not self.plan.strategy.believes_claims),
            pooled=pooled_of(found.histograms),
        )
        log.info(
            "moving average: validation AUC %s over %d hospitals, %s over all their films%s",
            rounded(scores.validation.auc),
            len(found.validations),
            rounded(scores.pooled.auc if scores.pooled else None),
            f"; test AUC {rounded(scores.test.auc)}" if scores.test else "",
        )
        return scores

    def _privacy_after(self, number: int) -> Privacy | None:
        """Return what the models of the first rounds promise together; None: nothing."""
        return privacy_of(self.folder.rounds()[:number], (), self.plan.training)

    def _write_models(self) -> None:
        """Write ``final.pt``, and ``best.pt`` if no score has chosen it."""
        last, best = self.progress.round, self.progress.best
        if not self.plan.one_model:
            shared = self.plan.training.shared
            log.warning(
                "there is no single model, and so no final.pt: with --shared %s each hospital has "
                "the rest of its own model in its --state",
                shared,
            )
            return
        self.folder.copy_checkpoint(last, "final.pt")
        if best is None:
            self.folder.copy_checkpoint(last, "best.pt")
            return
        by = self.progress.choice.by
        log.info("best model: of round %d, %s validation AUC %s", best[1], by, rounded(best[0]))

    def _say_left_out(self, too_late: str) -> None:
        last = self.progress.round
        if lost := left_out(self.folder.rounds(), self.folder.events()):
            what = "; ".join(f"{name}: {why}" for name, why in lost.items())
            log.warning("%d rounds are done; not every hospital counts: %s", last, what)
        else:
            but = f" but the last one of {too_late}" if too_late else ""
            log.info("%d rounds are done; every reply counts%s", last, but)
