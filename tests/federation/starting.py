"""What the tests of faults share: starting a federation, and looking at what it wrote."""

import json
from pathlib import Path
from typing import Any

from tests.faults import FaultyFederation
from tests.federation.test_federation import log_of, options


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
