"""Whether the trials of a first model began from the same file."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from common.errors import BadInput
from common.runtime.files import sha256_of
from experiments.paper.cells import FirstModel, TrialLine

REMEDY = "remove these lines from trials.jsonl and run them again"


def check_starts(lines: Sequence[TrialLine], models: Path | None = None) -> None:
    """Check that all trials of a first model began from one file, as far as they had a file.

    Args:
        lines: Trials of one scale.
        models: Has the file from which further trials begin, ``MODEL.pt``, if it is made; None:
            there are no further trials.

    Raises:
        BadInput: A first model had several files, or another one than it has now.
    """
    by_model: dict[FirstModel, list[TrialLine]] = {}
    for line in lines:
        if line.first_model_sha256 is not None:
            by_model.setdefault(line.cell.first_model, []).append(line)
    for model, trials in by_model.items():
        file = None if models is None else models / f"{model}.pt"
        if file is not None and file.exists():
            right, where = sha256_of(file), str(file)
        else:
            hashes = Counter(str(line.first_model_sha256) for line in trials)
            ((right, _),), where = hashes.most_common(1), "the others"
        others = [line.cell.name for line in trials if line.first_model_sha256 != right]
        if others:
            raise BadInput(
                f"{model}: {', '.join(others)} began from another file than {where} "
                f"(sha256 {right[:12]}); {REMEDY}"
            )
