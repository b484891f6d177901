from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import BadInput
from common.findings import UNKNOWN
from common.seeds import generator
from common.shard import Bytes
from radiographs.write.partition import dirichlet, iid, noniid, random_sizes


def labels_of(images: int, seed: int = 0) -> Bytes:
    prevalence = np.geomspace(0.01, 0.2, 14)
    return (np.random.default_rng(seed).random((images, 14)) < prevalence).astype(np.uint8)


def drawn_labels(images: int, seed: int) -> Bytes:
    """Labels of which none, some or all are without a finding."""
    rng = np.random.default_rng(seed)
    prevalence = float(rng.choice([0, 0.01, 0.06, 0.2, 1]))
    return (rng.random((images, 14)) < prevalence).astype(np.uint8)


def slow_noniid(labels: Bytes, hospitals: int, seed: int) -> list[set[int]]:
    """The paper's algorithm word by word, films without a finding as the last class."""
    sizes = random_sizes(len(labels), hospitals, seed).tolist()
    counts = labels.sum(axis=0).tolist()
    order = sorted(range(14), key=lambda c: (counts[c], c))
    groups = [
        {i for i in range(len(labels)) if labels[i, c] and not labels[i, order[:k]].any()}
        for k, c in enumerate(order)
    ]
    groups.append({i for i in range(len(labels)) if not labels[i].any()})
    held: list[list[int]] = [[] for _ in range(hospitals)]
    current = 0
    for number, group in enumerate(groups):
        for _ in group:
            while len(held[current]) == sizes[current]:
                current += 1
            held[current].append(number)
    return [set(groups_held) for groups_held in held]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 8), st.integers(0, 2**31))
def test_noniid_is_the_papers_algorithm(hospitals: int, seed: int) -> None:
    labels = labels_of(120, seed)
    assignment = noniid(labels, hospitals, seed, no_finding="last")
    assert np.bincount(assignment).tolist() == random_sizes(120, hospitals, seed).tolist()
    counts = labels.sum(axis=0)
    order = sorted(range(14), key=lambda c: (counts[c], c))
    kinds = [next((k for k, c in enumerate(order) if row[c]), 14) for row in labels]
    held = [{kinds[i] for i in np.flatnonzero(assignment == h)} for h in range(hospitals)]
    assert held == slow_noniid(labels, hospitals, seed)


def test_images_of_unknown_labels_are_not_split() -> None:
    labels = labels_of(40)
    labels[7, 3] = UNKNOWN
    splits: list[Callable[[], object]] = [
        lambda: noniid(labels, 2, 0), lambda: iid(labels, 2, 0), lambda: dirichlet(labels, 2, 1, 0),
    ]  # fmt: skip
    for split in splits:
        with pytest.raises(BadInput, match="some labels are unknown"):
            split()


def test_last_is_what_it_was_before_there_was_a_choice() -> None:
    labels = labels_of(40)
    patients = [f"p{i // 2}" for i in range(40)]
    assert noniid(labels, 4, 7, no_finding="last").tolist() == [
        0, 0, 2, 2, 2, 3, 0, 1, 3, 3, 0, 3, 3, 2, 0, 0, 2, 1, 2, 0,
        2, 0, 3, 2, 0, 3, 0, 2, 2, 3, 3, 3, 2, 0, 3, 0, 3, 0, 2, 3,
    ]  # fmt: skip
    assert noniid(labels, 4, 7, patients, "last").tolist() == [
        0, 0, 3, 3, 3, 3, 0, 0, 3, 3, 2, 2, 2, 2, 0, 0, 2, 2, 0, 0,
        0, 0, 3, 3, 0, 0, 2, 2, 2, 2, 3, 3, 1, 1, 2, 2, 0, 0, 3, 3,
    ]  # fmt: skip


