from collections.abc import Sequence
from pathlib import Path

import pytest

from common.errors import BadInput
from experiments.paper import first_models
from experiments.paper.first_models import checkpoint_of
from experiments.paper.scales import SCALES


def test_a_pretraining_that_is_not_done_is_no_first_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes its checkpoint after each epoch."""
    ends = [False, True]

    def pretrain(arguments: Sequence[str]) -> None:
        out = Path(arguments[arguments.index("--out") + 1])
        out.with_suffix(".run").mkdir(exist_ok=True)
        (out.with_suffix(".run") / "metrics.jsonl").write_text("{}\n")
        out.write_bytes(b"an epoch")
        if not ends.pop(0):
            raise BadInput("killed")

    monkeypatch.setattr(first_models, "pretrain", pretrain)
    made = tmp_path / "rotation.pt"

    def make() -> str:
        curves = tmp_path / "curves"
        return checkpoint_of("rotation", SCALES["tiny"], tmp_path, tmp_path, curves, 1)

    with pytest.raises(BadInput, match="killed"):
        make()
    assert not made.exists()
    assert make() == str(made)
    assert made.read_bytes() == b"an epoch"
    assert (tmp_path / "curves" / "rotation.jsonl").exists()
