"""Rows of docs/faults.md."""

import pytest


def fault_row(item: pytest.Item) -> str | None:
    """Return the beginning of a test's row in the table of faults, if it has one."""
    marker = item.get_closest_marker("fault")
    return None if marker is None else "| {} | {} |".format(*marker.args)
