"""What people see of the rounds: a table that grows as hospitals answer, plain enough for logs."""

from common.findings import FINDINGS
from common.scores import AucByFinding, rounded
from server.run.forecast import in_words
from server.run.records import HospitalRecord, RoundRecord, SecureSum

HEADER = "  hospital              images   loss    AUC   train s  wait s   MB in  MB out"


def hospital_row(name: str, record: HospitalRecord) -> str:
    """Return a hospital's row of the table."""
    seconds, size = record.seconds, record.bytes
    behind = f"  {in_rounds(record.stale)} behind" if record.stale else ""
    return (
        f"  {name:<20} {in_number(record.examples):>7} {rounded(record.loss):>6} "
        f"{rounded(record.auc):>6} {seconds.train:>9.1f} {seconds.wait:>7.1f} "
        f"{size.received / 1e6:>7.1f} {size.sent / 1e6:>7.1f}{behind}"
    )


def sum_row(line: SecureSum) -> str:
    """Return what is known of the hospitals in a secure sum."""
    dropped = f", without {', '.join(line.dropped)}" if line.dropped else ""
    return (
        f"  secure sum of {len(line.hospitals)} hospitals{dropped}: {line.films} films, loss "
        f"{rounded(line.loss)}, norm {line.norm:.3g}; {line.received / 1e6:.1f} MB came "
        f"in {line.seconds:.1f} s"
    )


def in_number(count: int | None) -> str:
    """Return a number for people, or a dash for what is not told."""
    return "-" if count is None else str(count)


def in_rounds(count: int) -> str:
    """Return a number of rounds in words."""
    return f"{count} round" if count == 1 else f"{count} rounds"


def summary(
    record: RoundRecord,
    rounds: int,
    asked: int,
    best: tuple[float, int] | None,
    left: float | None,
) -> str:
    """Return the line that closes a round.

    Args:
        record: Of the round.
        rounds: That the run is to have.
        asked: Hospitals that were asked.
        best: AUC and round of the best model so far, if any has been scored.
        left: Seconds that the rounds to come will take.
    """
    test = f", test AUC {rounded(record.test.auc)}" if record.test else ""
    busy = f", {len(record.busy)} still busy," if record.busy else ""
    before = f"validation AUC before it {rounded(record.auc)}"
    return (
        f"round {record.round} of {rounds}: {len(record.hospitals)} of {asked} hospitals{busy} in "
        f"{record.seconds.total:.1f} s: loss {rounded(record.loss)}, {before}{test}"
        f"{f'; best so far: round {best[1]} with {best[0]:.3f}' if best else ''}"
        f"{f'; about {in_words(left)} left' if left else ''}"
    )


def privacy_spent(record: RoundRecord) -> str | None:
    """Return the line with the hospitals' epsilons after a round; None: there are none."""
    told = [
        f"{name} {part.privacy.epsilon:.2f} at delta {part.privacy.delta:g}"
        for name, part in record.hospitals.items()
        if part.privacy is not None
    ]
    return f"  epsilon so far: {', '.join(told)}" if told else None


def findings_table(columns: dict[str, AucByFinding]) -> list[str]:
    """Return the rows of a table with an AUC for every finding in each of the columns."""
    width = max(len(finding) for finding in FINDINGS)
    rows = [f"  {'finding':<{width}}" + "".join(f"{name:>12}" for name in columns)]
    rows += [
        f"  {finding:<{width}}" + "".join(f"{rounded(by[finding]):>12}" for by in columns.values())
        for finding in FINDINGS
    ]
    return rows
