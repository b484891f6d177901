import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.findings import UNKNOWN
from common.shard import Bytes, Entry, create_shard, open_shard
from radiographs.inspect.check import check
from radiographs.inspect.pictures import CANDIDATE, alike, look_at, nearly_same
from radiographs.inspect.report import Problem, lines_of
from radiographs.read.decode import decode
from radiographs.read.nih import read_metadata
from radiographs.sources.chestxray14 import command as convert
from radiographs.sources.synthetic import command as synthetic
from tests.support.commands import assert_one_line, run
from tests.support.shards import SHARED, make_shard, needs_shared_data


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "synthetic"
    synthetic(["--out", str(out), "--hospitals", "2", "--images", "40", "--size", "64"])
    return out


def write(
    path: Path,
    films: Bytes,
    patients: Sequence[str],
    split: str = "train",
    mark: int = 0,
    source: str = "x",
) -> Path:
    """Write a shard; every finding is on every second film, from ``mark``."""
    labels = np.array([[(i + mark) % 2] * 14 for i in range(len(films))], np.uint8)
    entries = [Entry(f"secret-{i}", patient, split) for i, patient in enumerate(patients)]
    with create_shard(path, entries=entries, labels=labels, size=64, source=source) as images:
        images[:] = films
    return path


def films_of(phantoms: Path) -> Bytes:
    return np.array(open_shard(phantoms / "hospital-00").images[:24])


def patients(count: int, name: str = "doe") -> list[str]:
    return [f"{name}-{i}" for i in range(count)]


def kinds(problems: Sequence[Problem]) -> set[tuple[str, str]]:
    return {(problem.level, problem.kind) for problem in problems}


def rows(problems: Sequence[Problem], kind: str) -> list[list[tuple[str, int]]]:
    return [
        [(Path(place.shard).name, place.row) for place in example]
        for problem in problems
        if problem.kind == kind
        for example in problem.examples
    ]


def test_good_shards_have_no_error(phantoms: Path) -> None:
    report = check(sorted(phantoms.iterdir()))
    assert {problem.kind for problem in report.problems} <= {
        "few", "memory", "disk", "near-duplicate",
    }  # fmt: skip
    assert [Path(shard.path).name for shard in report.shards] == [
        "hospital-00", "hospital-01", "pretrain", "test",
    ]  # fmt: skip
    assert report.needs is not None
    assert report.needs.disk == sum(shard.bytes for shard in report.shards)


def test_blank_and_inverted_films_are_found(phantoms: Path, tmp_path: Path) -> None:
    films = films_of(phantoms)
    films[3] = 255 - films[3]
    films[5] = films[6] = 77
    films[7] = np.random.default_rng(0).integers(100, 110, (64, 64))
    problems = check([write(tmp_path / "a", films, patients(24))]).problems
    assert rows(problems, "blank") == [[("a", 5)], [("a", 6)], [("a", 7)]]
    assert not {"duplicate", "contradiction"} & {problem.kind for problem in problems}
    assert rows(problems, "inverted") == [[("a", 3)]]


def test_a_dull_film_is_told_and_never_called_blank(phantoms: Path, tmp_path: Path) -> None:
    films = films_of(phantoms)
    films[1] = films[1] // 4 + 90  # a quarter of the range
    films[2] = films[2] // 16  # 12 bits in 16
    films[3] = films[3] // 64  # 10 bits in 16
    films[4] = films[4] > 128  # 8 bits in 16
    films[5] = films[5] // 16 * 17  # the whole range in 16 grey levels
    films[6] = np.where(films[6] > 128, 255, 0)
    grey = Image.fromarray(films[6]).resize((300, 300)).rotate(3).resize((64, 64))
    films[6] = np.asarray(grey)  # black and white, with many grey levels at the edges
    films[8] = films[8] // 2 + 60  # low contrast
    problems = check([write(tmp_path / "a", films, patients(24))]).problems
    assert rows(problems, "dull") == [[("a", row)] for row in range(1, 7)]
    assert ("warning", "dull") in kinds(problems)
    [text] = [problem.text for problem in problems if problem.kind == "dull"]
    assert "likely their files declare more bits than their pixels have, or a window" in text
    assert not [problem for problem in problems if problem.kind == "blank"]


