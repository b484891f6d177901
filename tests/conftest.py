import logging
import os
import threading

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here and in every child

from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from common.runtime.logs import PACKAGES
from tests.support.fault_table import fault_row

torch.set_num_threads(1)
# How long an example takes says more about the machine than about what is tested.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[None]:
    """Let no test log into the files of another one, or catch the errors of its threads."""
    loggers = [logging.getLogger(name) for name in ("", *PACKAGES)]
    levels = [logger.level for logger in loggers]
    before, hook = loggers[0].handlers[:], threading.excepthook
    yield
    loggers[0].handlers[:] = before
    threading.excepthook = hook
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


FAULTS = pytest.StashKey[dict[str, str]]()
TABLE_HEAD = """# Faults, and what they end in

Made by `make faults`, which runs the tests named here; all but those that take minutes are part of
`make test`. Hospitals compute on the CPU in them; on a GPU, "bit for bit" is but for the last bits
of a sum.

| what is done | what it ends in | seen | test |
|---|---|---|---|
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults-table", type=Path, help="write docs/faults.md from what was seen")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    row = fault_row(item)
    if row is not None and (report.when == "call" or report.skipped):
        rows = item.config.stash.setdefault(FAULTS, {})
        file, _, name = item.nodeid.partition("::")
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        seen = "yes" if report.passed else f"not here: {reason.removeprefix('Skipped: ')}"
        if report.failed or rows.get(row, "").startswith(" no"):
            seen = "no"
        rows[row] = f" {seen} | `{Path(file).name}`: {name.partition('[')[0]} |"
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    table = session.config.getoption("--faults-table")
    if table is not None:
        rows = session.config.stash.get(FAULTS, {})
        table.write_text(TABLE_HEAD + "".join(f"{row}{seen}\n" for row, seen in rows.items()))
