"""What a checkpoint tells of its model's input, used by a program that knows nothing else."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.checkpoint import write_checkpoint
from common.findings import FINDINGS
from common.images import centre_crops
from common.model import build_model, state_of, to_input
from common.provenance import Provenance
from radiographs.read.decode import decode

ROOT = Path(__file__).parents[2]


def test_the_lines_in_the_docs_predict_as_this_project_does(tmp_path: Path) -> None:
    page = (ROOT / "docs/federation.md").read_text()
    (lines,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    model = build_model("densenet121", 7).eval()
    origin = Provenance(method="fedavg", run="r", settings={"image_size": 96})
    write_checkpoint(tmp_path / "final.pt", state_of(model), "densenet121", origin)
    pixels = np.random.default_rng(0).integers(0, 256, (310, 420), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "film.png")
    printed = subprocess.run(
        [sys.executable, "-I", "-c", lines],
        cwd=tmp_path,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    film = decode(tmp_path / "film.png", 96)
    with torch.no_grad():
        own = model(to_input(torch.from_numpy(centre_crops(film[None])))).sigmoid()[0]
    told = ast.literal_eval(printed)
    assert list(told) == list(FINDINGS)
    assert list(told.values()) == pytest.approx(own.tolist(), abs=1e-5)
