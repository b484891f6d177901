import tracemalloc
from typing import get_args

import numpy as np
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.codec import bf16, decode, encode, int8, topk
from common.codec.change import received, sent
from common.model import build_model, state_of
from common.options import Wire
from common.seeds import generator
from common.state import CONTROL, Spec, State, is_parameter, join, spec_of
from common.wire import WireError, pack
from tests.support.states import same_bits

WIRES: list[Wire] = ["bf16", "int8", "topk"]
assert {"fp32", *WIRES} == set(get_args(Wire))

SMALLEST = 2.0**-149
"""Above 0, of float32."""

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)
PARAMETER = hnp.arrays(np.float32, hnp.array_shapes(max_dims=4, max_side=5), elements=FLOATS)
CHANGES = st.builds(
    lambda parameters, statistics, counter, control: (
        {f"layer{i}.weight": array for i, array in enumerate(parameters)}
        | {"norm.running_var": statistics, "norm.num_batches_tracked": np.array(counter)}
        | join({CONTROL: {"layer0.weight": control}})
    ),
    st.lists(PARAMETER, min_size=1, max_size=4),
    PARAMETER,
    st.integers(0, 2**62),
    PARAMETER,
)


def rng(seed: int = 0) -> np.random.Generator:
    return generator(seed, "wire")


def steps_of(array: np.ndarray, wire: Wire) -> np.ndarray:
    """Return the distance between the encodable numbers around each number, the slow way."""
    if wire == "int8" and array.ndim > 1:
        steps = np.zeros(array.shape)
        for channel, row in enumerate(array):
            # A scale is a float32 too: below 64 of its smallest ones a whole channel is lost.
            largest = max(abs(float(x)) for x in row.ravel())
            steps[channel] = max(largest / 127, 64 * SMALLEST)
        return steps
    exponents = np.frompyfunc(lambda x: np.frexp(float(x))[1], 1, 1)(array).astype(int)
    return np.asarray(np.ldexp(1.0, np.maximum(exponents - 8, -133)))


FAINT = {
    "layer0.weight": np.array([[1e-45, 6e-44]], np.float32),
    "norm.running_var": np.zeros(1, np.float32),
    "norm.num_batches_tracked": np.array(0),
    **join({CONTROL: {"layer0.weight": np.zeros(1, np.float32)}}),
}


@given(CHANGES, st.sampled_from(WIRES), st.integers(0, 2**32))
@example(FAINT, "int8", 0)
def test_a_change_comes_back_within_a_step_and_all_else_exactly(
    change: State, wire: Wire, seed: int
) -> None:
    blob = encode(change, wire, rng(seed))
    assert blob == encode(change, wire, rng(seed))
    back = decode(blob, spec_of(change), wire)
    assert spec_of(back) == spec_of(change)
    assert list(back) == list(change)
    parameters = {n: a for n, a in change.items() if "/" not in n and is_parameter(n)}
    exact = {name: array for name, array in change.items() if name not in parameters}
    assert len(exact) == 3
    assert same_bits({name: back[name] for name in exact}, exact)
    kept = sorted((abs(x) for a in parameters.values() for x in a.ravel().tolist()), reverse=True)
    kept = kept[: topk.sent_of(len(kept))]
    found = 0
    for name, array in parameters.items():
        error = np.abs(back[name].astype(np.float64) - array)
        chosen = np.ones(array.shape, bool) if wire != "topk" else back[name] != 0
        assert (error[chosen] <= steps_of(array, wire)[chosen] * 1.0001).all()
        assert (np.abs(array[chosen]) >= kept[-1]).all() or wire != "topk"
        found += int(chosen.sum())
    assert wire != "topk" or found <= len(kept)


@pytest.mark.parametrize("wire", ["bf16", "int8"])
def test_rounding_is_right_in_the_mean(wire: Wire) -> None:
    array = np.array([[1.001, -0.3333, 1e-3, 2.0], [1e-6, -2.2e-6, 5e-9, 0]], np.float32)
    change = {"a.weight": array, "b.bias": array[0]}
    draws = 4000
    for name, like in change.items():
        mean = np.zeros(like.shape)
        for seed in range(draws):
            blob = encode({name: like}, wire, np.random.default_rng(seed))
            mean += decode(blob, spec_of({name: like}), wire)[name]
        deviation = steps_of(like, wire) / 2 / draws**0.5  # of the mean, at most
        np.testing.assert_array_less(np.abs(mean / draws - like), 5 * deviation + 1e-12)


def test_each_channel_has_its_own_scale() -> None:
    array = np.array([[[1.0, -4]], [[1e-6, 3e-6]], [[0, 0]]], np.float32)
    steps, scale = int8.quantised(array, rng())
    np.testing.assert_allclose(scale * 127, [4, 3e-6, 0], rtol=1e-6)
    assert steps.ravel()[[1, 3, 4, 5]].tolist() == [-127, 127, 0, 0]


def test_numbers_that_bf16_has_are_not_moved() -> None:
    array = np.array([0, -0.0, 1, -2.5, 3.3895314e38, 2.0**-133], np.float32)
    for seed in range(20):
        back = bf16.widened(bf16.rounded(array, rng(seed)))
        assert back.tobytes() == array.tobytes()


def test_the_largest_changes_of_all_tensors_are_sent() -> None:
    change: State = {"a.weight": np.full((10, 10), 1, np.float32), "b.bias": np.zeros(50, "f4")}
    change["b.bias"][7], change["a.weight"][3, 4], change["a.weight"][9, 9] = -9, 5, 2
    back = decode(encode(change, "topk", rng()), spec_of(change), "topk")
    assert {n: np.flatnonzero(a).tolist() for n, a in back.items()} == {
        "a.weight": [34, 99],
        "b.bias": [7],
    }
    assert (back["b.bias"][7], back["a.weight"][3, 4]) == (-9, 5)


