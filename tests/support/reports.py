"""Recorded runs to report on, and what stands on a report's page."""

from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

from common.document import Table
from common.findings import FINDINGS
from common.model import build_model, state_of
from common.provenance import Provenance
from common.runtime.files import write_json
from server.report.page import Chapter
from server.rounds.loop import Rounds
from server.rounds.testing import Tester
from server.run.folder import RunFolder
from server.run.records import RunStatus
from tests.support.hospitals import Fault, LocalHospitals, plan_of
from tests.support.shards import make_hospitals, make_shard

CONFIG: dict[str, object] = {
    "run_id": "0123456789ab",
    "rounds": 3,
    "architecture": "densenet-tiny",
    "mode": "finetune",
    "init": "/x/start.pt",
    "strategy": "fedavg",
    "local_epochs": 1,
    "lr": 0.05,
    "batch_size": 16,
    "label_fraction": 0.5,
    "seed": 5,
    "image_size": 40,
    "test_sha256": "a" * 64,
    "test_positives": dict.fromkeys(FINDINGS, 7),
    "origin": {"method": "simclr", "epochs": 8, "settings": {"temperature": 0.2}},
    "versions": {"torch": "2.0"},
}

TEST_FILMS = 60


def recorded_run(
    folder: Path,
    faults: dict[str, Fault] | None = None,
    rounds: int = 3,
    seed: int = 5,
    **config: object,
) -> Path:
    """Run three hospitals with noise for films in this process; return the run's folder.

    The data lie beside it, the same for all runs in the same place.
    """
    data = folder.parent / "data"
    if not data.exists():
        make_hospitals(data, 3)
        make_shard(data / "test", TEST_FILMS, seed=9)
    plan = plan_of(rounds=rounds, seed=seed)
    shards = sorted(data.glob("hospital-*"))
    done = Rounds(
        plan,
        LocalHospitals(shards, seed, faults or {}),
        RunFolder.create(folder, {}),
        state_of(build_model("densenet-tiny", seed)),
        Provenance(method="fedavg", run=plan.run, start=Provenance(method="random")),
        Tester(data / "test", "densenet-tiny", "cpu", 1),
    )
    result = done.run()
    done.folder.status.end(RunStatus(state="finished", **dict(result)))
    write_json(folder / "config.json", {**CONFIG, "rounds": rounds, "seed": seed, **config})
    return folder


def tables_of(chapters: Sequence[Chapter]) -> dict[str, list[list[str]]]:
    """Return the cells of each figure's table, the header's too, by the figure's name."""
    return {plot.name: cells(plot.table) for chapter in chapters for plot in chapter.plots}


def cells(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in (table.header, *table.rows)]


class Figures(HTMLParser):
    """Collects the rows of each figure's own table, by the figure's name.

    Attributes:
        tables: Cells of each row, the header's too.
        drawings: Number of drawings with a name for those who do not see them.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.drawings: dict[str, int] = {}
        self._figure = ""
        self._folded = self._in_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "figure":
            self._figure = given["id"] or ""
            self.tables[self._figure] = []
            self.drawings[self._figure] = 0
        elif tag == "svg" and given.get("role") == "img":
            self.drawings[self._figure] += bool(given["aria-label"])
        elif tag == "details":
            self._folded = True
        elif tag == "tr" and self._folded:
            self.tables[self._figure].append([])
        elif tag in ("td", "th") and self._folded:
            self.tables[self._figure][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False
        elif tag == "details":
            self._folded = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.tables[self._figure][-1][-1] += data
