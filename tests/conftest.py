import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here and in every child

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from experiments.local import LocalFederation

torch.set_num_threads(1)


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[LocalFederation]:
    with LocalFederation(tmp_path / "logs") as federation:
        yield federation
