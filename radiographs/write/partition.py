"""Splits images between hospitals: pure functions of labels and a seed.

Every function takes the labels of N images, all of them known, and returns the hospital of each:
an image of unknown labels has no class, and none may be made up for it. A unit is assigned
as a whole: an image or, with ``patients``, all images of a patient. A unit's class is its rarest
finding, or ``No Finding``. The rarest finding has the fewest of the given images; ties are
broken by the order of FINDINGS.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from common.errors import BadInput
from common.findings import FINDINGS, UNKNOWN
from common.seeds import generator
from common.shard import Bytes

Integers = npt.NDArray[np.int64]

NoFinding = Literal["spread", "last"]
"""How :func:`noniid` splits the images without a finding: in proportion to size, or as a class."""

SMALLEST_SHARE = 4
"""A hospital's size is at least an equal share divided by this."""


class _Units(NamedTuple):
    """The U units that are assigned as a whole.

    Attributes:
        of_image: int64, N: the unit of each image.
        sizes: int64, U: number of images of each unit.
        findings: int64, U x 14: number of images of each unit with each finding.
        classes: int64, U: 0 (rarest finding) to 13, or 14 for none.
    """

    of_image: Integers
    sizes: Integers
    findings: Integers
    classes: Integers


def noniid(
    labels: Bytes,
    hospitals: int,
    seed: int,
    patients: Sequence[str] | None = None,
    no_finding: NoFinding = "spread",
) -> Integers:
    """Split as the paper does for its Non-IID setting.

    :func:`random_sizes` draws each hospital's size. Classes are then assigned from the rarest to
    the most common. A class's images go in random order to the first hospital that is not full,
    starting with hospital 0. With ``patients``, the last patient of a hospital may exceed its
    size; the next hospital then gets fewer images.

    The paper does not say where images without a finding go. With ``"last"`` they are the last
    class: the last hospitals get no finding. With ``"spread"`` each hospital's size has room for
    images with and without a finding in the same proportion as overall.

    Args:
        labels: uint8, N x 14, 0 or 1.
        hospitals: H, at least 1.
        seed: At least 0.
        patients: N names; images with the same name stay at one hospital.
        no_finding: How images without a finding are split.

    Returns:
        int64, N, each in [0, H).

    Raises:
        BadInput: A hospital would get no image, or a label is unknown.
    """
    units = _units(labels, hospitals, patients)
    # Filling hospital by hospital, class by class, is one queue cut at the hospitals' sizes.
    queue = np.lexsort((_shuffled(len(units.sizes), seed), units.classes))
    bounds = np.cumsum(random_sizes(len(labels), hospitals, seed))
    hospital_of_unit = np.empty_like(units.sizes)
    if no_finding == "last":
        hospital_of_unit[queue] = _cut(units.sizes[queue], bounds)
    else:
        with_finding = units.of_image[labels.any(axis=1)]
        positives = np.bincount(with_finding, minlength=len(units.sizes))
        hospital_of_unit[queue] = _spread(units.sizes[queue], positives[queue], bounds)
    return _of_images(units, hospital_of_unit, hospitals)


def iid(
    labels: Bytes, hospitals: int, seed: int, patients: Sequence[str] | None = None
) -> Integers:
    """Split into equal sizes with the same distribution of findings.

    Images are sorted by their set of findings, the rarest finding first and at random within a
    set, and assigned in turn. Sizes, and the counts of each set and of the rarest finding, differ
    by at most 1. With ``patients``, patients with the most images come first, and each goes where
    it keeps sizes and findings most equal; the result is nearly equal.

    Args, Returns, Raises: As :func:`noniid`.
    """
    units = _units(labels, hospitals, patients)
    if patients is None:
        rarest_first = np.argsort(labels.sum(axis=0, dtype=np.int64), kind="stable")
        by_set = labels[:, rarest_first[::-1]].T
        queue = np.lexsort(np.vstack([_shuffled(len(labels), seed), by_set]))
        hospital_of_unit = np.empty_like(units.sizes)
        hospital_of_unit[queue] = np.arange(len(queue)) % hospitals
    else:
        hospital_of_unit = _balanced(units, hospitals, seed)
    return _of_images(units, hospital_of_unit, hospitals)


def dirichlet(
    labels: Bytes,
    hospitals: int,
    alpha: float,
    seed: int,
    patients: Sequence[str] | None = None,
) -> Integers:
    """Split with label skew: each class is split in proportions drawn from Dir(alpha).

    Follows Hsu et al., "Measuring the Effects of Non-Identical Data Distribution for Federated
    Visual Classification", 2019, but draws proportions for each class, as Yurochkin et al., ICML
    2019, do. The classes are the 14 findings and none. Sizes are not controlled.

    Args:
        labels: uint8, N x 14, 0 or 1.
        hospitals: H, at least 1.
        alpha: Above 0; a smaller value concentrates a class at fewer hospitals.
        seed: At least 0.
        patients: N names; images with the same name stay at one hospital.

    Returns:
        int64, N, each in [0, H).

    Raises:
        BadInput: A hospital would get no image, or a label is unknown.
    """
    units = _units(labels, hospitals, patients)
    rng = generator(seed, "partition shares")
    order = _shuffled(len(units.sizes), seed)
    hospital_of_unit = np.empty_like(units.sizes)
    for kind in range(len(FINDINGS) + 1):
        shares = rng.dirichlet(np.full(hospitals, alpha))
        queue = order[units.classes[order] == kind]
        bounds = np.rint(np.cumsum(shares) * units.sizes[queue].sum()).astype(np.int64)
        hospital_of_unit[queue] = _cut(units.sizes[queue], bounds)
    return _of_images(units, hospital_of_unit, hospitals, "fewer hospitals, a larger alpha")


