from pathlib import Path

import pytest

from common.shard import Shard
from tests.support.shards import make_shard


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    return make_shard(tmp_path / "shard", images=40, labelled=False)
