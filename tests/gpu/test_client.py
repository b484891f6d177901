import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from client.health import standing
from client.hospital import Hospital
from common.options import Mode
from common.shard import Shard
from common.state import select, spec_of
from common.wire import unpack
from experiments.launch.local import LocalFederation
from tests.gpu import needs_gpu
from tests.support.federations import lines_of, options
from tests.support.hospitals import GREETING, STATE, rounds_in
from tests.support.shards import make_hospitals, make_shard

pytestmark = needs_gpu


def hospital_on(device: str, shard: Shard, turns: Path) -> Hospital:
    hospital = Hospital("a", shard, torch.device(device), 1, turns)
    hospital.greet(GREETING)
    return hospital


@pytest.mark.usefixtures("full_precision")
@pytest.mark.parametrize("mode", ["finetune", "linear"])
def test_a_round_is_that_of_the_cpu(tmp_path: Path, mode: Mode) -> None:
    shard = make_shard(tmp_path / "a", images=80)
    spec = spec_of(select(STATE, "head") if mode == "linear" else STATE)
    hospitals = [hospital_on(device, shard, tmp_path / "turns") for device in ("cpu", "cuda")]
    for instruction, blob in rounds_in(mode):
        (told, expected), (reply, weights) = (h.answer(instruction, blob) for h in hospitals)
        assert reply.status == told.status == "ok"
        assert reply.loss == pytest.approx(told.loss, rel=1e-4)
        found = unpack(weights, spec)
        for name, tensor in unpack(expected, spec).items():
            np.testing.assert_allclose(found[name], tensor, rtol=1e-3, atol=1e-4, err_msg=name)
    assert hospitals[1].device.type == "cuda"


def test_out_of_memory_costs_one_round_on_the_cpu(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hospital = hospital_on("cuda", make_shard(tmp_path / "a", size=128), tmp_path / "turns")
    rounds = rounds_in("finetune")
    try:
        for instruction, blob in rounds:
            short = instruction.identity.round == 2
            torch.cuda.set_per_process_memory_fraction(1e-6 if short else 1.0)
            caplog.clear()
            reply, _ = hospital.answer(instruction, blob)
            assert reply.status == "ok"
            assert ("cuda failed (OutOfMemoryError); the CPU takes over" in caplog.text) == short
            assert hospital.device.type == "cuda"
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_hospitals_share_a_gpu(tmp_path: Path) -> None:
    shards = make_hospitals(tmp_path / "data", 3)
    with LocalFederation(tmp_path / "logs", slots=1) as federation:
        federation.start_server(options(tmp_path / "run", rounds=2, clients=3))
        for shard in shards:
            state = tmp_path / "state" / shard.name
            federation.start_client(shard, ["--device", "cuda", "--state", str(state)])
        codes = federation.wait(120)
    assert set(codes.values()) == {0}
    assert [len(line["hospitals"]) for line in lines_of(tmp_path / "run")] == [3, 3]
    for shard in shards:
        text = (federation.logs / f"{shard.name}.log").read_text()
        assert "on cuda" in text
        assert "takes over" not in text


def test_the_health_check_sees_the_gpu(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(json.dumps({"state": "connected", "device": "cuda"}))
    assert standing(tmp_path, datetime.now(UTC)) == "connected, on cuda"