def as_jpeg(film: Bytes) -> Bytes:
    file = io.BytesIO()
    Image.fromarray(film).save(file, "JPEG", quality=50)
    return np.asarray(Image.open(file))


def test_comparing_in_blocks_misses_no_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("radiographs.inspect.pictures.BLOCK", 7)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 8)).astype(np.float32)
    vectors[25:] = vectors[rng.integers(0, 25, 25)] + 0.05 * rng.normal(size=(25, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    slow = {
        (i, j) for j in range(50) for i in range(j) if float(vectors[i] @ vectors[j]) >= CANDIDATE
    }
    assert len(slow) > 25
    assert sorted(alike(vectors)) == sorted(slow)


def test_films_that_are_twice_in_a_shard_are_found(phantoms: Path, tmp_path: Path) -> None:
    films = films_of(phantoms)
    films[9] = films[1]
    films[13] = as_jpeg(films[2])
    films[20] = films[17] = films[14]
    problems = check([write(tmp_path / "a", films, patients(24))]).problems
    assert rows(problems, "duplicate") == [
        [("a", 1), ("a", 9)],
        [("a", 14), ("a", 17), ("a", 20)],
    ]
    assert rows(problems, "near-duplicate") == [[("a", 2), ("a", 13)]]
    assert rows(problems, "contradiction") == [[("a", 14), ("a", 17), ("a", 20)]]
    assert ("error", "contradiction") in kinds(problems)


def test_films_and_patients_in_training_and_test_are_errors(phantoms: Path, tmp_path: Path) -> None:
    films = films_of(phantoms)
    other = films_of(phantoms)[::-1].copy()
    other[:12] = 255 - np.array(open_shard(phantoms / "hospital-01").images[:12])
    train = write(tmp_path / "train", films[:12], patients(12))
    test = write(tmp_path / "test", other, [*patients(2), *patients(22, "roe")], "test", mark=1)
    problems = check([train, test]).problems
    assert len(rows(problems, "leakage")) == 12
    leaks = [p for p in problems if p.kind == "leakage"]
    assert {p.level for p in leaks} == {"error"}
    assert sorted(p.count for p in leaks) == [2, 12]
    assert not {"shared", "duplicate", "contradiction"} & {p.kind for p in problems}


def test_what_hospitals_share_is_a_warning(phantoms: Path, tmp_path: Path) -> None:
    films = films_of(phantoms)
    other = np.array(open_shard(phantoms / "hospital-01").images[:24])
    other[4] = films[8]
    other[6] = as_jpeg(films[11])
    shards = [
        write(tmp_path / "a", films, patients(24)),
        write(tmp_path / "b", other, [*patients(3), *patients(21, "roe")]),
    ]
    problems = check(shards).problems
    assert rows(problems, "shared") == [[("a", 8), ("b", 4)], [("a", 11), ("b", 6)]]
    assert ("error", "leakage") not in kinds(problems)
    [problem] = [p for p in problems if p.kind == "patients"]
    assert (problem.level, problem.count) == ("warning", 3)
    # Whatever the folders are called.
    (tmp_path / "other").mkdir()
    (tmp_path / "b").rename(tmp_path / "other" / "a")
    problems = check([tmp_path / "a", tmp_path / "other" / "a"]).problems
    assert [p.count for p in problems if p.kind == "patients"] == [3]


@pytest.mark.parametrize(
    ("sources", "end"),
    [
        (
            ("ChestX-ray14", "ChestX-ray14"),
            "(12); flower-data chestxray14 --group-by patient keeps them apart",
        ),
        (("site frontal", "site frontal, site both"), "(12); flower-data join makes them one"),
        (("CheXpert", "site frontal"), "(12)"),
    ],
)
def test_what_ends_that_patients_are_shared_fits_the_source(
    tmp_path: Path, phantoms: Path, sources: Sequence[str], end: str
) -> None:
    films = films_of(phantoms)
    shards = [
        write(tmp_path / str(i), films[12 * i : 12 * i + 12], patients(12), source=source)
        for i, source in enumerate(sources)
    ]
    (text,) = [problem.text for problem in check(shards).problems if problem.kind == "patients"]
    assert text.endswith(end)


def test_too_few_films_for_an_auc_are_told(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a", images=40)
    labels = np.zeros((40, 14), np.uint8)
    labels[:20, 2:] = 1
    labels[:3, 1] = 1
    with create_shard(tmp_path / "b", entries=shard.entries, labels=labels, size=40, source="x"):
        pass
    texts = [problem.text for problem in check([tmp_path / "b"]).problems]
    assert any("no AUC, all images alike, for Atelectasis" in text for text in texts)
    assert any("too few images for an AUC to mean much: Cardiomegaly 3" in text for text in texts)
    with create_shard(
        tmp_path / "c", entries=shard.entries, labels=labels * 0, size=40, source="x"
    ):
        pass
    assert any("no image has any finding" in p.text for p in check([tmp_path / "c"]).problems)


def test_unknown_labels_are_told_and_are_no_contradiction(phantoms: Path, tmp_path: Path) -> None:
    films = films_of(phantoms)
    films[9], films[11] = films[1], films[2]
    labels = np.array([[i % 2] * 14 for i in range(24)], np.uint8)
    labels[9, :13] = labels[1, 13] = UNKNOWN  # all that both say is the same
    labels[11, :13], labels[11, 13] = UNKNOWN, 1 - labels[2, 13]
    labels[:, 4] = labels[20:] = UNKNOWN
    labels[8:20, 6] = UNKNOWN
    labels[:20, 5] = np.where(labels[:20, 5] == 0, UNKNOWN, labels[:20, 5])
    entries = [Entry(f"secret-{i}", str(i), "train") for i in range(24)]
    with create_shard(
        tmp_path / "a", entries=entries, labels=labels, size=64, source="x"
    ) as images:
        images[:] = films
    report = check([tmp_path / "a"])
    assert rows(report.problems, "duplicate") == [[("a", 1), ("a", 9)], [("a", 2), ("a", 11)]]
    assert rows(report.problems, "contradiction") == [[("a", 2), ("a", 11)]]
    texts = [problem.text for problem in report.problems]
    for text in (
        "4 images have no known label: nothing trains on them",
        "no AUC, unknown in all images, for Mass",
        "no AUC, all images alike, for Nodule",
        "too few images for an AUC to mean much: Atelectasis 8, ",
        ", Pneumonia 4, ",
    ):
        assert any(text in found for found in texts), text
    [shard] = report.shards
    assert (shard.counts or {})["Pneumonia"] == 4
    assert (shard.known or {})["Pneumonia"] == 8
    line = next(line for line in lines_of(report) if "unknown labels" in line)
    assert "Pneumonia 16 (4 of 8 positive)" in line
    assert "Mass 24 (0 of 0 positive)" in line


def test_a_damaged_shard_is_told_and_the_others_are_looked_at(tmp_path: Path) -> None:
    good, bad = make_shard(tmp_path / "a").path, make_shard(tmp_path / "b").path
    (bad / "index.csv").write_text("image,patient,split\ndoe,doe,doe\n")
    report = check([bad, good])
    assert [Path(shard.path).name for shard in report.shards] == ["a"]
    assert report.problems[0].kind == "damaged"
    assert "index.csv: SHA-256" in report.problems[0].text


def test_the_command_exits_with_2_and_names_nobody(phantoms: Path, tmp_path: Path) -> None:
    films = films_of(phantoms)
    films[5] = 0
    write(tmp_path / "d" / "a", films, patients(24))
    write(tmp_path / "d" / "b", films, patients(24), "test")
    result = run("flower-data", "check", tmp_path / "d")
    assert_one_line(result, 2, "problems found")
    assert "error:   blank: 2 times: nothing can be seen" in result.stdout
    assert f"{tmp_path}/d/a row 5" in result.stdout
    as_json = run("flower-data", "check", "--json", tmp_path / "d" / "a", tmp_path / "d" / "b")
    assert as_json.returncode == 2
    report = json.loads(as_json.stdout)
    assert {problem["kind"] for problem in report["problems"]} >= {"blank", "leakage"}
    for text in (result.stdout, result.stderr, as_json.stdout, as_json.stderr):
        assert "doe" not in text
        assert "secret" not in text


def test_warnings_count_when_strict(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a", images=12).path
    assert run("flower-data", "check", shard).returncode == 0
    assert_one_line(run("flower-data", "check", shard, "--strict"), 2, "problems found")
    assert_one_line(run("flower-data", "check", tmp_path / "none"), 2, "no shard here")


REALLY_DULL = ("00003406_003.png", "00003510_002.png")
"""Films of which hardly anything is seen without more contrast."""

CHANGES: dict[str, Callable[[Bytes], Bytes]] = {
    "jpeg": as_jpeg,
    "size": lambda f: np.asarray(Image.fromarray(f).resize((200, 200)).resize((256, 256))),
    "gamma": lambda f: (255 * (f / 255) ** 0.7).astype(np.uint8),
}


@needs_shared_data
def test_on_real_films_copies_are_found_and_nothing_else() -> None:
    folder = SHARED / "cxr-small" / "images"
    films = np.stack([decode(path, 256) for path in sorted(folder.iterdir())[:150]])
    for change in CHANGES.values():
        assert all(nearly_same(film, change(film)) for film in films)
    assert not any(nearly_same(films[i], films[j]) for i in range(150) for j in range(i))
    pictures = [look_at(film) for film in films]
    assert not any(picture.blank or picture.dull or picture.inverted for picture in pictures)
    assert all(look_at(255 - film).inverted for film in films)


@needs_shared_data
def test_of_thousands_of_real_films_two_dull_ones_are_told_and_none_is_blank() -> None:
    folder = SHARED / "nih-128" / "images"
    dull = []
    for path in sorted(folder.iterdir())[::3] + [folder / name for name in REALLY_DULL]:
        film = decode(path, 128)
        picture = look_at(film)
        assert not picture.blank
        if picture.dull:
            dull.append(path.name)
            continue
        for divisor in (16, 64):  # 12, then 10 bits in 16
            dark = look_at(np.rint(film / divisor).astype(np.uint8))
            assert dark.dull
            assert not dark.blank
    assert set(dull) == set(REALLY_DULL)


@needs_shared_data
def test_the_real_films_are_known_to_hold_two_inverted_ones_and_one_twice(tmp_path: Path) -> None:
    small = SHARED / "cxr-small"
    rows_ = read_metadata(small / "labels.csv")
    official = set((SHARED / "nih" / "test_list.txt").read_text().split())
    for name, wanted in (("train", False), ("test", True)):
        images = [row.image for row in rows_ if (row.image in official) == wanted]
        (tmp_path / f"{name}.txt").write_text("\n".join(images))
    convert(["--images", str(small), "--metadata", str(small / "labels.csv"), "--hospitals", "1",
             "--train-list", str(tmp_path / "train.txt"), "--size", "128", "--out",
             str(tmp_path / "out"), "--test-list", str(tmp_path / "test.txt")])  # fmt: skip
    report = check([tmp_path / "out" / "hospital-00", tmp_path / "out" / "test"])
    found = {problem.kind: problem.count for problem in report.problems}
    assert found["inverted"] == 2
    assert found["duplicate"] == 1
    assert found["near-duplicate"] == 1
    assert not [problem for problem in report.problems if problem.level == "error"]
