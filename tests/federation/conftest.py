from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faults import FaultyFederation
from tests.support.shards import make_hospitals


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[FaultyFederation]:
    with FaultyFederation(tmp_path / "logs") as federation:
        yield federation


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    return make_hospitals(tmp_path / "data", 3)
