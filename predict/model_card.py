"""The model card: what a model is, where it comes from, and what it must not be used for.

After Mitchell et al., "Model cards for model reporting", FAT* 2019. It says what the checkpoint and
the run's folder tell, and names what they do not.
"""

from collections.abc import Iterable, Iterator, Mapping

from common.accounting import Origin
from common.findings import FINDINGS
from common.readings import Pooled
from common.scores import Scores
from predict.calibration import Calibration
from predict.metadata import INTENDED_USE, Metadata
from predict.model_file import Model
from predict.run_folder import Round, Validation, average_scores, final_validation, rounds_of

LIMITS = (
    "The labels of public sets such as ChestX-ray14 were drawn from reports by a program and are "
    "wrong for a part of the films.",
    "It knows frontal films of the hospitals that trained it. On films of other machines, of "
    "children, from the side or of other parts of the body, its output means nothing.",
    "It was not tested for differences between sexes, ages or groups of patients.",
    "Weights can carry traces of the films that they were trained on.",
)


def model_card(model: Model, name: str, metadata: Metadata) -> str:
    """Return the card in Markdown.

    Args:
        model: The model.
        name: The exported file's name.
        metadata: What stands in the file beside it.

    Raises:
        BadInput: A file of the run is damaged.
    """
    own, origin = metadata.fedcxr, model.provenance
    lines = [
        f"# Model card: {name}",
        "",
        metadata.description,
        "",
        "**Not a medical device.**",
        "",
        *_section("Intended use", [INTENDED_USE]),
        *_section("The file", _facts(model, name, metadata)),
        *_section("Input and output", [f"- Input: {own.preparation}", f"- Output: {_outputs()}"]),
        *_section("Origin", [f"- {origin.describe()}", *_run(model)]),
        *_section("Hospitals", _hospitals(model)),
        *_section("Metrics", _metrics(model)),
        *_section("Thresholds", _thresholds(own.calibration)),
        *_section("Privacy", _privacy(model)),
        *_section("Limits", [f"- {limit}" for limit in LIMITS]),
    ]
    return "\n".join(lines)


def scores_of(model: Model) -> tuple[Round | None, Validation | None]:
    """Return the round that made a model, and how good the model is at the hospitals.

    A round's own AUC at the hospitals is that of the model before it, so that of a model stands in
    the next round's line, or in the status of a run that is done. Those of a moving average of the
    models stand in the status alone.

    Raises:
        BadInput: A file of the run is damaged.
    """
    number = model.provenance.round
    if model.run is None or number is None:
        return None, None
    rounds = {record.round: record for record in rounds_of(model.run)}
    if model.provenance.ema is not None:
        test, validation = average_scores(model.run)
        made = rounds.get(number)
        return made and made.model_copy(update={"test": test}), validation
    after = rounds.get(number + 1)
    if after is not None:
        validation = Validation(
            auc=after.auc, auc_by_finding=after.auc_by_finding, pooled=after.pooled
        )
    elif number == max(rounds, default=None):
        validation = final_validation(model.run)
    else:
        validation = None
    return rounds.get(number), validation


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    yield from (f"## {title}", "", *lines, "")


def _facts(model: Model, name: str, metadata: Metadata) -> Iterator[str]:
    yield f"- `{name}`, SHA-256 `{metadata.fedcxr.sha256}`"
    yield f"- {model.architecture}, exported with fedcxr {metadata.version}"
    if model.size is None:
        yield "- The size of the films that it was trained on is not known."
    else:
        yield f"- Trained on films of {model.size} x {model.size} pixels"


def _outputs() -> str:
    return f"the fourteen findings of ChestX-ray14, in this order: {', '.join(FINDINGS)}"


def _run(model: Model) -> Iterator[str]:
    if model.run is None:
        yield "- The run's folder was not at hand: what follows could not be filled in."
        return
    config = model.run.config
    yield (
        f"- Run {config.run_id}, round {model.provenance.round} of {config.rounds}, averaging: "
        f"{config.strategy}{' in secure sums' if config.secure_aggregation else ''}"
    )
    yield (
        f"- At each hospital: {config.mode}, local epochs {config.local_epochs}, learning rate "
        f"{config.lr:g}, batch {config.batch_size}, {config.label_fraction:.0%} of the labels"
    )


