"""The page that a hospital gets on a run: how it took part, and how good the models are here.

It stays at the hospital, so its numbers are not limited by the site's policy.
"""

import logging
from collections.abc import Iterator
from html import escape
from pathlib import Path

from client.counted import with_counts
from client.exchanged import Exchanged, exchanged
from client.kept import KeptModels, OwnScores, read_own_scores
from common.findings import FINDINGS
from common.page import fill, rows
from common.protocol import RunResult
from common.readings import FEW
from common.runtime.files import now, write_whole
from common.scores import AucByFinding, mean_auc, rounded

log = logging.getLogger(__name__)

REPORT = "report.html"

NOT_KEPT = "not kept here; the client's log says why, and the server's operator has it"


def page(
    name: str, run: str, result: RunResult, traffic: Exchanged, scores: dict[str, OwnScores]
) -> str:
    """Return the page, as HTML that needs nothing from elsewhere.

    Args:
        name: The hospital's.
        run: The run's.
        result: What the server told of the run.
        traffic: What this hospital received and sent.
        scores: This hospital's own scores of each model that it keeps, ``final`` and ``best``.
    """
    final = scores.get("final")
    validation = f"{final.films} of {final.patients} patients for validation" if final else "-"
    trained = f"{traffic.examples} trained on in the last round; " if traffic.examples else ""
    facts = {
        "Hospital": name,
        "Run": f"{run}, over since {now()[:16].replace('T', ' ')} UTC",
        "Rounds": f"counted in {result.took_part} of {result.rounds}, rejected in "
        f"{result.rejected}, missing in {result.missing}",
        "Films": f"{trained}{validation}",
        "Received": _models(*traffic.received),
        "Sent": _models(*traffic.sent),
        "Final model": _describe("final", final),
        "Best model": "the final one"
        if result.best_round == result.rounds
        else _describe("best", scores.get("best")),
    }
    return fill(
        "client",
        REPORT,
        title=escape(f"{name} in run {run}"),
        facts=rows([fact, value] for fact, value in facts.items()),
        few=str(FEW),
        hospitals=str(result.hospitals),
        models="".join(f"<th>{model.capitalize()} model, here</th>" for model in scores),
        findings=rows(_finding_rows(result.auc_by_finding, scores)),
        sent=rows(
            [
                ["Answers to greetings", str(traffic.hellos), _fields(traffic.hello_fields)],
                ["Replies", str(traffic.replies), _fields(traffic.reply_fields)],
                ["Weights", str(traffic.sent[0]), f"{traffic.sent[1] / 1e6:.1f} MB"],
            ]
        ),
    )


def _models(count: int, size: int) -> str:
    return f"{count} models, {size / 1e6:.1f} MB"


def _describe(model: str, scores: OwnScores | None) -> str:
    if scores is None:
        return NOT_KEPT
    return f"{model}.pt, made by round {scores.round}; SHA-256 of its weights: {scores.sha256}"


def _fields(told: dict[str, list[str]]) -> str:
    return ", ".join(
        f"{name} ({', '.join(within)})" if within and name != "auc_by_finding" else name
        for name, within in told.items()
    )


def _finding_rows(federation: AucByFinding, scores: dict[str, OwnScores]) -> Iterator[list[str]]:
    """Yield the table's rows; the last one is of the findings with all numbers, so that it is fair.

    Args:
        federation: The hospitals' mean of the final model.
        scores: This hospital's own, by the model's name.
    """
    any_scores = next(iter(scores.values()), None)
    for finding in FINDINGS:
        yield [
            finding.replace("_", " "),
            _positives(any_scores, finding) if any_scores else "-",
            *(_with_interval(of, finding) for of in scores.values()),
            rounded(federation[finding]),
        ]
    aucs = [
        {finding: own.auc if (own := of.auc_by_finding[finding]) else None for finding in FINDINGS}
        for of in scores.values()
    ]
    columns: list[AucByFinding] = [*aucs, federation]
    whole = [
        finding for finding in FINDINGS if all(column[finding] is not None for column in columns)
    ]
    means = [mean_auc({finding: column[finding] for finding in whole}) for column in columns]
    yield [f"Mean of the {len(whole)} with all numbers", "", *map(rounded, means)]


def _positives(scores: OwnScores, finding: str) -> str:
    positives, negatives = _counts(scores, finding)
    return f"{positives} of {positives + negatives}"


def _counts(scores: OwnScores, finding: str) -> tuple[int, int]:
    """Return how many films are known to have the finding, and how many not to have it."""
    positives, negatives = scores.positives[finding], scores.negatives
    return positives, scores.films - positives if negatives is None else negatives[finding]


def _with_interval(scores: OwnScores, finding: str) -> str:
    own = scores.auc_by_finding[finding]
    if own is None:
        return "-"
    text = f"{rounded(own.auc)} ({rounded(own.low)} to {rounded(own.high)})"
    if own.low is None:
        text = with_counts(own.auc, *_counts(scores, finding))
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def write_report(kept: KeptModels, name: str, run: str, result: RunResult | None) -> None:
    """Write the page on a run that is over, if the server shared its models.

    Never raises: the run is over, whatever the page is about.

    Args:
        kept: Where the models are.
        name: The hospital's.
        run: The run's.
        result: What the server told of the run; None: the models were not shared.
    """
    if result is None or (folder := kept.folder(run)) is None:
        return
    try:
        text = page(name, run, result, exchanged(kept.audit, run), _scores_in(folder, result))
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / REPORT, lambda file: file.write(text.encode()))
    except Exception as error:  # noqa: BLE001 - see above
        reason = (isinstance(error, OSError) and error.strerror) or type(error).__name__
        log.warning("no page on run %s: %s", run, reason)
    else:
        log.info("what this hospital gets back: %s", folder / REPORT)


def _scores_in(folder: Path, result: RunResult) -> dict[str, OwnScores]:
    """Return the scores of the models that are kept, unless they are of an earlier end."""
    rounds = {"final": result.rounds, "best": result.best_round}
    found = {model: read_own_scores(folder, model) for model in rounds}
    return {
        model: scores
        for model, scores in found.items()
        if scores is not None and scores.round == rounds[model]
    }
