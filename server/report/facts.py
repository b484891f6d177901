"""What a run was: in short, its first model, options and programs, and what it does not say."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.accounting import Origin
from common.differences import mean_interval
from common.document import Items, Table
from common.findings import FINDINGS
from common.scores import rounded
from server.report.painting import UNDEFINED, named, table
from server.report.run import Run
from server.rounds.spending import privacy_of
from server.run.records import ChosenBy
from server.run.run_config import RunConfig

FEW = 20
"""With fewer films with a finding, its AUC and interval are told to be read with care."""

ELSEWHERE = {
    *("run_id", "name", "origin", "versions", "changes", "test_positives"),
    *("run", "listen", "tls", "resume", "change"),
}
"""Fields of the configuration that are shown in another place, or say how to start the server."""


CHOSEN: dict[ChosenBy | None, str] = {
    None: "",
    "pooled": ", by the AUC of all hospitals' validation films",
    "mean": ", by the mean of the hospitals' AUCs",
}
"""What chose the best model."""


def facts_of(run: Run) -> dict[str, str]:
    """Return the run in short, line by line."""
    config, last = run.config, run.last
    test = last.test
    pooled = run.pooled.get(last.round)
    named_so = {"Name": config.name} if config.name else {}
    return {
        **named_so,
        "Run": config.run_id,
        "State": _state(run),
        "Rounds": f"{last.round} of {run.status.rounds or config.rounds}{_best(run)}",
        "Model": f"{config.architecture}, {config.mode}, from {Path(config.init).name}",
        "Hospitals": f"{len(run.hospitals)}; {len(last.hospitals)} counted in the last round",
        "Averaging": f"{config.method}, local epochs {config.local_epochs}, learning rate "
        f"{_rate(config)}, batch {config.batch_size}, {config.label_fraction:.0%} of the labels, "
        f"seed {config.seed}",
        "Mean AUC on the test films": f"{rounded(test.auc)} ({test.images} films)"
        if test
        else "no test films",
        "Mean AUC, validation films of all hospitals": "not recorded"
        if pooled is None
        else _with_ends(pooled.auc, mean_interval(pooled.by_finding)),
        "Mean AUC at the hospitals": rounded(run.validation.auc),
        **_of_average(run),
        **_privacy(run),
    }


def _privacy(run: Run) -> dict[str, str]:
    """Return what differential privacy promises, and what it does not cover."""
    *before, last = run.rounds
    own = (part.privacy for part in last.hospitals.values())
    found = privacy_of(before, [each for each in own if each is not None], run.config)
    if found is None:
        return {}
    limit = Origin.model_validate(run.config.origin or {}).limit()
    words = [found.describe(), f"not covered: {found.uncovered}", *([limit] if limit else [])]
    return {"Privacy": "; ".join(words)}


def _rate(config: RunConfig) -> str:
    schedule = config.schedule_in_words
    return f"{config.lr:g}{f' ({schedule})' if schedule else ''}"


def _of_average(run: Run) -> dict[str, str]:
    """Return how good the moving average of the models is, if there is one."""
    scores = run.status.ema
    if scores is None:
        return {}
    pooled = scores.pooled
    ends = mean_interval(pooled.by_finding) if pooled else None
    texts = {
        "test films": rounded(scores.test.auc) if scores.test else None,
        "validation films of all hospitals": _with_ends(pooled.auc, ends) if pooled else None,
        "mean at the hospitals": rounded(scores.validation.auc),
    }
    told = "; ".join(f"{what} {text}" for what, text in texts.items() if text is not None)
    return {f"Mean AUC of the models' moving average (decay {run.config.ema:g})": told}


def _state(run: Run) -> str:
    why = f": {run.status.reason}" if run.status.reason else ""
    return f"{run.status.state}, {run.status.time[:16].replace('T', ' ')} UTC{why}"


def _best(run: Run) -> str:
    best = run.status.best_round
    return (
        ""
        if best is None
        else f"; the best model is that of round {best}{CHOSEN[run.status.best_by]}"
    )


def _with_ends(value: float | None, ends: tuple[float, float] | None) -> str:
    between = f" ({rounded(ends[0])} to {rounded(ends[1])})" if ends else ""
    return f"{rounded(value)}{between}"


def hospitals_table(run: Run) -> Table:
    """Return what each hospital did: films, rounds, last loss and last own AUC."""
    header = (
        "Hospital|Films|Took part|Missing|Rejected|Last loss|Validation films|Last own AUC|Of round"
    )
    return table(header.split("|"), (list(_hospital(run, name)) for name in run.hospitals))


def _hospital(run: Run, name: str) -> Iterator[str]:
    parts = [record.hospitals[name] for record in run.rounds if name in record.hospitals]
    own = run.own(name)
    number = max((n for n, of in own.items() if of.auc is not None), default=None)
    yield name
    yield rounded(parts[-1].examples, 0) if parts else UNDEFINED
    yield f"{len(parts)} of {len(run.rounds)}"
    yield str(sum(name in record.missing for record in run.rounds))
    yield str(sum(name in record.rejected for record in run.rounds))
    yield rounded(parts[-1].loss if parts else None)
    yield UNDEFINED if number is None else str(own[number].films)
    yield rounded(None if number is None else own[number].auc)
    yield UNDEFINED if number is None else str(number)


def origin_of(run: Run) -> Table:
    """Return where the first model comes from."""
    config = run.config
    rows = [["File or word", Path(config.init).name]]
    if config.init_sha256:
        rows.append(["SHA-256 of the file", config.init_sha256])
    if config.origin is None:
        rows.append(["Origin", "not recorded; the checkpoints of the run tell it"])
    else:
        rows += _flat(config.origin)
    return table(["What", "Value"], rows, texts=True)


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[list[str]]:
    """Yield a row for each value, also of values within values."""
    for name, value in values.items():
        label = f"{before}{name.replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{label}: ")
        elif value is not None:
            yield [label, str(value)]


def options_of(run: Run) -> dict[str, Any]:
    """Return the options that make a run what it is; of files their names, not where they are."""
    values = run.config.model_dump(mode="json", exclude=ELSEWHERE)
    files = {name: Path(values[name]).name for name in ("init", "test") if values.get(name)}
    return values | files


def configuration(run: Run) -> Table:
    """Return what the run was started with, and what was changed since."""
    rows = list(_flat(options_of(run)))
    rows += [
        [f"{change.option}, from round {change.round + 1} on", f"{change.new:g}"]
        for change in run.config.changes
    ]
    return table(["Option", "Value"], rows, texts=True)


def environment(run: Run) -> Table:
    """Return the programs' versions at the server."""
    rows = _flat(run.config.versions) if run.config.versions else [["-", "not recorded"]]
    return table(["Program at the server", "Version"], rows, texts=True)


