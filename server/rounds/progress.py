"""What a round leaves in ``rounds.jsonl``, and what can be read from it again."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from common.protocol import Reply
from common.readings import FindingAuc
from common.scores import Scores, mean_auc, weighted_auc
from server.rounds.choosing import Choice
from server.rounds.pace import at_rate
from server.run.events import Event, FinalModel, Repeated
from server.run.records import Bytes, HospitalRecord, HospitalSeconds, Pace, RoundRecord, Validation
from server.strategies.base import UpdateInfo

STRIKES = 3
"""Bad replies in a row after which a hospital is excluded."""


def hospital_record(
    reply: Reply,
    asked: float,
    fetched: float,
    received: int,
    sent: int,
    update_norm: float | None,
    pace: Pace | None,
    auc_intervals: dict[str, FindingAuc] | None,
    stale: int = 0,
) -> HospitalRecord:
    """Return a hospital's part of a round's line.

    Receiving is what is left of the time until the reply, so that no clocks of two machines are
    compared.

    Args:
        reply: What the hospital said.
        asked: Seconds from the instruction to the reply, on the server's clock.
        fetched: Seconds until its weights were here after that.
        received: Bytes of weights that the hospital received.
        sent: Bytes of weights that it sent.
        update_norm: Euclidean norm of the change of its weights; None: it is not known, and
            neither are examples and loss.
        pace: How fast its update moved; None: the same.
        auc_intervals: Read from its histograms, if it told any.
        stale: By how many rounds the model was older that it trained.
    """
    seconds, scores = reply.seconds, reply.validation
    return HospitalRecord(
        examples=None if update_norm is None else reply.examples,
        loss=reply.loss,
        auc=scores.auc if scores else None,
        auc_by_finding=scores.auc_by_finding if scores else None,
        validation_images=scores.images if scores else 0,
        validation_loss=scores.loss if scores else None,
        seconds=HospitalSeconds(
            receive=max(0.0, asked - seconds.wait - seconds.evaluate - seconds.train),
            wait=seconds.wait,
            evaluate=seconds.evaluate,
            train=seconds.train,
            send=fetched,
        ),
        bytes=Bytes(received=received, sent=sent),
        update_norm=update_norm,
        pace=pace,
        auc_intervals=auc_intervals,
        stale=stale,
        privacy=reply.privacy,
        weights_sha256=reply.weights,
    )


def across(validations: dict[str, Scores], equal: bool) -> Validation:
    """Return the hospitals' mean AUC, overall and by finding.

    Args:
        validations: By the hospital's name.
        equal: Every hospital counts the same, rather than by the validation images that it claims.
    """
    ordered = [validations[name] for name in sorted(validations)]
    by_finding = weighted_auc(
        [(1 if equal else scores.images, scores.auc_by_finding) for scores in ordered]
    )
    return Validation(auc=mean_auc(by_finding), auc_by_finding=by_finding)


def mean_loss(parts: Iterable[UpdateInfo]) -> float | None:
    """Return the mean training loss, weighted by examples, of the updates of which it is told."""
    told = [(part.examples, part.loss) for part in parts if part.loss is not None]
    if not told:
        return None
    return sum(examples * loss for examples, loss in told) / sum(count for count, _ in told)


def at_fault(good: Collection[str], rejected: Mapping[str, str]) -> list[str]:
    """Return the rejected hospitals that are to blame for it, sorted.

    What goes wrong in the same way at all of several hospitals is the run's fault and not theirs.

    Args:
        good: Hospitals with a good reply.
        rejected: Why the others' replies were rejected, by name.
    """
    alike = not good and len(rejected) > 1 and len(set(rejected.values())) == 1
    return [] if alike else sorted(rejected)


@dataclass
class Progress:
    """How far a run is; follows from what it wrote, so that a resumed run knows the same.

    Attributes:
        round: The last one that is done.
        known: Hospitals that took part.
        counted: The last round in which each hospital's reply counted, by name.
        choice: Of the best model.
    """

    round: int = 0
    known: set[str] = field(default_factory=set)
    counted: dict[str, int] = field(default_factory=dict)
    choice: Choice = field(default_factory=Choice)
    _strikes: dict[str, int] = field(default_factory=dict)
    _paces: dict[str, list[tuple[Pace, float | None]]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, records: Iterable[RoundRecord], events: Iterable[Event], choice: Choice | None = None
    ) -> "Progress":
        """Return what the lines of ``rounds.jsonl`` and of ``events.jsonl`` say.

        A round that was repeated has its event :class:`Repeated` before it has a line, and a last
        one of a run that went on later its :class:`FinalModel` after that.

        Args:
            records: The rounds that are done.
            events: Of the run.
            choice: Follows the scores; default: a new one.
        """
        progress = cls(choice=choice or Choice())
        events = list(events)
        entries: list[Repeated | RoundRecord | FinalModel] = []
        entries += [event for event in events if isinstance(event, Repeated)]
        entries += records
        entries += [event for event in events if isinstance(event, FinalModel)]
        for entry in sorted(entries, key=lambda entry: entry.round):
            if isinstance(entry, FinalModel):
                progress.note_final(entry)
                continue
            progress.struck_out(entry.hospitals, entry.rejected)
            if isinstance(entry, RoundRecord):
                progress.note(entry)
        return progress

    @property
    def best(self) -> tuple[float, int] | None:
        """Validation AUC and round of the best model."""
        return self.choice.best

    def note(self, record: RoundRecord) -> None:
        """Count a round as done; its AUC is that of the model before the round."""
        self.choice.note(record.round - 1, record.auc, record.pooled)
        self.known |= record.cohort
        for name, hospital in record.hospitals.items():
            self.counted[name] = record.round
            if hospital.pace is not None:
                self._paces.setdefault(name, []).append((hospital.pace, record.lr))
        self.round = record.round

    def note_final(self, final: FinalModel) -> None:
        """Note the scores of the model after the last round."""
        self.choice.note(final.round, final.auc, final.pooled)

    def paces_at(self, lr: float) -> dict[str, list[Pace]]:
        """Return the paces of the updates that counted, by the hospital's name, round by round.

        What an update of another learning rate moved is scaled to this one.

        Args:
            lr: The learning rate.
        """
        return {
            name: [at_rate(pace, rate or lr, lr) for pace, rate in paces]
            for name, paces in self._paces.items()
        }

    def struck_out(self, good: Collection[str], bad: Collection[str]) -> list[str]:
        """Count bad replies in a row; return the hospitals that must be excluded now."""
        for name in good:
            self._strikes.pop(name, None)
        for name in bad:
            self._strikes[name] = self._strikes.get(name, 0) + 1
        out = [name for name, count in self._strikes.items() if count == STRIKES]
        for name in out:
            del self._strikes[name]
        return out
