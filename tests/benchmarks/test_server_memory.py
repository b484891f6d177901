"""Hospitals that do not train take part in whole runs of the real server."""

import pytest

from benchmarks.federation_overhead import EchoHospital
from benchmarks.secure_rounds import SECURE, SummedHospital
from benchmarks.server_memory import peak_of


@pytest.mark.parametrize(
    ("kind", "flags"),
    [(EchoHospital, ()), pytest.param(SummedHospital, SECURE, marks=pytest.mark.long)],
)
def test_a_run_of_hospitals_that_do_not_train(
    kind: type[EchoHospital], flags: tuple[str, ...]
) -> None:
    memory, seconds = peak_of(3, "densenet-tiny", 1, kind, flags)
    assert memory > 1e8
    assert seconds > 0
