"""What came back in one attempt at a round."""

from dataclasses import dataclass, field

from common.histograms import Histograms
from common.protocol import PrivacySpent
from common.scores import Scores
from server.run.records import HospitalRecord, SecureSum


@dataclass
class Collected:
    """What came back in one attempt.

    Attributes:
        asked: Hospitals of which a reply was awaited.
        idle: Those that were there and not asked.
        busy: Those that were still busy when the attempt was over.
        hospitals: What each good reply was, by the hospital's name.
        validations: Scores of what was sent, by name.
        histograms: Those of the hospitals that show them, by name.
        rejected: Why a reply was not good enough, by name.
        lost: Why there was no reply, by name.
        kept: Hospitals that have kept what they were told to.
        memory: Each hospital's peak, by name, in bytes.
        sums: What is known of the hospitals together, where their updates were summed.
        liars: Hospitals that have lied in a sum, each of them rejected.
        spent: What hospitals with an update in a sum told of their privacy, those too that failed
            at its end.
    """

    asked: list[str]
    idle: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    hospitals: dict[str, HospitalRecord] = field(default_factory=dict)
    validations: dict[str, Scores] = field(default_factory=dict)
    histograms: dict[str, Histograms] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)
    sums: list[SecureSum] = field(default_factory=list)
    liars: set[str] = field(default_factory=set)
    spent: list[PrivacySpent] = field(default_factory=list)

    @property
    def counted(self) -> int:
        """Hospitals whose updates make the mean: of a sum also those that failed at its end."""
        return sum(len(each.hospitals) for each in self.sums) or len(self.hospitals)

    @property
    def answered(self) -> set[str]:
        """Hospitals whose reply came and was not rejected."""
        return {*self.asked} - self.lost.keys() - self.rejected.keys() - {*self.busy}

    @property
    def there(self) -> set[str]:
        """The hospitals that were there when the attempt began."""
        return {*self.asked, *self.idle}
