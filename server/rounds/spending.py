"""What a round has told of each hospital or of its films, where noise bounds it."""

from collections.abc import Iterable, Mapping, Sequence

from common.accounting import DELTA, Noisy, Privacy, epsilon_of
from common.options import Training
from common.protocol import PrivacySpent
from server.run.records import HospitalRecord, RoundRecord


def spent_in(
    done: Sequence[RoundRecord], hospitals: Mapping[str, HospitalRecord], training: Training
) -> dict[str, PrivacySpent]:
    """Return what each hospital of a round has spent after it; nothing without ``--dp``.

    A hospital has spent the noise of the rounds in which it counted. That others were drawn in the
    other rounds does not lower it: hospitals know who is drawn.

    Args:
        done: The rounds before it.
        hospitals: Of the round.
        training: Settings.
    """
    if training.dp == "site":
        costs = {name: 1 + sum(name in record.hospitals for record in done) for name in hospitals}
        epsilons = {
            rounds: epsilon_of([Noisy(noise=training.dp_noise, rate=1, steps=rounds)], DELTA)
            for rounds in set(costs.values())
        }
        return {
            name: PrivacySpent(epsilon=epsilons[rounds], delta=DELTA)
            for name, rounds in costs.items()
        }
    return {name: part.privacy for name, part in hospitals.items() if part.privacy is not None}


def privacy_of(
    done: Sequence[RoundRecord], spent: Iterable[PrivacySpent], training: Training
) -> Privacy | None:
    """Return what a round's model promises; None: nothing.

    Args:
        done: The rounds before it.
        spent: By the hospitals of the round.
        training: Settings.
    """
    before = (part.privacy for record in done for part in record.hospitals.values())
    known = [*spent, *(each for each in before if each is not None)]
    if training.dp == "none" or not known:
        return None
    return Privacy(
        dp=training.dp,
        clip=training.dp_clip,
        noise=training.dp_noise,
        epsilon=max(each.epsilon for each in known),
        delta=max(each.delta for each in known),
    )
