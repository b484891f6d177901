from pathlib import Path

import pytest

from tests.support.fault_table import fault_row

TABLE = Path(__file__).parents[2] / "docs" / "faults.md"


def test_every_fault_that_is_tested_stands_in_the_table(request: pytest.FixtureRequest) -> None:
    rows = {row for item in request.session.items if (row := fault_row(item)) is not None}
    missing = [row for row in sorted(rows) if row not in TABLE.read_text()]
    assert not missing, "run `make faults`"


def test_no_fault_in_the_table_ended_otherwise() -> None:
    assert " no | " not in TABLE.read_text()
