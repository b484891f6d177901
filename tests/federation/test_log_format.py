"""What machines read of both sides' logs."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from tests.support.faults import FaultyFederation
from tests.support.federations import log_of, options

KEYS = {"time", "level", "logger", "message"}
AT_BOTH_SIDES = {"joined", "round", "reply"}


def lines_in(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def events_in(text: str) -> dict[str, dict[str, Any]]:
    return {line["event"]: line for line in lines_in(text) if "event" in line}


def same_lines(stderr: str, file: str) -> bool:
    """Whether a log's file has every line of stderr since the file began.

    Two threads' lines may stand the other way round: each handler has a lock of its own. Between
    the two handlers the process may end while a thread says that a hospital left.
    """
    kept, said = (
        [line for line in text.splitlines() if json.loads(line).get("event") != "left"]
        for text in (file, stderr)
    )
    return bool(kept) and Counter(kept) == Counter(said[-len(kept) :])


def test_machines_read_the_same_words_at_server_and_hospital(
    tmp_path: Path, federation: FaultyFederation, shards: list[Path]
) -> None:
    run, state = tmp_path / "run", tmp_path / "state"
    as_json = ["--log-format", "json"]
    federation.start_server([*options(run, 3), *as_json])
    for shard in shards:
        own = ["--state", str(state)] if shard.name == "hospital-00" else []
        federation.start_client(shard, [*as_json, *own])
    assert set(federation.wait(60).values()) == {0}
    server, hospital = log_of(federation, "server"), log_of(federation, "hospital-00")
    for text in (server, hospital):
        for line in lines_in(text):
            assert line.keys() >= KEYS
            assert line["message"]
    assert same_lines(server, (run / "server.log").read_text())
    assert same_lines(hospital, (state / "client.log").read_text())
    assert "reply" in events_in((state / "client.log").read_text())
    here, there = events_in(server), events_in(hospital)
    assert here.keys() >= AT_BOTH_SIDES | {"round done", "left"}
    assert there.keys() == AT_BOTH_SIDES | {"scored"}
    assert there["reply"].keys() <= here["reply"].keys()
    replies = [line for line in lines_in(server) if line.get("event") == "reply"]
    (same,) = [
        line
        for line in replies
        if (line["site"], line["round"]) == ("hospital-00", there["reply"]["round"])
    ]
    assert {key: same[key] for key in there["reply"].keys() - KEYS} == {
        key: value for key, value in there["reply"].items() if key not in KEYS
    }
    done = here["round done"]
    assert (done["round"], done["rounds"], done["seconds_left"]) == (2, 2, 0)
    assert done["best_round"] == 1
