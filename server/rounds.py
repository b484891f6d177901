"""The round loop: ask the hospitals, check what they return, average it, keep it, repeat."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Literal

from common.checkpoint import Provenance
from common.errors import NoQuorum
from common.evaluation import Scores
from common.model import Architecture, Mode
from common.protocol import Identity, Instruction
from common.wire import State, backbone_of, fingerprint, head_of, pack, spec_of
from server import console
from server.aggregation import FedAvg
from server.checks import Rejected, check_reply, check_weights, update_norm
from server.history import across, hospital_entry, mean_loss
from server.run_folder import RunFolder
from server.sites import Errand, Outcome, Site, SiteLost, Sites, ask_all

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often a round is tried before the run stops for want of a quorum."""


@dataclass(frozen=True)
class Plan:
    """How a run is to go; see the options of ``flower-server``."""

    run: str
    architecture: Architecture
    mode: Mode
    rounds: int
    min_clients: int
    quorum: float
    round_timeout: float
    lr: float
    momentum: float
    batch_size: int
    local_epochs: int
    label_fraction: float
    seed: int

    @property
    def needed(self) -> int:
        """How many hospitals must be averaged for a round to count."""
        return max(1, math.ceil(self.quorum * self.min_clients))


@dataclass
class Collected:
    """What came back in one attempt at a round."""

    asked: int
    hospitals: dict[str, dict[str, Any]] = field(default_factory=dict)
    validations: dict[str, Scores] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