def slow_spread(labels: Bytes, hospitals: int, seed: int, patients: list[str]) -> list[int]:
    """Film by film: patients with a finding fill the findings' places, the others what is left."""
    images: dict[str, list[int]] = defaultdict(list)
    for i, patient in enumerate(patients):
        images[patient].append(i)
    names = sorted(images)
    order = generator(seed, "partition order").permutation(len(names)).tolist()
    place = dict(zip(names, order, strict=True))
    counts = labels.sum(axis=0).tolist()
    rarest_first = sorted(range(14), key=lambda c: (counts[c], c))
    positives = {name: sum(1 for i in images[name] if labels[i].any()) for name in names}

    def turn(name: str) -> tuple[int, int]:
        kinds = [k for k, c in enumerate(rarest_first) if any(labels[i, c] for i in images[name])]
        return kinds[0], place[name]

    sizes = random_sizes(len(labels), hospitals, seed).tolist()
    with_finding = sum(positives.values())
    home: dict[str, int] = {}
    hospital = taken = 0
    for name in sorted((name for name in names if positives[name]), key=turn):
        while taken >= sum(sizes[: hospital + 1]) * with_finding // len(labels):
            hospital += 1
        home[name] = hospital
        taken += positives[name]
    held = Counter(home[name] for name in home for _ in images[name])
    room = [max(sizes[h] - held[h], 0) for h in range(hospitals)]
    well = sorted((name for name in names if not positives[name]), key=lambda name: place[name])
    films = sum(len(images[name]) for name in well)
    hospital = taken = 0
    for name in well:
        while taken >= sum(room[: hospital + 1]) * films // sum(room):
            hospital += 1
        home[name] = hospital
        taken += len(images[name])
    return [home[patient] for patient in patients]


