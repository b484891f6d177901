"""What people see of the rounds: a table that grows as hospitals answer, plain enough for logs."""

from typing import TYPE_CHECKING, Any

from common.findings import FINDINGS

if TYPE_CHECKING:
    from common.scores import AucByFinding

HEADER = "  hospital              images   loss    AUC   train s  wait s   MB in  MB out"


def number(value: float | None, digits: int = 3) -> str:
    """Return a number, or a dash for what is undefined."""
    return "-" if value is None else f"{value:.{digits}f}"


def hospital_row(name: str, entry: dict[str, Any]) -> str:
    """Return a hospital's row of the table; ``entry`` is its part of ``rounds.jsonl``."""
    seconds, size = entry["seconds"], entry["bytes"]
    return (
        f"  {name:<20} {entry['examples']:>7} {number(entry['loss']):>6} "
        f"{number(entry['auc']):>6} {seconds['train']:>9.1f} {seconds['wait']:>7.1f} "
        f"{size['received'] / 1e6:>7.1f} {size['sent'] / 1e6:>7.1f}"
    )


def summary(line: dict[str, Any], rounds: int, asked: int) -> str:
    """Return the line that closes a round."""
    test = f", test AUC {number(line['test']['auc'])}" if line["test"] else ""
    before = f"validation AUC before it {number(line['auc'])}"
    return (
        f"round {line['round']} of {rounds}: {len(line['hospitals'])} of {asked} hospitals in "
        f"{line['seconds']['total']:.1f} s: loss {number(line['loss'])}, {before}{test}"
    )


def findings_table(columns: "dict[str, AucByFinding]") -> list[str]:
    """Return the rows of a table with an AUC for every finding in each of the columns."""
    width = max(len(finding) for finding in FINDINGS)
    rows = [f"  {'finding':<{width}}" + "".join(f"{name:>12}" for name in columns)]
    rows += [
        f"  {finding:<{width}}" + "".join(f"{number(by[finding]):>12}" for by in columns.values())
        for finding in FINDINGS
    ]
    return rows
