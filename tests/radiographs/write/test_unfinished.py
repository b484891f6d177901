"""Tests of what a conversion keeps when files come, go or change between two tries."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from common.errors import BadInput
from common.shard import Bytes, Entry, open_shard
from radiographs.read.decode import Unreadable
from radiographs.write.convert import Part, convert

SIZE = 40


class Films:
    """Files that hold a grey level, and how often each was decoded."""

    def __init__(self, folder: Path, number: int) -> None:
        folder.mkdir()
        self.files = [folder / f"{i:02d}.png" for i in range(number)]
        for i, file in enumerate(self.files):
            file.write_text(str(i))
        self.broken: set[Path] = set()
        self.decoded = Counter[Path]()

    def read(self, file: Path, size: int) -> Bytes:
        if file in self.broken:
            raise Unreadable("broken")
        self.decoded[file] += 1
        return np.full((size, size), int(file.read_text()), np.uint8)

    def convert(
        self, out: Path, parts: Mapping[str, Sequence[int]], leave_out: bool = False
    ) -> None:
        made = []
        for name, chosen in parts.items():
            entries = [Entry(str(i), f"p{i}", "train") for i in chosen]
            labels = np.array([[i % 2] * 14 for i in chosen], np.uint8)
            made.append(Part(name, [self.files[i] for i in chosen], entries, labels))
        convert(out, made, size=SIZE, source="x", workers=1, read=self.read, leave_out=leave_out)

    def interrupted(self, out: Path, parts: Mapping[str, Sequence[int]]) -> None:
        """Convert all films but the broken ones."""
        with pytest.raises(BadInput, match="cannot be read"):
            self.convert(out, parts)


@pytest.fixture
def films(tmp_path: Path) -> Films:
    return Films(tmp_path / "films", 12)


def levels(shard: Path) -> list[int]:
    opened = open_shard(shard)
    assert [int(entry.image) for entry in opened.entries] == [
        int(image.max()) for image in opened.images
    ]
    assert opened.labelled()[:, 0].tolist() == [int(e.image) % 2 for e in opened.entries]
    return [int(image.min()) for image in opened.images]


def test_what_is_decoded_stays_when_a_file_is_removed_or_added(
    films: Films, tmp_path: Path
) -> None:
    films.broken = {films.files[5]}
    films.interrupted(tmp_path / "out", {"": range(10)})
    films.broken = set()
    kept = [11, 9, 8, 7, 6, 5, 3, 2, 1, 0]  # without 4, with 11, in another order
    films.convert(tmp_path / "out", {"": kept})
    assert levels(tmp_path / "out") == kept
    assert set(films.decoded.values()) == {1}
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "images.npy", "index.csv", "labels.npy", "manifest.json",
    ]  # fmt: skip


def test_what_is_decoded_stays_when_its_file_is_gone(films: Films, tmp_path: Path) -> None:
    films.broken = {films.files[5]}
    films.interrupted(tmp_path / "out", {"": range(10)})
    films.broken = set()
    films.files[2].unlink()
    films.convert(tmp_path / "out", {"": range(10)})
    assert levels(tmp_path / "out") == list(range(10))


def test_only_the_file_that_was_replaced_is_read_again(films: Films, tmp_path: Path) -> None:
    films.broken = {films.files[5]}
    films.interrupted(tmp_path / "out", {"a": range(6), "b": range(6, 12)})
    films.broken = set()
    films.files[2].write_text("102")
    films.convert(tmp_path / "out", {"a": range(1, 6), "b": range(6, 12)})
    assert open_shard(tmp_path / "out" / "a").images[:, 0, 0].tolist() == [1, 102, 3, 4, 5]
    assert films.decoded == {file: 1 + (i == 2) for i, file in enumerate(films.files)}


def test_labels_may_change_between_two_tries(films: Films, tmp_path: Path) -> None:
    films.broken = {films.files[5]}
    films.interrupted(tmp_path / "out", {"": range(6)})
    films.broken = set()
    entries = [Entry(str(i), "other", "train") for i in range(6)]
    part = Part("", films.files[:6], entries, np.ones((6, 14), np.uint8))
    convert(tmp_path / "out", [part], size=SIZE, source="x", workers=1, read=films.read)
    assert open_shard(tmp_path / "out").entries == entries
    assert open_shard(tmp_path / "out").labelled().all()
    assert set(films.decoded.values()) == {1}


def test_a_shard_that_was_sealed_when_it_was_killed_is_sealed_again(
    films: Films, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed = count()
    original = convert.__globals__["seal_shard"]

    def killed(*arguments: object) -> None:
        original(*arguments)
        if next(sealed) == 1:
            raise KeyboardInterrupt

    films.broken = {films.files[1], films.files[8]}
    with monkeypatch.context() as patched:
        patched.setattr("radiographs.write.convert.seal_shard", killed)
        with pytest.raises(KeyboardInterrupt):
            films.convert(tmp_path / "out", {"a": range(6), "b": range(6, 12)}, leave_out=True)
    films.convert(tmp_path / "out", {"a": [0, 2, 3, 6], "c": [7, 9, 4]})
    assert levels(tmp_path / "out" / "a") == [0, 2, 3, 6]
    assert levels(tmp_path / "out" / "c") == [7, 9, 4]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a", "c"}
    assert set(films.decoded.values()) == {1}


@st.composite
def tries(draw: DrawFn) -> list[tuple[dict[str, list[int]], set[int]]]:
    """Return several tries: the films of each shard, and the broken films."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        order = draw(st.permutations(range(12)))
        ends = [0, *sorted(draw(st.sets(st.integers(1, 11), min_size=1, max_size=3)))]
        names = [""] if len(ends) == 2 else ["a", "b", "c"]
        parts = {
            name: list(order[start:end])
            for name, start, end in zip(names, ends, ends[1:], strict=False)
        }
        found.append((parts, draw(st.sets(st.integers(0, 11), max_size=4))))
    return found


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(attempts=tries())
def test_any_tries_end_with_the_same_shard_and_decode_no_film_twice(
    tmp_path_factory: pytest.TempPathFactory,
    attempts: list[tuple[dict[str, list[int]], set[int]]],
) -> None:
    root = tmp_path_factory.mktemp("tries")
    films = Films(root / "films", 12)
    tried: list[dict[str, list[int]]] = []
    for parts, broken in attempts:
        tried.append(parts)
        films.broken = {films.files[i] for i in broken}
        with suppress(BadInput):
            films.convert(root / "out", parts)
            break  # no broken film was left to decode
    else:
        films.broken = set()
        films.convert(root / "out", parts)
    for name, chosen in parts.items():
        assert levels(root / "out" / name) == chosen
    # A film that a try left out was dropped with its picture; it is decoded once more at most.
    for i, file in enumerate(films.files):
        runs = [any(i in chosen for chosen in parts.values()) for parts in tried]
        gaps = sum(before and not now for before, now in pairwise(runs))
        assert films.decoded[file] <= 1 + gaps
    shards = list(parts) if "" not in parts else []
    assert sorted(path.name for path in (root / "out").iterdir() if path.is_dir()) == shards
    assert not list(root.glob(".*"))
