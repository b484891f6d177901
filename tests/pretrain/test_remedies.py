"""Each remedy that a pretraining's folder has is followed here, and helps."""

from pathlib import Path
from typing import Any

import pytest

from pretrain.run_folder import METRICS, RunFolder
from tests.support.remedies import Place, Remedy, Step, each, instead, mended

CONFIG: dict[str, Any] = {"epochs": 3, "seed": 0}
STATE: dict[str, Any] = {"step": 0, "parameters": {}, "buffers": {}, "optimizer": {}}


def begins(name: str = "a", resume: bool = False, **changes: object) -> Step:
    """Return a step: ``flower-pretrain --out NAME.pt``."""

    def step(p: Place) -> None:
        folder, out = RunFolder(p / f"{name}.run"), p / f"{name}.pt"
        with folder.held(out):
            folder.begin(CONFIG | changes, out, resume)

    return step


@pytest.fixture
def place(tmp_path: Path) -> Place:
    path = tmp_path / "place"
    path.mkdir()
    folder, out = RunFolder(path / "a.run"), path / "a.pt"
    with folder.held(out):
        folder.begin(CONFIG, out, resume=False)
        folder.write_state(STATE)
    (path / "stray.pt").write_bytes(b"weeks of work")
    return Place(path)


def spoils(name: str) -> Step:
    return lambda p: p.spoil(f"a.run/{name}")


def moves(p: Place) -> None:
    (p / "a.run" / METRICS).rename(p / METRICS)


ANOTHER = "start again with another --out"


@each(
    instead("continue with --resume", begins(), begins(resume=True)),
    instead("or choose another --out", begins(), begins("b")),
    mended("move it away and go on with --resume", spoils(METRICS), begins(resume=True), moves),
    instead("choose another --out", begins("stray", resume=True), begins("b")),
    *(
        instead(ANOTHER, begins(resume=True), begins("b"), spoils(name))
        for name in ("config.json", "trainer.pt")
    ),
    instead("give the same options", begins(resume=True, seed=1), begins(resume=True)),
    instead("or another --out", begins(resume=True, seed=1), begins("b", seed=1)),
)
def test_the_remedy_that_is_printed_helps(place: Place, remedy: Remedy) -> None:
    remedy.helps(place)
