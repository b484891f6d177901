import numpy as np

from common.seeds import generator, patient_fraction

EXPECTED = [469, 920, 66]


def test_each_seed_purpose_round_and_hospital_has_its_own_stream() -> None:
    keys = [(0, "a", 0, ""), (1, "a", 0, ""), (0, "b", 0, ""), (0, "a", 1, ""), (0, "a", 0, "x")]
    rng = {generator(*key).integers(2**62) for key in keys}
    assert len(rng) == len(keys)


def test_streams_are_the_same_in_every_process_and_version() -> None:
    assert generator(7, "order", 3, "hospital-01").integers(1000, size=3).tolist() == EXPECTED
    np.random.seed(0)  # noqa: NPY002 - a global state that must not matter
    first = generator(1, "x").random()
    np.random.seed(1)  # noqa: NPY002
    assert generator(1, "x").random() == first


def test_a_tenth_of_the_patients_lies_below_a_tenth() -> None:
    fractions = [patient_fraction(5, f"patient-{i}") for i in range(5000)]
    assert min(fractions) >= 0
    assert max(fractions) < 1
    assert 400 < sum(fraction < 0.1 for fraction in fractions) < 600