def random_sizes(images: int, hospitals: int, seed: int) -> Integers:
    """Draw each hospital's number of images for :func:`noniid`.

    Each hospital gets a quarter of an equal share. The rest is cut at uniformly random places, a
    draw from Dir(1, ..., 1): all divisions are equally likely.

    Args:
        images: N, at least H.
        hospitals: H, at least 1.
        seed: At least 0.

    Returns:
        int64, H, each at least 1, with sum N.
    """
    floor = max(1, images // (SMALLEST_SHARE * hospitals))
    free = images - floor * hospitals
    cuts = np.sort(generator(seed, "partition sizes").integers(0, free + 1, hospitals - 1))
    return floor + np.diff(cuts, prepend=0, append=free)


def spelled_out(partition: str) -> str:
    """Return a manifest's ``partition`` with the option that it leaves out.

    Manifests name ``no-finding`` only if it is ``spread``: those written before the option existed
    are ``last``, and stay equal to those written with it.
    """
    return partition.replace("noniid by", "noniid no-finding last by")


def _units(labels: Bytes, hospitals: int, patients: Sequence[str] | None) -> _Units:
    if (labels == UNKNOWN).any():
        raise BadInput("some labels are unknown; only images with all labels known can be split")
    if patients is None:
        of_image = np.arange(len(labels))
    else:
        of_image = np.unique(np.asarray(patients, str), return_inverse=True)[1]
    number = len(labels) if patients is None else int(of_image.max(initial=-1)) + 1
    if number < hospitals:
        what = "images" if patients is None else "patients"
        raise BadInput(f"{number} {what} are too few for {hospitals} hospitals; ask for fewer")
    findings = np.zeros((number, len(FINDINGS)), np.int64)
    np.add.at(findings, of_image, labels)
    rarest_first = np.argsort(labels.sum(axis=0, dtype=np.int64), kind="stable")
    present = np.column_stack([findings[:, rarest_first] > 0, np.ones(number, bool)])
    return _Units(of_image, np.bincount(of_image), findings, present.argmax(axis=1))


def _shuffled(number: int, seed: int) -> Integers:
    return generator(seed, "partition order").permutation(number)


def _cut(sizes: Integers, bounds: Integers) -> Integers:
    """Return the hospital of each unit in a queue: the first that is not full at its turn.

    Args:
        sizes: int64, U: number of images of each unit, in the order of the queue.
        bounds: int64, H: cumulative sizes of the hospitals.
    """
    taken_before = np.cumsum(sizes) - sizes
    return np.searchsorted(bounds, taken_before, side="right")


def _spread(sizes: Integers, positives: Integers, bounds: Integers) -> Integers:
    """Return the hospital of each unit in a queue such that each gets its share of findings.

    Units with a finding are cut at the hospitals' shares of all images with a finding. The others
    then fill what is left of each size. By image, a hospital's number of images without a finding
    differs from its exact share by less than 1.

    Args:
        sizes: int64, U: number of images of each unit, units with a finding first.
        positives: int64, U: number of images with a finding of each unit, in the same order.
        bounds: int64, H: cumulative sizes of the hospitals.
    """
    found = np.count_nonzero(positives)
    shares = bounds * positives.sum() // bounds[-1]
    first = _cut(positives[:found], shares)
    filled = np.zeros_like(bounds)
    np.add.at(filled, first, sizes[:found])
    # A patient's images without a finding may fill a hospital beyond its size. The others' room
    # is then more than what is left, and is filled in proportion.
    room = np.cumsum(np.maximum(np.diff(bounds, prepend=0) - filled, 0))
    rest = sizes[found:]
    return np.concatenate([first, _cut(rest, room * rest.sum() // max(room[-1], 1))])


def _balanced(units: _Units, hospitals: int, seed: int) -> Integers:
    """Return the hospital of each unit such that images and findings are spread evenly.

    Greedy: each unit goes where the sum of squared shares, over hospitals and findings, grows
    least. Integer arithmetic gives the same result on every machine.
    """
    amounts = np.column_stack([units.findings, units.sizes])
    totals = np.maximum(amounts.sum(axis=0), 1)
    weights = 2**50 // totals**2
    held = np.zeros((hospitals, amounts.shape[1]), np.int64)
    hospital_of_unit = np.empty_like(units.sizes)
    for unit in np.lexsort((_shuffled(len(units.sizes), seed), -units.sizes)):
        chosen = int((held @ (amounts[unit] * weights)).argmin())
        held[chosen] += amounts[unit]
        hospital_of_unit[unit] = chosen
    return hospital_of_unit


def _of_images(
    units: _Units, hospital_of_unit: Integers, hospitals: int, remedy: str = "fewer hospitals"
) -> Integers:
    assignment = hospital_of_unit[units.of_image]
    empty = np.flatnonzero(np.bincount(assignment, minlength=hospitals) == 0)
    if len(empty):
        raise BadInput(
            f"hospital {empty[0]} of {hospitals} would get no image; ask for {remedy} or "
            "another seed"
        )
    return assignment
