"""The canary: before hours are spent, what a few batches from each hospital show of a run."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from time import monotonic

from common.errors import NoQuorum
from common.evaluation import EVALUATION_BATCH
from common.protocol import Hello
from common.runtime.logs import FOR_PEOPLE, fields
from common.scores import rounded
from common.state import spec_of
from server.rounds.ask import Hospitals
from server.rounds.attempt import Attempt
from server.rounds.collected import Collected
from server.rounds.errands import Round
from server.rounds.plan import Plan
from server.run.events import CanaryHospital, CanaryRound
from server.run.folder import RunFolder
from server.run.forecast import in_words
from server.run.records import HospitalRecord

log = logging.getLogger(__name__)

BATCHES = 3
"""That each hospital trains on and scores."""

CANARY_SECONDS = 900.0
"""How long it may take; a DenseNet-121 travels both ways in 452 s at 1 Mbit/s."""

HEADER = "  hospital              images   loss   s/batch  MB in  MB out  GB used    a round"


def ask(plan: Plan, hospitals: Hospitals, folder: RunFolder, out: Round) -> CanaryRound:
    """Let each hospital train on a few batches; return what that has shown.

    Args:
        plan: The run's.
        hospitals: Those that are connected.
        folder: The run's.
        out: What would go out for a round.
    """
    start = monotonic()
    log.info("canary: each hospital trains on %d batches", BATCHES)
    patience = min(plan.round_timeout, CANARY_SECONDS)
    few = {"batches": BATCHES, "seconds": patience}
    out = replace(out, instruction=out.instruction.model_copy(update=few))
    folder.live.begin(out.instruction.identity, "hospitals", 0, plan.needed)
    spool = folder.spool(spec_of(out.trained))
    attempt = Attempt(hospitals, folder, out, spool)
    found = attempt.collect(patience)
    return canary_round(plan, found, attempt.hellos, monotonic() - start)


def canary_round(
    plan: Plan, found: Collected, hellos: Mapping[str, Hello], answered: float
) -> CanaryRound:
    """Return what a canary has shown, with how long a round and the run will take.

    Args:
        plan: The run's.
        found: What the hospitals answered.
        hellos: What they had said of themselves, by name.
        answered: Seconds that the canary took.
    """
    hospitals = {}
    for name in sorted(found.asked):
        record = found.hospitals.get(name)
        if record is None:
            reason = found.rejected.get(name) or found.lost.get(name, "no reply")
            hospitals[name] = CanaryHospital(ok=False, reason=reason)
            continue
        assert record.examples is not None  # noqa: S101 - there is no canary of secure sums
        hospitals[name] = CanaryHospital(
            ok=True,
            examples=record.examples,
            loss=record.loss,
            batch_seconds=record.seconds.train / plan.training.steps(record.examples),
            bytes=record.bytes,
            memory=found.memory.get(name),
            round_seconds=round_seconds(plan, record, hellos[name]),
        )
    longest = [each.round_seconds for each in hospitals.values() if each.round_seconds is not None]
    whole = max(longest, default=None)
    return CanaryRound(
        needed=plan.needed,
        seconds=answered,
        hospitals=hospitals,
        round_seconds=whole,
        run_seconds=None if whole is None else whole * plan.rounds,
    )


def round_seconds(plan: Plan, record: HospitalRecord, hello: Hello) -> float:
    """Return how long a round will take at a hospital, by what a canary took there.

    Travelling takes as long as it did, training and scoring in proportion to the films, and waiting
    for a slot of a shared machine in proportion to these two.

    Args:
        plan: The run's.
        record: Of the canary.
        hello: How many films the hospital has.
    """
    seconds = record.seconds
    assert record.examples is not None  # noqa: S101 - there is no canary of secure sums
    labelled = max(record.examples, round(plan.training.label_fraction * hello.examples))
    train = seconds.train * labelled / record.examples
    scored = min(hello.validation, BATCHES * EVALUATION_BATCH)
    evaluate = seconds.evaluate * hello.validation / scored if scored else 0.0
    worked = seconds.train + seconds.evaluate
    waited = seconds.wait / worked if worked else 0.0
    return seconds.receive + (train + evaluate) * (1 + waited) + seconds.send


def say(plan: Plan, canary: CanaryRound) -> None:
    """Log what a canary has shown: a row for each hospital, and the time that the run will take.

    Raises:
        NoQuorum: Too few hospitals are fine for a round to count; names what each of the others
            failed for.
    """
    log.info(HEADER, extra=FOR_PEOPLE)
    for name, each in canary.hospitals.items():
        if each.ok:
            log.info(_row(name, each), extra=FOR_PEOPLE)
    failed = {name: each.reason for name, each in canary.hospitals.items() if not each.ok}
    fine = len(canary.hospitals) - len(failed)
    if fine < plan.needed:
        why = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise NoQuorum(
            f"canary: {fine} of {len(canary.hospitals)} hospitals are fine, {plan.needed} are "
            f"needed; {why}; mend this and go on with --resume"
        )
    assert canary.round_seconds is not None  # noqa: S101 - a hospital is fine
    assert canary.run_seconds is not None  # noqa: S101 - the same
    log.info(
        "canary: %d of %d hospitals are fine after %.1f s; a round will take about %s, the run %s",
        fine,
        len(canary.hospitals),
        canary.seconds,
        in_words(canary.round_seconds),
        in_words(canary.run_seconds),
        extra=fields("canary", **canary.fields()),
    )


def _row(name: str, each: CanaryHospital) -> str:
    memory = None if each.memory is None else each.memory / 1e9
    size, took = each.bytes, each.round_seconds
    assert size is not None  # noqa: S101 - it is fine
    assert took is not None  # noqa: S101 - the same
    return (
        f"  {name:<20} {each.examples:>7} {rounded(each.loss):>6} {rounded(each.batch_seconds):>9} "
        f"{size.received / 1e6:>6.1f} {size.sent / 1e6:>7.1f} {rounded(memory, 1):>8} "
        f"{in_words(took):>10}"
    )
