"""The cells of the report's tables."""

from common.document import Cell
from experiments.paper.report_input import Interval

UNDEFINED = "-"


def header_of(names: str) -> list[Cell]:
    """Return a header; its names have a | between them."""
    return [Cell(name) for name in names.split("|")]


def auc_cell(auc: Interval | None, bold: bool = False) -> Cell:
    """Return an AUC with its interval."""
    if auc is None:
        return Cell(UNDEFINED)
    return Cell(f"{auc.value:.3f}", f"{auc.low:.3f} to {auc.high:.3f}", bold)


def difference_cell(difference: Interval | None, digits: int = 3) -> Cell:
    """Return a difference with its interval."""
    if difference is None:
        return Cell(UNDEFINED)
    value, low, high = (
        f"{each:+.{digits}f}" for each in (difference.value, difference.low, difference.high)
    )
    return Cell(value, f"{low} to {high}")


def p_text(p: float) -> str:
    """Return a p-value."""
    return "below 0.001" if p < 0.001 else f"{p:.3f}"


def size_text(size: int) -> str:
    """Return bytes as MB or GB."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