def _privacy(model: Model) -> Iterator[str]:
    promise = model.provenance.privacy
    if promise is None:
        yield "Nothing bounds what the weights tell of a film or of a hospital."
        return
    yield f"- {promise.describe()[0].upper()}{promise.describe()[1:]}"
    yield f"- Not covered: {promise.uncovered}."
    start = model.provenance.start
    if start is not None and (limit := Origin.model_validate(start).limit()) is not None:
        yield f"- It is {limit}."


def _hospitals(model: Model) -> Iterator[str]:
    made, _ = scores_of(model)
    if made is None:
        yield "Not known."
        return
    yield "| hospital | films in training | films in validation |"
    yield "|---|---|---|"
    for name, part in sorted(made.hospitals.items()):
        films = "-" if part.examples is None else part.examples
        yield f"| {name} | {films} | {part.validation_images} |"
    left_out = [f"{name} (missing)" for name in made.missing]
    left_out += [f"{name} (rejected)" for name in made.rejected]
    if left_out:
        yield ""
        yield f"Not in this round: {', '.join(sorted(left_out))}."


def _metrics(model: Model) -> Iterator[str]:
    made, validation = scores_of(model)
    test = None if made is None else made.test
    if validation is None and test is None:
        yield "Not known: the run tells no score of this model."
        return
    columns: list[tuple[str, str, Mapping[str, str]]] = []
    if validation is not None:
        columns.append(_column("mean AUC at the hospitals", validation))
    if validation is not None and validation.pooled is not None:
        columns.append(_pooled_column(validation.pooled))
    if test is not None:
        columns.append(_column(f"AUC on {test.images} test films", test))
    yield f"| finding | {' | '.join(title for title, _, _ in columns)} |"
    yield f"|---|{'---|' * len(columns)}"
    yield f"| **mean** | {' | '.join(mean for _, mean, _ in columns)} |"
    for finding in FINDINGS:
        values = " | ".join(by[finding] for _, _, by in columns)
        yield f"| {finding.replace('_', ' ')} | {values} |"
    yield ""
    if validation is not None and validation.pooled is not None:
        yield "Intervals are DeLong's, 95 %, over films, not over patients; the others have none."
    else:
        yield "The run tells no confidence intervals."


def _column(title: str, scores: Validation | Scores) -> tuple[str, str, dict[str, str]]:
    by = {finding: _number(scores.auc_by_finding.get(finding)) for finding in FINDINGS}
    return title, _number(scores.auc), by


def _pooled_column(pooled: Pooled) -> tuple[str, str, dict[str, str]]:
    by = {}
    for finding, of in pooled.by_finding.items():
        between = "" if of.low is None else f" ({_number(of.low)} to {_number(of.high)})"
        by[finding] = f"{_number(of.auc)}{between}, {of.positives} of {of.positives + of.negatives}"
    title = "AUC of all hospitals' validation films together, films with the finding"
    return title, _number(pooled.auc), by


def _thresholds(calibration: Calibration) -> Iterator[str]:
    if not calibration:
        yield "The run tells too little: there is no threshold, and no probability is calibrated."
        return
    yield "| finding | calibrated probability | sensitivity | specificity | films with it |"
    yield "|---|---|---|---|---|"
    for finding, of in calibration.items():
        values = (of.probability(of.threshold), of.sensitivity, of.specificity)
        numbers = " | ".join(_number(float(value)) for value in values)
        yield f"| {finding.replace('_', ' ')} | {numbers} | {of.positives} |"
    yield ""
    yield (
        "Line and threshold of each finding were fitted to the hospitals' validation films, and "
        "sensitivity and specificity are of the same films: on others they will be lower. Findings "
        "that are not named have too few films, or an AUC below a half: they are not calibrated."
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
