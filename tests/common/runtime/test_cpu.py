"""What a CPU is called."""

import platform
from pathlib import Path

import pytest

from common.runtime.cpu import cpu_model

ARM = "processor : 0\nCPU implementer : 0x41\nCPU variant : 0x3\nCPU part : 0xd0c\n"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("processor : 0\nmodel name\t: Some CPU: 3\nmodel name : other\n", "Some CPU: 3"),
        (ARM, f"{platform.machine()} 0x41 0xd0c 0x3"),
        ("", platform.machine()),
    ],
)
def test_models_that_round_otherwise_have_other_names(
    tmp_path: Path, told: str, expected: str
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text(told)
    assert cpu_model(tmp_path) == expected