@settings(deadline=None, max_examples=150)
@given(
    images=st.integers(1, 150),
    hospitals=st.integers(1, 8),
    seed=st.integers(0, 2**31),
    films=st.none() | st.integers(1, 6),
)
def test_spread_equals_a_slow_loop(
    images: int, hospitals: int, seed: int, films: int | None
) -> None:
    labels = drawn_labels(images, seed)
    patients = [f"p{i:03}" for i in range(images)]
    if films is not None:
        patients = [
            f"p{i}" for i in np.random.default_rng(seed).integers(0, 1 + images // films, images)
        ]
    try:
        assignment = noniid(labels, hospitals, seed, None if films is None else patients)
    except BadInput as error:
        assert "too few" in str(error) or "would get no image" in str(error)  # noqa: PT017
        return
    assert assignment.tolist() == slow_spread(labels, hospitals, seed, patients)


@settings(deadline=None, max_examples=200)
@given(
    images=st.integers(1, 400),
    hospitals=st.integers(1, 12),
    seed=st.integers(0, 2**31),
    films=st.none() | st.integers(1, 9),
)
def test_spread_gives_each_hospital_its_share_of_films_without_a_finding(
    images: int, hospitals: int, seed: int, films: int | None
) -> None:
    labels = drawn_labels(images, seed)
    patients = None
    if films is not None:
        numbers = np.random.default_rng(seed).integers(0, 1 + images // films, images)
        patients = [f"p{number}" for number in numbers]
    try:
        assignment = noniid(labels, hospitals, seed, patients, "spread")
    except BadInput as error:
        assert "too few" in str(error) or patients is not None  # noqa: PT017
        return
    assert assignment.shape == (images,)
    assert set(assignment.tolist()) == set(range(hospitals))
    drawn = random_sizes(images, hospitals, seed)
    ill = labels.max(axis=1) > 0
    found = np.bincount(assignment[ill], minlength=hospitals)
    excess = np.abs(found * images - drawn * ill.sum())  # in films, times the number of films
    if patients is None:
        assert np.array_equal(np.bincount(assignment), drawn)
        without = np.bincount(assignment[~ill], minlength=hospitals)
        assert (np.abs(without * images - drawn * (~ill).sum()) < images).all()
        assert (excess < images).all()
    else:
        homes = set(zip(patients, assignment.tolist(), strict=True))
        assert len(homes) == len(set(patients))
        most = max(Counter(p for p, shown in zip(patients, ill, strict=True) if shown).values(),
                   default=0)  # fmt: skip
        assert (excess <= most * images).all()


def test_noniid_is_skewed_and_iid_is_not() -> None:
    labels = labels_of(4000)

    def spread(assignment: np.ndarray) -> float:
        shares = [labels[assignment == h].mean(axis=0) for h in range(10)]
        return float(np.std(shares, axis=0).sum())

    even = iid(labels, 10, 0)
    assert max(np.bincount(even)) - min(np.bincount(even)) <= 1
    assert spread(noniid(labels, 10, 0)) > 5 * spread(even)
    assert spread(dirichlet(labels, 10, 0.2, 0)) > spread(dirichlet(labels, 10, 100, 0))


@pytest.mark.parametrize("split", ["noniid", "iid", "dirichlet"])
def test_each_image_goes_to_one_hospital_and_patients_stay_together(split: str) -> None:
    labels = labels_of(600)
    patients = [f"p{i // 3}" for i in range(600)]
    calls = {
        "noniid": lambda seed: noniid(labels, 5, seed, patients),
        "iid": lambda seed: iid(labels, 5, seed, patients),
        "dirichlet": lambda seed: dirichlet(labels, 5, 0.5, seed, patients),
    }
    assignment = calls[split](1)
    assert assignment.shape == (600,)
    assert set(assignment) == set(range(5))
    assert all(len(set(assignment[i : i + 3])) == 1 for i in range(0, 600, 3))
    assert np.array_equal(assignment, calls[split](1))
    assert not np.array_equal(assignment, calls[split](2))


def test_a_hospital_without_an_image_is_refused() -> None:
    with pytest.raises(BadInput, match="too few"):
        noniid(labels_of(3), 4, 0)
    remedy = "would get no image; ask for fewer hospitals, a larger alpha or another seed"
    with pytest.raises(BadInput, match=remedy):
        dirichlet(labels_of(30), 10, 0.001, 0)
    several = ["most"] * 27 + ["a", "b", "c"]
    with pytest.raises(BadInput, match="no image; ask for fewer hospitals or another seed"):
        noniid(labels_of(30), 4, 0, several)


@settings(deadline=None, max_examples=150)
@given(
    split=st.sampled_from(["noniid", "iid", "dirichlet"]),
    images=st.integers(1, 300),
    hospitals=st.integers(1, 12),
    seed=st.integers(0, 2**31),
    films=st.none() | st.integers(1, 9),
)
def test_whatever_is_shared_out_goes_whole_to_one_hospital_each(
    split: str, images: int, hospitals: int, seed: int, films: int | None
) -> None:
    rng = np.random.default_rng(seed)
    labels = labels_of(images, seed)
    patients = None
    if films is not None:
        patients = [f"p{n}" for n in rng.integers(0, 1 + images // films, images)]

    def share_out(number: int) -> np.ndarray:
        if split == "dirichlet":
            return dirichlet(labels, hospitals, 0.5, number, patients)
        return {"noniid": noniid, "iid": iid}[split](labels, hospitals, number, patients)

    try:
        assignment = share_out(seed)
    except BadInput as error:
        assert "too few" in str(error) or "would get no image" in str(error)  # noqa: PT017
        return
    assert assignment.shape == (images,)
    assert set(assignment.tolist()) == set(range(hospitals))
    assert np.array_equal(assignment, share_out(seed))
    if patients is not None:
        homes = set(zip(patients, assignment.tolist(), strict=True))
        assert len(homes) == len(set(patients))
    elif split == "iid":
        assert np.ptp(np.bincount(assignment)) <= 1
    elif split == "noniid":
        assert np.bincount(assignment).tolist() == random_sizes(images, hospitals, seed).tolist()


@settings(deadline=None)
@given(st.integers(1, 2000), st.integers(1, 50), st.integers(0, 2**31))
def test_drawn_sizes_are_all_of_the_images_and_none_is_tiny(
    images: int, hospitals: int, seed: int
) -> None:
    if images < hospitals:
        return
    sizes = random_sizes(images, hospitals, seed)
    assert sizes.sum() == images
    assert sizes.min() >= max(1, images // (4 * hospitals))
