"""``flower-predict``: a model's findings on films, as a table, heat maps or a page to try it."""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from common.errors import BadInput
from common.runtime.cli import parse, run_command
from common.runtime.files import write_whole
from common.runtime.logs import log_to_stderr
from predict.settings import PredictSettings
from predict.tables import as_csv, as_json


def _predict(arguments: Sequence[str]) -> None:
    settings = parse(PredictSettings, arguments)
    if settings.out is not None:
        _check_out(settings.out, force=settings.force)
    if settings.heatmap is not None and settings.heatmap.exists() and not settings.heatmap.is_dir():
        raise BadInput(f"--heatmap {settings.heatmap}: is a file; name a folder")
    # Importing torch takes seconds; --help and errors in arguments come first.
    from predict.job import Job

    log_to_stderr(settings.debug)
    job = Job(settings)
    if settings.serve is not None:
        from predict.page import serve

        serve(job, settings.serve, anyone=settings.serve_anyone)
        return
    rows, refused = job.run()
    if not rows:
        reasons = ", ".join(f"{reason} ({n})" for reason, n in Counter(refused.values()).items())
        raise BadInput(f"none of {len(refused)} files can be used: {reasons}")
    if settings.format == "csv":
        text = as_csv(rows, job.calibration)
    else:
        text = as_json(rows, job.name, job.size, job.calibration)
    _write(text, settings.out)


def _check_out(out: Path, *, force: bool) -> None:
    if out.is_dir():
        raise BadInput(f"--out {out}: is a folder; name a file")
    if out.exists() and not force:
        raise BadInput(f"{out}: is there already; choose another name or give --force")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise BadInput(
            f"{out.parent}: no folder, or one that may not be written; give another --out"
        )


def _write(text: str, out: Path | None) -> None:
    if out is None:
        print(text, end="")
        return
    write_whole(out, lambda file: file.write(text.encode()))


def main() -> None:
    """Run ``flower-predict`` and exit with its code."""
    sys.exit(run_command("flower-predict", _predict))
