import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.model import build_model, state_of
from common.state import State, select, spec_of
from common.wire import WireError, pack, unpack
from tests.support.states import same_bits

ARRAYS = hnp.arrays(
    st.sampled_from([np.float16, np.float32, np.float64, np.int64, np.uint8, np.bool_]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)
STATES = st.dictionaries(st.text(min_size=1, max_size=20), ARRAYS, max_size=5)


@given(STATES)
def test_a_state_comes_back_bit_for_bit(state: State) -> None:
    assert same_bits(unpack(pack(state), spec_of(state)), state)


def test_the_real_model_comes_back_bit_for_bit() -> None:
    state = state_of(build_model("densenet121", 1))
    assert state["features.norm0.num_batches_tracked"].shape == ()
    blob = pack(state)
    assert same_bits(unpack(blob, spec_of(state)), state)
    assert len(blob) < 28.3e6


def test_the_same_state_gives_the_same_bytes_in_any_order() -> None:
    state = {name: np.full(3, len(name), np.float32) for name in ("b", "a", "cc")}
    assert pack(state) == pack(dict(reversed(state.items())))


def test_slices_and_transposes_are_packed_by_value() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T[::2]
    assert np.array_equal(unpack(pack({"a": array}), {"a": ("float32", (2, 3))})["a"], array)


@pytest.mark.parametrize(
    "blob",
    [b"", b"\x00" * 8, b"\xff" * 64, pickle.dumps({"a": 1}), pack({"a": np.ones(4)})[:-1]],
)
def test_what_is_no_safetensors_blob_is_refused(blob: bytes) -> None:
    with pytest.raises(WireError, match="not a safetensors blob"):
        unpack(blob, {"a": ("float64", (4,))})


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"a": ("float32", (4,))}, "a is float64"),
        ({"a": ("float64", (2, 2))}, r"not float64 \(2, 2\)"),
        ({"a": ("float64", (4,)), "b": ("int64", ())}, "b is missing"),
        ({}, "'a' does not belong"),
    ],
)
def test_another_state_is_refused(spec: dict[str, tuple[str, tuple[int, ...]]], why: str) -> None:
    with pytest.raises(WireError, match=why):
        unpack(pack({"a": np.ones(4)}), spec)


def test_head_and_backbone_are_all_of_it() -> None:
    state = state_of(build_model("densenet-tiny"))
    assert select(state, "head").keys() == {"classifier.weight", "classifier.bias"}
    assert {**select(state, "backbone"), **select(state, "head")}.keys() == state.keys()


def test_a_blob_is_read_where_it_lies_and_another_order_of_its_tensors_by_its_header() -> None:
    state = {"a": np.arange(6, dtype=np.float32), "b": np.arange(4, dtype=np.float32)}
    blob = bytearray(pack(state))
    found = unpack(memoryview(blob), spec_of(state))
    assert found["a"].base is not None
    blob[-4:] = np.float32(7).tobytes()
    assert found["b"].tolist() == [0, 1, 2, 7]
    header = b'{"b":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
    header += b'"a":{"dtype":"F32","shape":[6],"data_offsets":[16,40]}}'
    turned = len(header).to_bytes(8, "little") + header + state["b"].tobytes()
    assert same_bits(unpack(turned + state["a"].tobytes(), spec_of(state)), state)
