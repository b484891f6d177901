"""Each mistake of a user's is one line that names the thing and the remedy, and its exit code."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from common.checkpoint import write_checkpoint
from common.model import build_model, state_of
from common.provenance import Provenance
from common.shard import Entry, create_shard
from experiments.launch.local import LocalFederation, free_port
from tests.support.commands import assert_one_line, run
from tests.support.federations import options, status_of
from tests.support.shards import make_shard, reseal

NOWHERE = "127.0.0.1:9"


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def client(shard: Path, server: str = NOWHERE, *more: object) -> list[object]:
    return ["--server", server, "--insecure", "--data", shard, "--patience", 1, *more]


def server(folder: Path, **changes: object) -> list[object]:
    listen = f"127.0.0.1:{free_port()}"
    return ["--insecure", *options(folder, 1, **{"listen": listen, **changes})]


def test_a_missing_shard(tmp_path: Path) -> None:
    result = run("flower-client", *client(tmp_path / "none"))
    assert_one_line(result, 2, f"{tmp_path}/none: no shard here", "flower-data")


def test_what_stops_a_client_at_its_start_is_in_its_status(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "status.json").write_text('{"state": "connected", "device": "cpu"}')  # of one killed
    (state / "privacy.json").write_text("{")
    shard = make_shard(tmp_path / "site").path
    result = run("flower-client", *client(shard, NOWHERE, "--state", state))
    assert_one_line(result, 2, "privacy.json: damaged")
    status = status_of(state)
    assert status["state"] == "failed"
    assert "privacy.json: damaged" in status["reason"]


def test_a_shard_whose_hash_differs(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "site")
    with (shard.path / "images.npy").open("r+b") as file:
        file.seek(5000)
        file.write(b"\x00\x01")
    assert_one_line(
        run("flower-client", *client(shard.path)), 2, "images.npy: SHA-256", "make it again"
    )
    result = run("flower-server", *server(tmp_path / "run", test=shard.path))
    assert_one_line(result, 2, "images.npy: SHA-256")
    assert not (tmp_path / "run").exists()


def test_labels_outside_0_and_1(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "site")
    labels = shard.labelled()
    labels[7, 13] = 2
    np.save(shard.path / "labels.npy", labels)
    reseal(shard.path, "labels.npy")
    result = run("flower-client", *client(shard.path))
    assert_one_line(result, 2, "label 2 for Hernia in row 7, not one of [0, 1, 255]")


def test_images_of_another_size_than_the_runs(tmp_path: Path, federation: LocalFederation) -> None:
    shard = make_shard(tmp_path / "site", size=48)
    federation.start_server(options(tmp_path / "run", 1))
    result = run("flower-client", *client(shard.path, federation.address, "--patience", 60))
    assert_one_line(result, 4, "48 pixels wide, this run's are 40", "--size 40")
    test = run("flower-server", *server(tmp_path / "other", test=shard.path))
    assert_one_line(test, 2, "48 pixels wide, but --image-size is 40")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("option", ["listen", "metrics"])
def test_a_port_in_use(tmp_path: Path, taken_port: int, option: str) -> None:
    address = f"127.0.0.1:{taken_port}"
    result = run("flower-server", *server(tmp_path / "run", **{option: address}))
    assert_one_line(result, 2, f"--{option} {address}: Address already in use", "another port")
    assert not (tmp_path / "run").exists()


def test_an_address_of_another_machine(tmp_path: Path) -> None:
    # Set aside for documentation, RFC 5737.
    result = run("flower-server", *server(tmp_path / "run", listen="192.0.2.1:8080"))
    assert_one_line(result, 2, "--listen 192.0.2.1:8080", "an address of this machine")


def test_a_hospital_does_not_learn_from_test_images(tmp_path: Path) -> None:
    entries = [Entry(f"{i}.png", str(i), "test" if i > 12 else "train_val") for i in range(16)]
    labels = np.zeros((16, 14), np.uint8)
    with create_shard(tmp_path / "s", entries=entries, labels=labels, size=40, source="x"):
        pass
    result = run("flower-client", *client(tmp_path / "s"))
    assert_one_line(result, 2, "3 of its images", "'test'")


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "site")
    result = run("flower-client", *client(shard.path, f"127.0.0.1:{free_port()}"))
    assert_one_line(result, 2, "no server within 1 s", "check that it runs")


def test_something_else_listens_there(tmp_path: Path, taken_port: int) -> None:
    shard = make_shard(tmp_path / "site")
    result = run("flower-client", *client(shard.path, f"127.0.0.1:{taken_port}"))
    assert_one_line(result, 2, "no server within 1 s")


def test_a_checkpoint_of_another_architecture_or_cut_or_missing(tmp_path: Path) -> None:
    checkpoint = tmp_path / "c.pt"
    state = state_of(build_model("densenet-tiny"))
    write_checkpoint(checkpoint, state, "densenet-tiny", Provenance(method="random"))
    other = run(
        "flower-server", *server(tmp_path / "run", init=checkpoint, architecture="densenet121")
    )
    assert_one_line(other, 2, "c.pt: a densenet-tiny, but the run is for densenet121")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1000])
    cut = run("flower-server", *server(tmp_path / "run", init=checkpoint))
    assert_one_line(cut, 2, "c.pt: cut, damaged or no checkpoint", "copy it again")
    missing = run("flower-server", *server(tmp_path / "run", init="imagnet"))
    assert_one_line(missing, 2, "imagnet: no such file", "random, imagenet or a checkpoint")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_run_already(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "rounds.jsonl").write_text("{}\n")
    result = run("flower-server", *server(tmp_path / "run"))
    assert_one_line(result, 2, "is not empty", "--run")


def test_no_hospital_comes(tmp_path: Path) -> None:
    result = run("flower-server", *server(tmp_path / "run", round_timeout=1))
    assert_one_line(result, 3, "1 hospitals are needed", "--min-clients")
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["state"] == "no quorum"


def test_the_environment_is_checked_like_options(tmp_path: Path) -> None:
    environment = {"FLOWER_SERVER_MOMENTUM": "2"}
    result = run("flower-server", *server(tmp_path / "run"), environment=environment)
    assert_one_line(result, 2, "--momentum (or FLOWER_SERVER_MOMENTUM)", "'2'")