def cautions(run: Run) -> list[str]:
    """Return what about this very run limits its numbers."""
    found = []
    if run.status.state != "finished":
        found.append(f"The run is not done: {_state(run)}.")
    if run.last.test is None:
        found.append(
            "No test films were given: all numbers are of films of the hospitals that trained, "
            "though none of a patient whose films were trained on."
        )
    if (pooled := run.last_pooled) is None:
        found.append(
            "The hospitals' histograms are not recorded: there are no intervals, ROC curves, "
            "calibration or class shares."
        )
    else:
        few = [
            f"{named(finding)} ({pooled.by_finding[finding].positives})"
            for finding in FINDINGS
            if pooled.by_finding[finding].positives < FEW
        ]
        if few:
            found.append(
                f"Fewer than {FEW} validation films with the finding, so that its AUC says little "
                f"and its interval is too narrow: {', '.join(few)}."
            )
    positives = run.config.test_positives or {}
    if few := [f"{named(f)} ({count})" for f, count in positives.items() if count < FEW]:
        found.append(
            f"Fewer than {FEW} test films with the finding, so that its AUC says little: "
            f"{', '.join(few)}."
        )
    if run.config.architecture == "densenet-tiny":
        found.append("The model is densenet-tiny, which is for tests of everything but learning.")
    return found


LIMITS: Sequence[str] = (
    "An AUC is a ranking of these films. It is neither a rate of errors nor a benefit to patients, "
    "here or elsewhere.",
    "Validation films are of the hospitals that trained, of patients of whom no film was trained "
    "on. Other hospitals' machines, patients and ways to label may give other numbers.",
    "Intervals take films as independent. Films of one patient resemble each other, so they are "
    "somewhat too narrow. They are of 95 %, and not adjusted for the number of findings: one in "
    "twenty misses by chance.",
    "The best round is chosen on the validation films, so its numbers on them are somewhat too "
    "good; only test films that nobody chose by are free of that.",
    "Labels drawn from reports by a program are wrong for a part of the films; nothing here can "
    "show that.",
    "Nothing is said of differences between sexes, ages or groups of patients: no hospital tells "
    "them.",
    "Numbers at a hospital are as the hospital told them; the server cannot see its films.",
    "Made by FedCXR. Not a medical device.",
)


def limits(run: Run) -> Items:
    """Return what the page does not say."""
    return Items([*cautions(run), *LIMITS])
