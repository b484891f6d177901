"""A run line by line, as things change: for logs, pipes and terminals that cannot be redrawn."""

from collections.abc import Iterator

from common.scores import rounded
from server.run.console import in_rounds
from server.run.forecast import in_words
from server.run.snapshot import ModelAuc, RoundSummary, Snapshot
from server.watch.view import PHASES, time_left

TROUBLE = ("late", "rejected", "gone")


def changes(before: Snapshot | None, now: Snapshot) -> Iterator[str]:
    """Yield a line for each thing that has changed.

    Args:
        before: The run as it was, or an earlier one; None: nothing has been said of any.
        now: The run as it is.
    """
    if before is not None and before.run != now.run:
        before = None  # another one, at the same address
    if before is None:
        where = f"{len(now.history)} of {now.rounds} rounds are done"
        yield f"run {now.run}, {now.architecture}, {now.strategy}: {now.state}, {where}"
    for summary in now.history[len(before.history) if before else len(now.history) :]:
        yield _round_line(now, summary)
    yield from _live_changes(before, now)
    if before is not None and before.state != now.state and now.live is None:
        yield _end(now)


def _round_line(run: Snapshot, summary: RoundSummary) -> str:
    model = run.models[summary.round - 1]
    left = time_left(run)
    parts = [
        f"round {summary.round} of {run.rounds}: {summary.hospitals} hospitals in "
        f"{in_words(summary.seconds)}: loss {rounded(summary.loss)}, {_auc(model)} before it",
        f"best so far: round {run.best_round}" if run.best_round is not None else "",
        f"about {in_words(left)} left" if left else "",
        *(f"{name} {in_rounds(count)} behind" for name, count in sorted(summary.stale.items())),
        f"{', '.join(summary.busy)} still busy" if summary.busy else "",
        f"no reply of {', '.join(summary.missing)}" if summary.missing else "",
        *(f"{name} rejected: {reason}" for name, reason in sorted(summary.rejected.items())),
    ]
    return "; ".join(filter(None, parts))


def _auc(model: ModelAuc) -> str:
    if model.pooled is not None:
        return f"pooled AUC {rounded(model.pooled)}"
    return f"mean AUC {rounded(model.mean)}"


def _live_changes(before: Snapshot | None, now: Snapshot) -> Iterator[str]:
    if (live := now.live) is None:
        return
    old = before.live if before else None
    phase = (live.round, live.attempt, live.phase)
    if live.phase in ("waiting", "hospitals", "closing") and (
        old is None or (old.round, old.attempt, old.phase) != phase
    ):
        again = f", attempt {live.attempt}" if live.attempt > 1 else ""
        which = f"round {live.round}{again}: " if live.phase == "hospitals" else ""
        yield f"{which}{PHASES[live.phase]}"
    for name, hospital in sorted(live.hospitals.items()):
        known = old.hospitals.get(name) if old else None
        doing, was = hospital.doing, known.doing if known else None
        if doing in TROUBLE and doing != was:
            yield f"{name} {doing}{f': {hospital.reason}' if hospital.reason else ''}"
        elif was == "gone" and doing != was:
            yield f"{name} is back"


def _end(run: Snapshot) -> str:
    reason = f": {run.reason}" if run.reason else ""
    last = f", {_auc(run.models[-1])}" if run.models else ""
    return f"{run.state}{reason}; {len(run.history)} of {run.rounds} rounds{last}"
