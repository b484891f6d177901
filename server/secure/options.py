"""Options of secure aggregation, and what they fit with; needs no torch."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from common.options import Training
from common.secure.graph import COMPLETE
from common.secure.settings import FEWEST, MOST_FILMS, SPARSE_THRESHOLD, SecureSettings
from server.rounds.participation import Participation
from server.run.records import RoundRecord
from server.strategies.settings import NEEDS, ROBUST, STEPS, StrategySettings


class SecureOptions(BaseModel):
    """How updates are hidden; ``flower-server`` and ``config.json`` have these fields."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    secure_aggregation: bool = Field(
        False,
        description="sum the hospitals' updates under masks: the server learns the sum and nothing "
        "of one hospital's update, films or training loss",
    )
    secure_clip: float = Field(
        10.0,
        gt=0,
        le=2.0**20,
        description="of --secure-aggregation: longest change of a hospital's parameters in a "
        "round; longer ones are shortened there",
    )
    secure_threshold: float = Field(
        2 / 3,
        ge=0.5,
        lt=1,
        description="of --secure-aggregation: more than this share of a sum's hospitals must stay "
        "until its end, or it is repeated",
    )
    secure_groups: int = Field(
        1,
        ge=1,
        description="of --secure-aggregation: groups of three hospitals or more, each a sum of its "
        "own, for --strategy median and the like; 1: one sum of all",
    )

    def settings(
        self,
        films: int,
        hospitals: int,
        earlier: Sequence[RoundRecord],
        attempt: int,
        rotation: int | None = None,
    ) -> SecureSettings | None:
        """Return the settings of an attempt's sums; None: there are none.

        A hospital is taken to have as many films as in the mean of the earlier round with the most:
        others may be asked in each, and some have far more than others. An attempt may fail since
        that is too few; where films are not known, half a word for a parameter would be too coarse.

        Args:
            films: Most of one hospital.
            hospitals: That are asked.
            earlier: Rounds that are done.
            attempt: At the round.
            rotation: With which parameters may travel in half a word; None: they may not.
        """
        if not self.secure_aggregation:
            return None
        films = min(films, MOST_FILMS // max(1, hospitals))
        total = films * hospitals
        means = [
            sum(each.films for each in record.secure)
            / sum(len(each.hospitals) for each in record.secure)
            for record in earlier
            if record.secure
        ]
        known = bool(means) and attempt == 1
        if known:
            total = min(total, round(max(means) * hospitals) + 1)
        return SecureSettings(
            clip=self.secure_clip,
            films=films,
            total=total,
            threshold=self.secure_threshold,
            rotation=rotation if known else None,
        )


def check_secure(
    chosen: SecureOptions,
    combining: StrategySettings,
    training: Training,
    participation: Participation,
    needed: int,
    norm_limit: float,
    canary: bool,
) -> None:
    """Check that secure aggregation fits what else a run is to do.

    Args:
        chosen: How updates are hidden.
        combining: What the server does with updates.
        training: What the hospitals do.
        participation: Who is in a round.
        needed: Good replies that a round needs.
        norm_limit: Of updates; 0: none.
        canary: Whether there is one.

    Raises:
        ValueError: It does not; says why, and what to give.
    """
    if not chosen.secure_aggregation:
        for name, field in SecureOptions.model_fields.items():
            if getattr(chosen, name) != field.default:
                option = f"--{name.replace('_', '-')}"
                raise ValueError(f"{option} is a setting of --secure-aggregation; leave it out")
        return
    _check_strategy(chosen, combining)
    needs_updates = {
        "--norm-limit": (bool(norm_limit), "compares single updates"),
        "--rounds-end": (bool(participation.rounds_end), "adds single updates to later rounds"),
        "--sample size": (participation.sample == "size", "draws hospitals by their films"),
        "--canary": (canary, "tells films and training loss of each hospital"),
        "--dp site": (training.dp == "site", "shortens single updates at the server"),
        f"--wire {training.wire}": (
            training.wire not in ("fp32", "int8"),
            "encodes updates that would not add up",
        ),
    }
    for option, (given, why) in needs_updates.items():
        if given:
            raise ValueError(
                f"{option} {why}, and under --secure-aggregation the server knows sums alone; "
                "leave one of the two out"
            )
    if needed > COMPLETE and chosen.secure_threshold <= SPARSE_THRESHOLD:
        raise ValueError(
            f"--secure-threshold {chosen.secure_threshold:g}: beyond {COMPLETE} hospitals each "
            f"masks with some of the others alone; give more than {SPARSE_THRESHOLD}"
        )
    if needed < FEWEST * chosen.secure_groups:
        raise ValueError(
            f"--secure-aggregation: a sum is of {FEWEST} hospitals at least, so that a round needs "
            f"{FEWEST * chosen.secure_groups} good replies, and the quorum is {needed}; give a "
            "higher --quorum, or fewer --secure-groups"
        )


def _check_strategy(chosen: SecureOptions, combining: StrategySettings) -> None:
    name, groups = combining.strategy, chosen.secure_groups
    if name in NEEDS or name == "fednova" or ":" in name:
        raise ValueError(
            f"--strategy {name} needs each hospital's update or films by themselves, and under "
            "--secure-aggregation the server knows sums alone; give fedavg, fedavgm, fedadagrad, "
            "fedadam or fedyogi"
        )
    robust = name in ROBUST or combining.average in ROBUST
    words = name if combining.average == "weighted" else f"{name} --average {combining.average}"
    if robust and groups < FEWEST:
        raise ValueError(
            f"--strategy {words} compares updates, and under --secure-aggregation there is one sum "
            f"alone; give --secure-groups {FEWEST} or more, whose sums it compares then"
        )
    if groups > 1 and not robust:
        along = " --average median" if name in STEPS else ""
        raise ValueError(
            f"--secure-groups makes sums for a strategy that compares them, and --strategy {name} "
            f"does not; give {f'--strategy {name}{along}' if along else '--strategy median'}, or "
            "leave --secure-groups out"
        )
