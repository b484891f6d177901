"""Scores models one after another: asks all hospitals, checks what they tell, keeps it."""

import logging
from collections.abc import Callable, Sequence
from time import monotonic

from common.errors import NoQuorum
from common.histograms import Histograms
from common.message import Identity
from common.options import Training
from common.protocol import Instruction
from common.readings import FindingAuc, aucs_of
from common.scores import Scores, rounded
from common.state import State
from server.evaluate.models import Model
from server.evaluate.records import HospitalScores, ScoredModel, read_scored, write_scored
from server.rounds.ask import Hospitals, Weights
from server.rounds.attempt import Attempt
from server.rounds.collected import Collected
from server.rounds.errands import Round
from server.rounds.plan import Plan
from server.rounds.waiting import RECONNECT_GRACE_SECONDS, RETURN_SECONDS, Waiting
from server.run.events import Repeated
from server.run.folder import RunFolder
from server.run.histograms import keep_pooled
from server.run.records import RunState, RunStatus

log = logging.getLogger(__name__)

TRAINING = Training(mode="linear")
"""Stands in every instruction and in the greeting, though nothing is trained: in this mode no
hospital is turned away for the size of its batches."""


class Scoring:
    """Scores the models that have no line yet.

    Args:
        plan: Whom to wait for, and how long; a model is a round.
        hospitals: Those that are connected.
        folder: Where everything is written.
        models: All of them, in their order.
        test: Scores a state on the test shard; None: there is none.

    Attributes:
        asked: Hospitals that have scored a model, or were asked to.
    """

    def __init__(
        self,
        plan: Plan,
        hospitals: Hospitals,
        folder: RunFolder,
        models: Sequence[Model],
        test: Callable[[State], Scores] | None,
    ) -> None:
        self._plan = plan
        self._hospitals = hospitals
        self._folder = folder
        self._models = models
        self._test = test
        self._done = read_scored(folder.path)
        self._waiting = Waiting(plan, hospitals, folder.exclusions, self._write_status)
        self.asked = {name for scored in self._done for name in scored.asked}

    def run(self) -> list[ScoredModel]:
        """Score the models; return what came of all of them, in their order.

        Raises:
            NoQuorum: Too few hospitals came, or too few answered well.
            OSError: A file cannot be written; what was written before is whole.
        """
        done = len(self._done)
        if done < len(self._models):
            patience = RETURN_SECONDS if done else self._plan.round_timeout
            self._waiting.gather(patience, enough=bool(done))
        for number in range(done + 1, len(self._models) + 1):
            scored = self._score(number)
            write_scored(self._folder.path, scored)
            self._done.append(scored)
            self._write_status("running")
        return self._done

    def _write_status(self, state: RunState, **fields: int) -> None:
        done, models = len(self._done), len(self._models)
        self._folder.status.write(RunStatus(state=state, round=done, rounds=models, **fields))

    def _score(self, number: int) -> ScoredModel:
        plan, model = self._plan, self._models[number - 1]
        log.info("model %d of %d: %s", number, len(self._models), model.file)
        for turn in range(1, plan.attempts + 1):
            if not self._waiting.wait_for(plan.needed, plan.round_timeout):
                self._waiting.give_up(plan.needed)
            self._hospitals.wait_for_return(self.asked, RECONNECT_GRACE_SECONDS)
            start = monotonic()
            found = self._ask(number, turn, model)
            good = sorted(found.answered)
            if len(good) >= plan.needed:
                return self._keep(number, model, found, monotonic() - start)
            self._folder.log.record(
                Repeated(round=number, attempt=turn, hospitals=good, rejected=[])
            )
            log.warning(
                "model %d: only %d of the %d hospitals that are needed",
                number,
                len(good),
                plan.needed,
            )
        raise NoQuorum(
            f"{model.file}: fewer than {plan.needed} hospitals scored it in {plan.attempts} "
            f"attempts; see rejected and lost in {self._folder.path / 'events.jsonl'}; --resume "
            "goes on"
        )

    def _ask(self, number: int, turn: int, model: Model) -> Collected:
        plan = self._plan
        instruction = Instruction(
            identity=Identity(run=plan.run, round=number, attempt=turn),
            task="evaluate",
            weights="all",
            architecture=plan.architecture,
            training=plan.training,
            seed=plan.seed,
            seconds=plan.round_timeout,
        )
        out = Round(instruction, model.state, Weights(model.packed), None, 0, {})
        attempt = Attempt(self._hospitals, self._folder, out)
        self.asked |= set(attempt.collected.asked)
        return attempt.collect(plan.round_timeout)

    def _keep(self, number: int, model: Model, found: Collected, seconds: float) -> ScoredModel:
        """Write the histograms; return the model's line."""
        of_all = keep_pooled(self._folder.path, number, found.histograms)
        scored = ScoredModel(
            number=number,
            file=str(model.file),
            origin=model.provenance.describe(),
            sha256=model.sha256,
            hospitals={
                name: HospitalScores(scores=scores, findings=_findings(found.histograms.get(name)))
                for name, scores in sorted(found.validations.items())
            },
            rejected=found.rejected,
            withheld=sorted(found.answered - found.validations.keys()),
            missing=sorted(self.asked - found.answered - found.rejected.keys()),
            pooled=of_all,
            test=self._test(model.state) if self._test is not None else None,
        )
        log.info(
            "model %d of %d: scored by %d of %d hospitals in %.1f s: AUC of all their films %s",
            number,
            len(self._models),
            len(scored.hospitals),
            len(self.asked),
            seconds,
            rounded(of_all.auc if of_all else None),
        )
        return scored


def _findings(histograms: Histograms | None) -> dict[str, FindingAuc] | None:
    return None if histograms is None else aucs_of(histograms)
