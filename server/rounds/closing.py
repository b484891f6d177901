"""What happens after the last round: the final model is scored, and the models may be shared."""

import logging
from dataclasses import replace
from typing import Literal

from common.readings import Pooled
from common.runtime.logs import FOR_PEOPLE
from common.scores import rounded
from common.wire import pack
from server.rounds.ask import Hospitals
from server.rounds.attempt import Attempt, Collected, Round
from server.rounds.best import BestCopy
from server.rounds.outgoing import GlobalModel
from server.rounds.plan import Plan
from server.rounds.progress import Progress, across
from server.rounds.sharing import best_model, shared_mean, to_keep
from server.rounds.waiting import RECONNECT_GRACE_SECONDS
from server.run import console
from server.run.folder import RunFolder
from server.run.histograms import keep_pooled
from server.run.left_out import left_out
from server.run.records import Result, Validation

log = logging.getLogger(__name__)


class Closing:
    """Ends a run whose rounds are done.

    Args:
        plan: How the run is to go.
        hospitals: Those that are connected.
        folder: Where everything is written.
        progress: Of the run.
        model: The final one.
        best: Keeps the best one.
        equal: Every hospital counts the same in a mean.
        asked: Hospitals that were asked last; those that are asked here are added.
    """

    def __init__(
        self,
        plan: Plan,
        hospitals: Hospitals,
        folder: RunFolder,
        progress: Progress,
        model: GlobalModel,
        best: BestCopy,
        equal: bool,
        asked: set[str],
    ) -> None:
        self._plan = plan
        self._hospitals = hospitals
        self._folder = folder
        self._progress = progress
        self._model = model
        self._best = best
        self._equal = equal
        self._asked = asked

    def run(self, reason: str | None) -> Result:
        """Let the hospitals score the final model, share the models and write the last ones.

        Args:
            reason: Why no further round is worth it; None: all rounds are done.

        Raises:
            OSError: A file cannot be written.
        """
        plan, progress, last = self._plan, self._progress, self._progress.round
        self._say_test_scores()
        found, validation, of_all = self._score_final()
        self._share_best(found)
        self._write_models()
        self._say_left_out()
        return Result(
            round=last,
            rounds=plan.rounds,
            reason=reason,
            best_round=progress.best[1] if progress.best else last,
            best_by=progress.choice.by if progress.best else None,
            validation=validation,
            pooled=of_all,
            shared=shared_mean(found.validations) if plan.share_model else None,
        )

    def _say_test_scores(self) -> None:
        if (test := self._folder.rounds()[-1].test) is not None:
            for row in console.findings_table({"test AUC": test.auc_by_finding}):
                log.info(row, extra=FOR_PEOPLE)

    def _score_final(self) -> tuple[Collected, Validation, Pooled | None]:
        """Let the hospitals score the final model; no further round would."""
        log.info("the hospitals score the final model")
        last = self._progress.round
        out = self._model.to_score(last + 1, 1, self._progress)
        self._hospitals.wait_for_return(self._asked, RECONNECT_GRACE_SECONDS)
        found = self._evaluate(out, "final", last)
        validation = across(found.validations, self._equal)
        of_all = keep_pooled(self._folder.path, last + 1, found.histograms)
        self._progress.choice.note(last, validation.auc, of_all)
        self._best.update()
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
        if not plan.share_model or not plan.one_model or best is None or best[1] == last:
            return
        if (state := best_model(self._folder, best[1], plan.architecture)) is None:
            return
        out = self._model.to_score(last + 1, 2, self._progress)
        self._hospitals.wait_for_return(final.validations, RECONNECT_GRACE_SECONDS)
        self._evaluate(replace(out, state=state, packed=pack(state)), "best", best[1])

    def _evaluate(self, out: Round, model: Literal["final", "best"], number: int) -> Collected:
        """Let the hospitals score a model, and keep it if it is shared."""
        plan = self._plan
        if plan.share_model:
            out = to_keep(out, model, number, plan.strategy.strategy)
        last = self._progress.round
        self._folder.live.begin(out.instruction.identity, "closing", last, plan.needed)
        attempt = Attempt(self._hospitals, self._folder, out)
        self._asked.update(attempt.collected.asked)
        found = attempt.collect(plan.round_timeout)
        if plan.share_model:
            log.info(
                "%s model: kept by %d of %d hospitals", model, len(found.kept), len(found.asked)
            )
        return found

    def _write_models(self) -> None:
        """Write ``final.pt``, and ``best.pt`` if no score has chosen it."""
        last, best = self._progress.round, self._progress.best
        if not self._plan.one_model:
            shared = self._plan.training.shared
            log.warning(
                "there is no single model, and so no final.pt: hospitals share %s, and each has "
                "the rest of its own model in its --state",
                shared,
            )
            return
        self._folder.copy_checkpoint(last, "final.pt")
        if best is None:
            self._folder.copy_checkpoint(last, "best.pt")
            return
        by = self._progress.choice.by
        log.info("best model: of round %d, %s validation AUC %s", best[1], by, rounded(best[0]))

    def _say_left_out(self) -> None:
        last = self._progress.round
        if lost := left_out(self._folder.rounds(), self._folder.events()):
            what = "; ".join(f"{name}: {why}" for name, why in lost.items())
            log.warning("%d rounds are done; not every hospital counts: %s", last, what)
        else:
            log.info("%d rounds are done; every reply counts", last)
