"""A recorded run: twelve rounds of four hospitals, one of which was late and one rejected."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from common.findings import FINDINGS
from common.runtime.files import write_json
from server.run.events import Joined, ReplyRejected
from server.run.folder import RunFolder
from server.run.live import HospitalLive, Live
from server.run.records import HospitalRecord, RunStatus
from tests.support.records import HOSPITAL, round_record

NOW = datetime(2026, 11, 29, 12, 0, 0, tzinfo=UTC)

NAMES = ("charite", "hospital-of-the-northern-coast", "inselspital", "ucsf")

CONFIG: dict[str, Any] = {
    "run_id": "0123456789ab",
    "init": "random",
    "rounds": 50,
    "architecture": "densenet121",
    "strategy": "fedavg",
    "seed": 0,
    "local_epochs": 2,
}


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


LIVE = Live(
    round=13,
    attempt=2,
    phase="hospitals",
    since=ago(42),
    started=ago(42),
    needed=3,
    hospitals={
        "charite": HospitalLive(doing="training", since=ago(31), share=0.375),
        "hospital-of-the-northern-coast": HospitalLive(
            doing="rejected", since=ago(12), reason="tensor conv0.weight is not finite"
        ),
        "inselspital": HospitalLive(doing="done", since=ago(3)),
        "ucsf": HospitalLive(doing="gone", since=ago(3900), reason="no reply before the deadline"),
    },
)


def _auc(number: int) -> float:
    return 0.5 + 0.02 * number - 0.001 * number**2


def _hospital(name: str, number: int) -> HospitalRecord:
    place = NAMES.index(name)
    return HOSPITAL.model_copy(
        update={
            "examples": 1000 * (place + 1),
            "loss": 0.3 - 0.01 * number,
            "auc": None if place == 2 else _auc(number) + 0.01 * place,
            "validation_images": 0 if place == 2 else 4 + 100 * place,
            "seconds": HOSPITAL.seconds.model_copy(update={"train": 40.0 + place}),
            "bytes": HOSPITAL.bytes.model_copy(update={"received": 28_300_000, "sent": 28_300_000}),
        }
    )


def record_run(path: Path, rounds: int = 12, live: Live | None = LIVE) -> RunFolder:
    """Write a run that goes on in this process until the log of its folder is closed."""
    folder = RunFolder.create(path, CONFIG)
    for name in NAMES:
        folder.log.record(Joined(site=name, examples=1000))
    for number in range(1, rounds + 1):
        counted = [name for name in NAMES if (name, number) != ("ucsf", 5)]
        bad = {"inselspital": "holds NaN"} if number == 7 else {}
        if bad:
            folder.log.record(
                ReplyRejected(site="inselspital", round=7, attempt=1, reason="holds NaN")
            )
        by_finding = {
            finding: _auc(number) - 0.01 * place for place, finding in enumerate(FINDINGS)
        }
        folder.write_round(
            round_record(
                number,
                auc=_auc(number),
                auc_by_finding={**by_finding, "Hernia": None},
                loss=0.3 - 0.01 * number,
                hospitals={name: _hospital(name, number) for name in counted if name not in bad},
                rejected=bad,
                missing=["ucsf"] if number == 5 else [],
                seconds={
                    "hospitals": 50,
                    "average": 1,
                    "save": 1,
                    "test": 0,
                    "total": 60 + number,
                },
            )
        )
    folder.status.write(RunStatus(state="running", round=rounds, rounds=50))
    if live is not None:
        write_json(path / "live.json", live.model_dump(mode="json"))
    return folder
