"""What the tests of faults share: starting a federation, and looking at what it wrote."""

import json
from pathlib import Path
from typing import Any

from experiments.launch.local import LocalFederation
from tests.support.faults import FaultyFederation


def events_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def last_noted(state: Path) -> str:
    return str(json.loads((state / "audit.jsonl").read_text().splitlines()[-1])["event"])


def start(federation: FaultyFederation, run: Path, shards: list[Path], **changes: object) -> None:
    federation.start_server(options(run, len(shards), **changes))
    for shard in shards:
        federation.start_client(shard)


def in_round(federation: FaultyFederation, name: str, number: int) -> bool:
    return f"round {number}: " in log_of(federation, name)


SEED = 5


def options(run: Path, clients: int, **changes: object) -> list[str]:
    chosen: dict[str, object] = {
        "init": "random",
        "architecture": "densenet-tiny",
        "run": run,
        "rounds": 2,
        "min-clients": clients,
        "lr": 0.05,
        "batch-size": 16,
        "seed": SEED,
        "image-size": 40,
        "round-timeout": 60,
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    return [
        text
        for name, value in chosen.items()
        for text in ((f"--{name}",) if value is True else (f"--{name}", str(value)))
    ]


def lines_of(run: Path) -> list[dict[str, Any]]:
    whole = (run / "rounds.jsonl").read_text().rpartition("\n")[0]  # a server may be writing
    return [json.loads(line) for line in whole.splitlines()]


def status_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "status.json").read_text()))


def log_of(federation: LocalFederation, name: str) -> str:
    return (federation.logs / f"{name}.log").read_text()
