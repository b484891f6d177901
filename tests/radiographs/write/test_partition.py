import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import BadInput
from common.shard import Bytes
from radiographs.write.partition import dirichlet, iid, noniid, random_sizes


def labels_of(images: int, seed: int = 0) -> Bytes:
    prevalence = np.geomspace(0.01, 0.2, 14)
    return (np.random.default_rng(seed).random((images, 14)) < prevalence).astype(np.uint8)


def slow_noniid(labels: Bytes, hospitals: int, seed: int) -> list[set[int]]:
    """The paper's algorithm word by word: class after class, hospital after hospital."""
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
    assignment = noniid(labels, hospitals, seed)
    assert np.bincount(assignment).tolist() == random_sizes(120, hospitals, seed).tolist()
    counts = labels.sum(axis=0)
    order = sorted(range(14), key=lambda c: (counts[c], c))
    kinds = [next((k for k, c in enumerate(order) if row[c]), 14) for row in labels]
    held = [{kinds[i] for i in np.flatnonzero(assignment == h)} for h in range(hospitals)]
    assert held == slow_noniid(labels, hospitals, seed)


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
    with pytest.raises(BadInput, match="would get no image"):
        dirichlet(labels_of(30), 10, 0.001, 0)


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