@given(CHANGES, CHANGES, st.sampled_from([*WIRES, "fp32"]))
def test_both_ends_have_the_same_bits(before: State, after: State, wire: Wire) -> None:
    spec = spec_of(after)
    fits = {
        name: array for name, array in before.items() if spec_of(before)[name] == spec.get(name)
    }
    before = {name: np.zeros_like(array) for name, array in after.items()} | fits
    blob, state, residual = sent(before, after, {}, wire, rng())
    assert bool(residual) == (wire != "fp32")
    assert same_bits(received(blob, before, spec_of(after), wire), state)
    assert wire != "fp32" or (same_bits(state, after) and blob == pack(after))


@pytest.mark.parametrize(("wire", "share"), [("bf16", 0.52), ("int8", 0.28), ("topk", 0.05)])
def test_a_real_models_change_is_so_much_smaller(wire: Wire, share: float) -> None:
    state = state_of(build_model("densenet121", 1))
    assert len(encode(state, wire, rng())) < share * len(pack(state))


# Hostile blobs

TINY: State = {
    "a.weight": np.arange(60, dtype=np.float32).reshape(5, 12),
    "a.bias": np.ones(5, np.float32),
    "n.running_mean": np.ones(3, np.float32),
    "n.num_batches_tracked": np.array(3),
}
SPEC = spec_of(TINY)


def plain(wire: Wire) -> bytes:
    return zstandard.ZstdDecompressor().decompress(encode(TINY, wire, rng()))


@given(st.sampled_from(WIRES), st.binary(max_size=300))
def test_any_bytes_raise_the_one_error(wire: Wire, blob: bytes) -> None:
    for hostile in (blob, zstandard.compress(blob), b"\x28\xb5\x2f\xfd" + blob):
        with pytest.raises(WireError):
            decode(hostile, SPEC, wire)


@given(
    st.sampled_from(WIRES),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=4),
    st.booleans(),
)
def test_changed_blobs_raise_the_one_error_or_are_changes(
    wire: Wire, edits: list[tuple[int, int]], inside: bool
) -> None:
    blob = bytearray(plain(wire) if inside else encode(TINY, wire, rng()))
    for place, value in edits:
        blob[place % len(blob)] = value
    try:
        change = decode(zstandard.compress(bytes(blob)) if inside else bytes(blob), SPEC, wire)
    except WireError:
        return
    assert spec_of(change) == SPEC


@pytest.mark.parametrize("wire", WIRES)
def test_what_would_take_more_memory_than_the_model_is_refused(wire: Wire) -> None:
    size = len(plain(wire))
    lying = zstandard.ZstdCompressor(write_content_size=False).compress(plain(wire))
    bomb = zstandard.compress(bytes(1 << 28))
    wide = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=0)
    hidden = zstandard.ZstdCompressor(compression_params=wide).compress(bytes(1 << 28))
    claimed = bytearray(bomb)
    place = bomb.index((1 << 28).to_bytes(4, "little"))
    claimed[place : place + 4] = size.to_bytes(4, "little")
    two = encode(TINY, wire, rng()) * 2
    skipped = b"\x50\x2a\x4d\x18" + size.to_bytes(4, "little") + bytes(size)
    tracemalloc.start()
    try:
        for blob in (lying, bomb, hidden, bytes(claimed), two, skipped, bomb[:20]):
            with pytest.raises(WireError, match=r"zstd frame|safetensors"):
                decode(blob, SPEC, wire)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1e6


def hostile(encoded: State) -> bytes:
    return zstandard.compress(pack(encoded))


def of_topk(**changes: np.ndarray) -> bytes:
    exact = {name: array for name, array in TINY.items() if not is_parameter(name)}
    parts = topk.encode({name: TINY[name] for name in ("a.weight", "a.bias")}, rng())
    return hostile(exact | parts | {f"top/{name}": array for name, array in changes.items()})


@pytest.mark.parametrize("bits", [0, 1, 3, 65])
def test_another_number_of_places_than_values_is_refused(bits: int) -> None:
    where = np.packbits(np.arange(72) < bits)
    with pytest.raises(WireError, match=f"{bits} changes are marked, 2 were sent"):
        decode(of_topk(where=where), SPEC, "topk")


def test_a_place_that_is_none_is_refused() -> None:
    where = np.packbits(np.isin(np.arange(72), [3, 65]))
    with pytest.raises(WireError, match="beyond the last parameter"):
        decode(of_topk(where=where), SPEC, "topk")


@pytest.mark.parametrize("flaw", [np.nan, np.inf])
def test_scales_that_are_not_finite_are_refused(flaw: float) -> None:
    exact = {name: array for name, array in TINY.items() if not is_parameter(name)}
    parts = int8.encode({name: TINY[name] for name in ("a.weight", "a.bias")}, rng())
    parts["scale/a.weight"][2] = flaw
    with pytest.raises(WireError, match=r"scales of tensor a\.weight are not finite"):
        decode(hostile(exact | parts), SPEC, "int8")


@pytest.mark.parametrize("wire", WIRES)
def test_another_wires_or_models_blob_is_refused(wire: Wire) -> None:
    others: list[tuple[Wire, Spec]] = [(other, SPEC) for other in WIRES if other != wire]
    others.append((wire, SPEC | {"more.weight": ("float32", (20, 20))}))
    for other, spec in others:
        with pytest.raises(WireError):
            decode(encode(TINY, wire, rng()), spec, other)
