"""The hospitals' histograms of each round, in a run's folder: ``histograms/round-NNNN.json``.

Those of round N are of the model before it; those of the closing evaluation, which has the number
after the last round's, are of the final model.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from common.errors import BadInput
from common.histograms import Histograms, HistogramsText, total
from common.readings import Pooled, pooled
from common.runtime.files import write_whole

TEXTS = TypeAdapter(dict[str, HistogramsText])


def histograms_file(run: Path, number: int) -> Path:
    """Return the path of the histograms of a round."""
    return run / "histograms" / f"round-{number:04d}.json"


def write_histograms(run: Path, number: int, histograms: Mapping[str, Histograms]) -> None:
    """Write the histograms of a round, by the hospital's name; no file if there are none.

    Raises:
        OSError: The file cannot be written.
    """
    file = histograms_file(run, number)
    if not histograms:
        file.unlink(missing_ok=True)  # of an attempt that a killed server had begun to write down
        return
    file.parent.mkdir(exist_ok=True)
    texts = {name: histograms[name].to_text() for name in sorted(histograms)}
    write_whole(file, lambda out: out.write(json.dumps(texts).encode()))


def keep_pooled(run: Path, number: int, histograms: Mapping[str, Histograms]) -> Pooled | None:
    """Write the histograms of a round; return the AUC of all hospitals' films together.

    Raises:
        OSError: The file cannot be written.
    """
    write_histograms(run, number, histograms)
    return pooled_of(histograms)


def pooled_of(histograms: Mapping[str, Histograms]) -> Pooled | None:
    """Return the AUC of all hospitals' films together; None: no hospital told histograms."""
    summed = total(histograms.values())
    return pooled(summed) if summed else None


def read_histograms(run: Path, number: int) -> dict[str, Histograms]:
    """Return the histograms of a round, by the hospital's name; empty if none were told.

    Args:
        run: The run's folder.
        number: The round's; the one after the last for those of the final model.

    Raises:
        BadInput: The file is damaged.
    """
    file = histograms_file(run, number)
    try:
        texts = TEXTS.validate_json(file.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror}; restore it from a backup") from None
    except ValidationError:
        raise BadInput(f"{file}: damaged; restore it from a backup") from None
    return {name: Histograms.from_text(text) for name, text in texts.items()}
