"""The cells of the report's tables."""

from common.document import Cell
from experiments.paper.report_input import Interval, Number

UNDEFINED = "-"


def header_of(names: str) -> list[Cell]:
    """Return a header; its names have a | between them."""
    return [Cell(name) for name in names.split("|")]


def auc_cell(auc: Number | None, bold: bool = False) -> Cell:
    """Return an AUC with its interval, if it has one."""
    if auc is None:
        return Cell(UNDEFINED)
    ends = f"{auc.low:.3f} to {auc.high:.3f}" if isinstance(auc, Interval) else ""
    return Cell(f"{auc.value:.3f}", ends, bold)


def difference_cell(difference: Number | None, digits: int = 3) -> Cell:
    """Return a difference with its interval, if it has one."""
    if difference is None:
        return Cell(UNDEFINED)
    ends = [difference.low, difference.high] if isinstance(difference, Interval) else []
    detail = " to ".join(f"{end:+.{digits}f}" for end in ends)
    return Cell(f"{difference.value:+.{digits}f}", detail)


def p_text(p: float) -> str:
    """Return a p-value."""
    return "below 0.001" if p < 0.001 else f"{p:.3f}"


def size_text(size: int) -> str:
    """Return bytes as MB or GB."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
