import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from common.state import State
from server.strategies.mean_of_all import MeanOfAll

LIKE: State = {"w": np.zeros(2, np.float32)}
ROUNDS = st.lists(
    st.tuples(
        st.dictionaries(st.integers(0, 5), st.floats(-3, 3, width=32), min_size=1),
        st.integers(0, 6),
    ),
    min_size=1,
    max_size=6,
)


@given(ROUNDS)
@settings(deadline=None)
def test_it_is_the_mean_of_what_all_remember_whoever_joins_or_leaves(
    rounds: list[tuple[dict[int, float], int]],
) -> None:
    mean, most = MeanOfAll(), 0
    remembered: dict[int, float] = {}
    for changes, known in rounds:
        for hospital, change in changes.items():
            remembered[hospital] = remembered.get(hospital, 0.0) + change
        hospitals = max(known, len(remembered))
        most = max(most, hospitals)
        again = MeanOfAll()
        again.load_state_dict(mean.state_dict())
        moved = np.array([1, -1]) * sum(changes.values()) / len(changes)
        for each in (mean, again):
            each.follow({"w": moved}, LIKE, len(changes), hospitals)
        expected = np.array([1, -1]) * sum(remembered.values()) / most
        np.testing.assert_allclose(mean.values["w"], expected, atol=1e-5)
        assert mean.values["w"].dtype == np.float32
        assert np.array_equal(again.values["w"], mean.values["w"])
