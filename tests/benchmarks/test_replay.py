"""Hospitals that add kept changes in place of training."""

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from benchmarks.replay import change_file, replay
from common.state import spec_of
from common.wire import pack, unpack
from tests.support.hospitals import STATE, hospital_of, instruction_of, plan_of
from tests.support.shards import make_shard


@pytest.fixture(autouse=True)
def _patches_end() -> Iterator[None]:
    yield
    patch.stopall()


def test_a_round_adds_its_own_change(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a")
    for number in (1, 2):
        change = {name: np.full_like(array, number) for name, array in STATE.items()}
        change_file(tmp_path, "a", number).write_bytes(pack(change))
    replay(str(tmp_path))
    reply, blob = hospital_of(shard.path).answer(instruction_of(plan_of(), 2), pack(STATE))
    assert reply.status == "ok"
    for name, array in unpack(blob, spec_of(STATE)).items():
        assert np.array_equal(array, STATE[name] + np.full_like(STATE[name], 2)), name
