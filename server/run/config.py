"""``config.json``: what a run was started with, and what of it may differ when it goes on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from common.errors import BadInput
from common.runtime.files import sha256_of
from common.shard import MANIFEST, Manifest
from server.run.options import RunOptions

CHANGEABLE = frozenset(
    {"run", "rounds", "min_clients", "quorum", "attempts", "round_timeout", "listen", "metrics"}
    | {"tls", "insecure", "resume", "device", "threads", "versions", "run_id", "max_examples"}
    | {"change", "changes", "share_model", "early_stop", "min_gain", "track", "name", "origin"}
    | {"test_positives", "canary", "models", "out"}
)
"""Options that ``--resume`` may change; all others decide the result."""

Changing = Literal["lr", "momentum", "batch_size", "local_epochs", "label_fraction"]
"""Options that ``--change`` may change."""

DEFAULTS = {name: field.default for name, field in RunOptions.model_fields.items()}
"""What a run was started with by a version that did not have the option."""

INPUTS = {"init": "init_sha256", "test": "test_sha256"}
"""Options that name a file or folder, and the field with the hash of its content."""


def hashes_of(init: str, test: Path | None) -> dict[str, str | None]:
    """Return the hashes of a run's inputs, by their fields; None for what is no file or not there.

    A shard's is that of its manifest, which has the hashes of its files.

    Raises:
        OSError: A file cannot be read.
    """
    files = {"init": Path(init), "test": None if test is None else test / MANIFEST}
    return {
        INPUTS[name]: sha256_of(file) if file is not None and file.is_file() else None
        for name, file in files.items()
    }


def positives_of(test: Path | None) -> dict[str, int] | None:
    """Return how many films of a checked shard have each finding; None without a shard."""
    if test is None:
        return None
    return Manifest.model_validate_json((test / MANIFEST).read_bytes()).counts


def in_force(config: Mapping[str, Any]) -> dict[str, float]:
    """Return the options that have another value by now than the run was started with."""
    return {change["option"]: change["new"] for change in config.get("changes", [])}


def check_unchanged(old: Mapping[str, Any], new: Mapping[str, Any], begun: bool) -> None:
    """Check that a run may go on with these options.

    Args:
        old: What it was started with.
        new: What is given now.
        begun: Whether a round is done, so that the first model is not needed any more.

    Raises:
        BadInput: An option that decides the result differs, or an input has other content.
    """
    changes = (in_force(old), new.get("change", {}))
    for name in sorted((old.keys() | new.keys()) - CHANGEABLE - set(INPUTS.values())):
        before, given = old.get(name, DEFAULTS.get(name)), new.get(name)
        hashed = INPUTS.get(name, "")
        if old.get(hashed) is not None:
            _check_input(name, old, new, begun)
        elif given not in (before, *(values[name] for values in changes if name in values)):
            raise BadInput(
                f"--{name.replace('_', '-')} is {given}, but the run was started with {before}; "
                f"give the same{_or_change(name, given)}, or start another run"
            )


def _check_input(name: str, old: Mapping[str, Any], new: Mapping[str, Any], begun: bool) -> None:
    """Compare an input by its content: it may have been moved."""
    before, given = old[INPUTS[name]], new.get(INPUTS[name])
    gone = name == "init" and begun and given is None and new.get(name) == old.get(name)
    if given != before and not gone:
        what = f"has other content (sha256 {given[:12]})" if given else "is not the file or folder"
        raise BadInput(
            f"--{name} {new.get(name)}: {what} that the run was started with ({old.get(name)}, "
            f"sha256 {before[:12]}); give that one, or start another run"
        )


def _or_change(name: str, given: object) -> str:
    return f", add --change {name}={given}" if name in get_args(Changing) else ""