class Rounds:
    """Runs the rounds of one run.

    Args:
        plan: How the run is to go.
        sites: The hospitals.
        folder: Where everything is written.
        state: The first global model.
        provenance: Of the run's models; its ``start`` is where the first one comes from.
        test: Scores a state on the test shard; None: there is none.
    """

    def __init__(
        self,
        plan: Plan,
        sites: Sites,
        folder: RunFolder,
        state: State,
        provenance: Provenance,
        test: Callable[[State], Scores] | None,
    ) -> None:
        self._plan = plan
        self._sites = sites
        self._folder = folder
        self._set_state(state)
        self._provenance = provenance
        self._test = test
        self._known: set[str] = set()
        self._backbone = fingerprint(pack(backbone_of(state)))
        self._best: tuple[float, int] | None = None

    def run(self) -> dict[str, Any]:
        """Run all rounds and a closing evaluation; return what belongs into ``status.json``.

        Raises:
            NoQuorum: Too few hospitals came, or too few answered well.
        """
        plan = self._plan
        if (origin := self._provenance.start) is not None:
            log.info("initial model: %s: %s", self._provenance.init, origin.describe())
        if self._test is not None:
            scores = self._test(self._state)
            log.info("initial model: test AUC %s", console.number(scores.auc))
            self._folder.write_event("initial model", test=scores.model_dump())
        log.info("waiting for %d hospitals", plan.min_clients)
        self._wait_for(plan.min_clients)
        for number in range(1, plan.rounds + 1):
            self._round(number)
        validation = self._closing_evaluation()
        self._folder.copy_checkpoint(plan.rounds, "final.pt")
        best = self._best[1] if self._best else plan.rounds
        if self._best is None:
            self._folder.copy_checkpoint(best, "best.pt")
        return {"rounds": plan.rounds, "best_round": best, "validation": validation}

    def _wait_for(self, count: int) -> None:
        deadline = monotonic() + self._plan.round_timeout
        while not self._sites.wait_for(count, min(10.0, max(0.0, deadline - monotonic()))):
            names = ", ".join(self._sites.present()) or "none"
            if monotonic() >= deadline:
                raise NoQuorum(
                    f"{count} hospitals are needed, and after {self._plan.round_timeout:.0f} s "
                    f"there are: {names}; start more clients or lower --min-clients or --quorum"
                )
            log.info("waiting for %d hospitals; there are: %s", count, names)

    def _round(self, number: int) -> None:
        plan = self._plan
        for attempt in range(1, ATTEMPTS + 1):
            self._wait_for(plan.needed)
            start = monotonic()
            average = FedAvg(self._trained(self._state))
            log.info("round %d of %d", number, plan.rounds)
            log.info(console.HEADER)
            collected = self._collect(number, attempt, "train", average)
            if len(collected.hospitals) >= plan.needed:
                self._finish_round(number, attempt, start, collected, average)
                return
            log.warning(
                "round %d: only %d of the %d hospitals that are needed; the round is repeated",
                number,
                len(collected.hospitals),
                plan.needed,
            )
        raise NoQuorum(
            f"round {number}: fewer than {plan.needed} good replies in {ATTEMPTS} attempts; "
            f"see rejected and missing in {self._folder.path / 'events.jsonl'}"
        )

    def _collect(
        self, number: int, attempt: int, task: Literal["train", "evaluate"], average: FedAvg | None
    ) -> Collected:
        """Ask everybody who is there and take in what comes back, reply by reply."""
        cohort = self._sites.present()
        self._known |= set(cohort)
        errands = self._errands(cohort, number, attempt, task)
        collected = Collected(asked=len(cohort))
        for outcome in ask_all(errands, self._plan.round_timeout):
            errand = errands[outcome.name]
            try:
                self._take_in(outcome, errand, collected, average)
            except (Rejected, SiteLost) as reason:
                errand.site.backbone = None
                kind = "rejected" if isinstance(reason, Rejected) else "lost"
                log.warning("  %-20s %s: %s", outcome.name, kind, reason)
                self._folder.write_event(
                    kind, site=outcome.name, round=number, attempt=attempt, reason=str(reason)
                )
                if isinstance(reason, Rejected):
                    collected.rejected[outcome.name] = str(reason)
        answered = collected.validations.keys() | collected.rejected.keys()
        collected.missing = sorted(self._known - answered)
        return collected

    def _errands(
        self, cohort: dict[str, Site], number: int, attempt: int, task: Literal["train", "evaluate"]
    ) -> dict[str, Errand]:
        """Return what each hospital is asked; who holds the frozen backbone gets the head alone."""
        plan = self._plan
        instruction = Instruction(
            identity=Identity(run=plan.run, round=number, attempt=attempt),
            task=task,
            weights="all",
            architecture=plan.architecture,
            mode=plan.mode,
            lr=plan.lr,
            momentum=plan.momentum,
            batch_size=plan.batch_size,
            local_epochs=plan.local_epochs,
            label_fraction=plan.label_fraction,
            seed=plan.seed,
        )
        with_head = instruction.model_copy(update={"weights": "head"})
        everything, head = self._packed, pack(head_of(self._state))
        return {
            name: Errand(site, with_head, head)
            if plan.mode == "linear" and site.backbone == self._backbone
            else Errand(site, instruction, everything)
            for name, site in cohort.items()
        }

    def _take_in(
        self, outcome: Outcome, errand: Errand, collected: Collected, average: FedAvg | None
    ) -> None:
        """Check one reply, add its weights to the average and note the hospital's part.

        Raises:
            Rejected: It is not good enough.
            SiteLost: There is no reply.
        """
        if isinstance(outcome.answer, SiteLost):
            raise outcome.answer
        reply, blob = outcome.answer
        check_reply(reply, errand.site.hello, errand.instruction)
        if self._plan.mode == "linear":
            errand.site.backbone = self._backbone
        if average is not None:
            before = self._trained(self._state)
            state = check_weights(reply, blob, spec_of(before))
            try:
                average.add(state, reply.examples)
            except ValueError as error:
                raise Rejected(str(error)) from None
            norm = update_norm(before, state)
            entry = hospital_entry(reply, outcome.seconds, len(errand.blob), len(blob), norm)
            collected.hospitals[outcome.name] = entry
            log.info(console.hospital_row(outcome.name, entry))
        if reply.validation is not None:
            collected.validations[outcome.name] = reply.validation

    def _set_state(self, state: State) -> None:
        self._state = state
        self._packed = pack(state)

    def _trained(self, state: State) -> State:
        """Return the part of a state that hospitals train and return."""
        return head_of(state) if self._plan.mode == "linear" else state

    def _finish_round(
        self, number: int, attempt: int, start: float, collected: Collected, average: FedAvg
    ) -> None:
        """Average, save, test and write the round's line."""
        replied = monotonic()
        validation = across(collected.validations)
        self._note_validation(number - 1, validation["auc"])
        self._set_state({**self._state, **average.mean()})
        averaged = monotonic()
        provenance = self._provenance.model_copy(update={"round": number})
        self._folder.write_checkpoint(number, self._state, self._plan.architecture, provenance)
        saved = monotonic()
        test = self._test(self._state) if self._test is not None else None
        hospitals = dict(sorted(collected.hospitals.items()))
        line: dict[str, Any] = {
            "round": number,
            "attempt": attempt,
            "auc": validation["auc"],
            "auc_by_finding": validation["auc_by_finding"],
            "loss": mean_loss(hospitals),
            "test": test.model_dump() if test is not None else None,
            "hospitals": hospitals,
            "rejected": collected.rejected,
            "missing": collected.missing,
            "seconds": {
                "hospitals": replied - start,
                "average": averaged - replied,
                "save": saved - averaged,
                "test": monotonic() - saved,
                "total": monotonic() - start,
            },
            "model_sha256": fingerprint(self._packed),
        }
        self._folder.write_round(line)
        self._folder.write_status("running", round=number, rounds=self._plan.rounds)
        log.info(console.summary(line, self._plan.rounds, collected.asked))
        if test is not None and number == self._plan.rounds:
            for row in console.findings_table({"test AUC": test.auc_by_finding}):
                log.info(row)

    def _note_validation(self, number: int, auc: float | None) -> None:
        """Keep the model of a round as ``best.pt`` if the hospitals scored it best so far."""
        if number and auc is not None and (self._best is None or auc > self._best[0]):
            self._best = (auc, number)
            self._folder.copy_checkpoint(number, "best.pt")

    def _closing_evaluation(self) -> dict[str, Any]:
        """Let the hospitals score the final model, which no further round would do."""
        log.info("the hospitals score the final model")
        collected = self._collect(self._plan.rounds + 1, 1, "evaluate", None)
        validation = across(collected.validations)
        self._note_validation(self._plan.rounds, validation["auc"])
        log.info(
            "final model: validation AUC %s over %d hospitals",
            console.number(validation["auc"]),
            len(collected.validations),
        )
        return validation
