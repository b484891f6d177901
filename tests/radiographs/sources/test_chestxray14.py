import gzip
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import BadInput
from common.findings import FINDINGS, NO_FINDING
from common.shard import open_shard
from radiographs.inspect.show import command as show
from radiographs.read.nih import read_list, read_metadata
from radiographs.sources.chestxray14 import command

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
)


def row(image: str, findings: str, patient: int) -> str:
    return f"{image},{findings},0,{patient},58,M,PA,2682,2749,0.143,0.143,\n"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Forty films of twenty patients, of which five are for the test."""
    images = tmp_path / "films" / "images_001" / "images"
    images.mkdir(parents=True)
    lines = [HEADER]
    train: list[str] = []
    test: list[str] = []
    for i in range(40):
        name = f"{i // 2:08d}_{i % 2:03d}.png"
        pixels = np.full((48, 48), i * 5, np.uint8)
        Image.fromarray(pixels).convert("RGBA" if i % 7 == 0 else "L").save(images / name)
        findings = NO_FINDING if i % 3 == 0 else "|".join({FINDINGS[i % 14], FINDINGS[i % 5]})
        lines.append(row(name, findings, i // 2))
        (test if i >= 30 else train).append(name)
    (tmp_path / "meta.csv").write_text("".join(lines))
    (tmp_path / "train.txt").write_text("\n".join(train))
    (tmp_path / "test.txt").write_text("\n".join(test) + "\n")
    return {
        "images": tmp_path / "films",
        "metadata": tmp_path / "meta.csv",
        "train-list": tmp_path / "train.txt",
        "test-list": tmp_path / "test.txt",
        "out": tmp_path / "out",
    }


def make(files: dict[str, Path], *more: str) -> None:
    paths = [text for name, path in files.items() for text in (f"--{name}", str(path))]
    command([*paths, "--hospitals", "3", "--size", "48", "--workers", "1", *more])


def test_a_film_is_found_by_its_first_bytes_under_any_suffix(files: dict[str, Path]) -> None:
    folder = files["images"] / "images_001" / "images"
    for film, suffix in zip(sorted(folder.iterdir()), ("", ".jfif", ".PNG", ".bin"), strict=False):
        film.rename(film.with_suffix(suffix))
    (folder / "00000010_000.txt").write_text("a note on the film of this name")
    make(files)
    assert sum(len(open_shard(shard)) for shard in files["out"].iterdir()) == 40


def test_hospitals_hold_the_training_list_and_the_test_shard_the_other(
    files: dict[str, Path],
) -> None:
    make(files)
    shards = [open_shard(files["out"] / f"hospital-{i:02d}") for i in range(3)]
    test = open_shard(files["out"] / "test")
    assert {entry.split for entry in test.entries} == {"test"}
    assert {entry.split for shard in shards for entry in shard.entries} == {"train_val"}
    held = [entry.image for shard in shards for entry in shard.entries]
    assert sorted(held) == sorted(read_list(files["train-list"]))
    assert [entry.image for entry in test.entries] == read_list(files["test-list"])
    for shard in [*shards, test]:
        for i, entry in enumerate(shard.entries):
            number = int(entry.patient) * 2 + int(entry.image[9:12])
            assert (shard.images[i] == number * 5).all()
            expected = set() if number % 3 == 0 else {FINDINGS[number % 14], FINDINGS[number % 5]}
            found = {f for f, label in zip(FINDINGS, shard.labelled()[i], strict=True) if label}
            assert found == expected
    assert shards[0].manifest.partition == "noniid no-finding spread by image"
    assert test.manifest.partition is None


def test_a_shard_says_how_films_without_a_finding_were_split_also_one_from_before(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    make(files, "--no-finding", "last", "--seed", "3")
    assert "noniid no-finding last by image, seed 3" in capsys.readouterr().out
    manifest = open_shard(files["out"] / "hospital-00").manifest
    assert manifest.partition == "noniid by image"  # as before there was a choice
    show([str(files["out"])])
    assert "split: noniid no-finding last by image, seed 3\n" in capsys.readouterr().out
    again = files["out"].with_name("again")
    make({**files, "out": again})
    show([str(again)])
    assert "split: noniid no-finding spread by image, seed 0\n" in capsys.readouterr().out


def test_no_finding_is_refused_where_it_decides_nothing(
    files: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="--no-finding is for --partition noniid"):
        make(files, "--partition", "iid", "--no-finding", "last")
    (tmp_path / "split.csv").write_text("image,hospital\n")
    given = [text for name, path in files.items() for text in (f"--{name}", str(path))]
    with pytest.raises(BadInput, match="decides the split: leave out --no-finding"):
        command([*given, "--assignment", str(tmp_path / "split.csv"), "--no-finding", "last"])


def test_a_folder_of_films_is_listed_once(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: Counter[Path] = Counter()
    original = Path.iterdir

    def counting(folder: Path) -> Iterator[Path]:
        listed[folder] += 1
        return original(folder)

    monkeypatch.setattr(Path, "iterdir", counting)
    make(files)
    assert listed[files["images"]] == 1
    assert listed[files["images"] / "images_001" / "images"] == 1


@pytest.mark.parametrize("partition", ["iid", "noniid", "dirichlet"])
def test_patients_stay_at_one_hospital_when_asked(files: dict[str, Path], partition: str) -> None:
    make(files, "--partition", partition, "--group-by", "patient")
    patients = [
        {entry.patient for entry in open_shard(files["out"] / f"hospital-{i:02d}").entries}
        for i in range(3)
    ]
    assert len(set.union(*patients)) == sum(map(len, patients)) == 15


def test_a_missing_film_is_an_error_unless_allowed(files: dict[str, Path]) -> None:
    film = next(files["images"].rglob("00000003_001.png"))
    film.unlink()
    with pytest.raises(BadInput, match=r"1 of 40 .* no file .*00000003_001.png.*--allow-missing"):
        make(files)
    assert not files["out"].exists()
    make(files, "--allow-missing")
    shards = [open_shard(path) for path in files["out"].iterdir()]
    assert sum(len(shard) for shard in shards) == 39


def test_lists_that_are_cut_to_a_part_of_the_metadata_are_used_and_told(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    files["train-list"].write_text("\n".join(read_list(files["train-list"])[:20]))
    make(files)
    error = capsys.readouterr().err
    told = r"left out: 10 of 40 images in .*meta\.csv are in no list, first 0{6}10"
    assert re.search(told, error)
    shards = {path.name: open_shard(path) for path in files["out"].iterdir()}
    assert len(shards.pop("test")) == 10
    assert sum(map(len, shards.values())) == 20


def test_what_may_be_an_accident_needs_the_option(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    files["train-list"].write_text("\n".join(read_list(files["train-list"])[:20]))
    for film in ("00000000_001", "00000001_000"):
        next(files["images"].rglob(f"{film}.png")).unlink()
    told = (
        r"1 of 30 listed images have no line in .*, first 00000002_000\.png; "
        r"2 of 30 listed images have no file below .*, first 00000000_001\.png, 00000001_000"
    )
    lines = files["metadata"].read_text().splitlines()
    files["metadata"].write_text("\n".join(lines[:5] + lines[6:]))
    with pytest.raises(BadInput, match=told + r".*; --allow-missing leaves them out"):
        make(files)
    make(files, "--allow-missing")
    error = capsys.readouterr().err
    assert re.search("left out: 10 of 39 .* are in no list, .*; " + told, error)
    assert sum(line.startswith("left out") for line in error.splitlines()) == 1
    shards = {path.name: open_shard(path) for path in files["out"].iterdir()}
    assert len(shards.pop("test")) == 10
    assert sum(map(len, shards.values())) == 17


def in_numbered_folders(files: dict[str, Path], inner: str = "images") -> list[Path]:
    """Put the films into four folders as the NIH does; return these."""
    films = sorted((files["images"] / "images_001" / "images").iterdir())
    folders = [files["images"] / f"images_{i:03d}" / inner for i in range(1, 5)]
    for folder, first in zip(folders, range(0, 40, 10), strict=True):
        folder.mkdir(parents=True, exist_ok=True)
        for film in films[first : first + 10]:
            film.rename(folder / film.name)
    return folders


@pytest.mark.parametrize("inner", ["images", ""])
@pytest.mark.parametrize("absent", [{0}, {1}, {2}, {0, 2}, {1, 2}, {0, 1}])
def test_absent_folders_are_left_out_and_told(
    files: dict[str, Path], inner: str, absent: set[int], capsys: pytest.CaptureFixture[str]
) -> None:
    folders = in_numbered_folders(files, inner)
    for folder in absent:
        shutil.rmtree(folders[folder])
    make(files, "--hospitals", "1")
    told = f"{10 * len(absent)} of 40 listed images are in folders images_NNN that are not below"
    assert told in capsys.readouterr().err
    shards = [open_shard(path) for path in files["out"].iterdir()]
    held = {entry.image for shard in shards for entry in shard.entries}
    assert held == {
        f"{i // 2:08d}_{i % 2:03d}.png" for i in range(40) if i // 10 not in absent
    }  # fmt: skip


def test_a_film_that_is_missing_from_a_folder_that_is_there_still_needs_the_option(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folders = in_numbered_folders(files)
    shutil.rmtree(folders[2])
    (folders[0] / "00000004_001.png").unlink()  # the last of its folder
    with pytest.raises(BadInput, match=r"^1 of 40 .* no file .*, first 00000004_001\.png; --allow"):
        make(files)
    make(files, "--allow-missing")
    assert "10 of 40 listed images are in folders" in capsys.readouterr().err


@pytest.mark.parametrize("lists", ["none", "no test list", "an empty test list"])
def test_a_set_without_test_films_needs_no_list(
    files: dict[str, Path], lists: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = dict(files)
    if lists != "an empty test list":
        del given["test-list"]
    else:
        files["test-list"].write_text("\n")
    if lists == "none":
        del given["train-list"]
    make(given)
    assert "there is no test shard" in capsys.readouterr().err
    assert {path.name for path in files["out"].iterdir()} == {f"hospital-0{i}" for i in range(3)}
    held = sum(len(open_shard(path)) for path in files["out"].iterdir())
    assert held == (40 if lists == "none" else 30)


def test_without_a_training_list_all_but_the_test_films_are_for_training(
    files: dict[str, Path],
) -> None:
    make({name: path for name, path in files.items() if name != "train-list"})
    assert sum(len(open_shard(path)) for path in files["out"].iterdir()) == 40
    assert [e.image for e in open_shard(files["out"] / "test").entries] == read_list(
        files["test-list"]
    )


def test_a_list_without_any_film_is_refused(files: dict[str, Path]) -> None:
    for image in read_list(files["test-list"]):
        next(files["images"].rglob(image)).unlink()
    with pytest.raises(BadInput, match=r"test\.txt: none of its .* belong together, or leave"):
        make(files, "--allow-missing")


def test_a_damaged_film_is_named_and_may_be_replaced(files: dict[str, Path]) -> None:
    film = next(files["images"].rglob("00000003_001.png"))
    whole = film.read_bytes()
    film.write_bytes(whole[:60])
    with pytest.raises(BadInput, match=r"00000003_001\.png"):
        make(files)
    assert not files["out"].exists()
    film.write_bytes(whole)
    make(files)
    assert sum(len(open_shard(path)) for path in files["out"].iterdir()) == 40


def test_a_damaged_film_is_left_out_when_allowed(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    film = next(files["images"].rglob("00000003_001.png"))
    film.write_bytes(film.read_bytes()[:60])
    with pytest.raises(BadInput, match=r"1 of 40 .*, or leave them out with --allow-missing, and"):
        make(files)
    make(files, "--allow-missing")
    printed = capsys.readouterr()
    assert f"left out: 1 of 40 images cannot be read, first {film}: " in printed.err
    assert "continuing: 39 of 40 images are done" in printed.err
    shards = [open_shard(path) for path in files["out"].iterdir()]
    images = [entry.image for shard in shards for entry in shard.entries]
    assert len(images) == 39
    assert film.name not in images
    counted = next(line for line in printed.out.splitlines() if line.startswith("images"))
    assert sum(map(int, counted.split()[1:])) == 39


def test_a_film_that_is_removed_after_an_error_costs_no_decoded_film(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    film = next(files["images"].rglob("00000003_001.png"))
    film.write_bytes(film.read_bytes()[:60])
    with pytest.raises(BadInput, match="1 of 40"):
        make(files)
    film.unlink()  # which also draws another split
    make(files, "--allow-missing")
    assert "continuing: 39 of 39 images are done" in capsys.readouterr().err


def test_a_flat_folder_gives_the_same_as_the_folders_of_the_nih(files: dict[str, Path]) -> None:
    make(files)
    first = {path.name: open_shard(path).manifest for path in files["out"].iterdir()}
    flat = files["out"].parent / "flat"
    (files["images"] / "images_001" / "images").rename(flat)
    (files["images"] / "images_002" / "images").mkdir(parents=True)
    for i, file in enumerate(sorted(flat.iterdir())):
        folder = files["images"] / ("images_002/images" if i % 2 else "images")
        folder.mkdir(exist_ok=True)
        file.rename(folder / file.name)
    make({**files, "out": files["out"].with_name("again")})
    again = files["out"].with_name("again")
    assert {path.name: open_shard(path).manifest for path in again.iterdir()} == first


def test_a_split_can_be_kept_and_used_again(files: dict[str, Path], tmp_path: Path) -> None:
    split = ["--assignment", str(tmp_path / "split.csv")]
    make(files, *split, "--seed", "5")
    lines = (tmp_path / "split.csv").read_text().split()
    assert lines[0] == "image,hospital"
    assert [line.split(",")[0] for line in lines[1:]] == read_list(files["train-list"])
    given = [text for name, path in files.items() for text in (f"--{name}", str(path))]
    again = tmp_path / "again"
    command([*given[:-1], str(again), "--size", "48", "--workers", "1", *split])
    for path in files["out"].iterdir():
        one, other = open_shard(path), open_shard(again / path.name)
        assert one.entries == other.entries
        assert np.array_equal(one.images, other.images)
        if path.name != "test":
            assert other.manifest.seed is None
            assert str(other.manifest.partition).startswith("assignment ")
    with pytest.raises(BadInput, match=r"decides the split: leave out --hospitals, --seed"):
        command([*given[:-1], str(tmp_path / "x"), *split, "--hospitals", "3", "--seed", "5"])


def test_a_split_that_cannot_be_kept_is_refused_before_the_work(
    files: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for folder in ("missing", "file"):
        with pytest.raises(BadInput, match=f"{folder}: no folder, or .*; give another --assign"):
            make(files, "--assignment", str(tmp_path / folder / "a.csv"))
        assert not files["out"].exists()
    make(files, "--assignment", str(files["out"] / "a.csv"))  # which the command makes
    assert (files["out"] / "a.csv").is_file()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda lines: lines[:-1], "1 of 30 images for training are not in it, first 00000014_001"),
        (
            lambda lines: [*lines, "x.png,north"],
            "line 32: x.png is in neither list; --allow-missing",
        ),
        (lambda lines: [*lines, lines[-1]], "line 32: the same image as line 31"),
        (lambda lines: [*lines[:-1], "00000014_001.png,test"], "line 31: 'test' is the test shard"),
        (lambda lines: [*lines[:-1], "00000014_001.png,../x"], "line 31: '../x' cannot be"),
        (lambda lines: ["image,clinic", *lines[1:]], "0 columns 'hospital'"),
    ],
)
def test_a_split_that_does_not_fit_is_refused(
    files: dict[str, Path], tmp_path: Path, change: Callable[[list[str]], list[str]], why: str
) -> None:
    images = read_list(files["train-list"])
    lines = ["image,hospital", *(f"{image},clinic-{i % 2}" for i, image in enumerate(images))]
    (tmp_path / "split.csv").write_text("\n".join(change(lines)))
    given = [text for name, path in files.items() for text in (f"--{name}", str(path))]
    with pytest.raises(BadInput, match=why):
        command([*given, "--assignment", str(tmp_path / "split.csv")])


def test_a_split_may_hold_the_test_films_and_the_test_list_decides(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = read_list(files["train-list"]), read_list(files["test-list"])
    homes = [f"clinic-{i % 2}" for i in range(len(train))] + ["test"] * 7 + ["clinic-0"] * 3
    lines = [f"{image},{home}" for image, home in zip([*train, *test], homes, strict=True)]
    (tmp_path / "split.csv").write_text("\n".join(["image,hospital", *lines]))
    given = [text for name, path in files.items() for text in (f"--{name}", str(path))]
    split = ["--assignment", str(tmp_path / "split.csv")]
    command([*given, *split, "--size", "48", "--workers", "1"])
    shards = {path.name: open_shard(path) for path in files["out"].iterdir()}
    assert {name: len(shard) for name, shard in shards.items()} == {
        "clinic-0": 15, "clinic-1": 15, "test": 10,
    }  # fmt: skip
    assert [entry.image for entry in shards["test"].entries] == test
    told = f"3 images of the test list are given to hospitals, first {test[7]}; they stay in the"
    assert told in capsys.readouterr().err


def test_a_dry_run_needs_no_image_and_writes_the_figure_and_the_split_alone(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(files["images"])
    given = [
        text for name in ("metadata", "train-list", "test-list")
        for text in (f"--{name}", str(files[name]))
    ]  # fmt: skip
    outputs = ["--figure", str(tmp_path / "f.png"), "--assignment", str(tmp_path / "s.csv")]
    before = set(tmp_path.iterdir())
    command([*given, "--dry-run", "--hospitals", "3", *outputs])
    assert {path.name for path in set(tmp_path.iterdir()) - before} == {"f.png", "s.csv"}
    with Image.open(tmp_path / "f.png") as figure:
        assert figure.width == 1190
    table = capsys.readouterr().out
    assert table.split()[:4] == ["hospital-00", "hospital-01", "hospital-02", "test"]
    assert sum(map(int, table.splitlines()[1].split()[1:])) == 40
    with pytest.raises(BadInput, match=r"f\.png: is there already"):
        command([*given, "--dry-run", *outputs[:2]])
    with pytest.raises(BadInput, match="--images and --out are required, except with --dry-run"):
        command(given)


def test_a_patient_in_both_lists_is_refused(files: dict[str, Path]) -> None:
    train, test = read_list(files["train-list"]), read_list(files["test-list"])
    files["train-list"].write_text("\n".join([*train, test[0]]))
    files["test-list"].write_text("\n".join(test[1:]))
    with pytest.raises(BadInput, match="1 patients are in both"):
        make(files)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Image,Labels\n", "0 columns 'Image Index'"),
        (HEADER, "a header and no line"),
        (HEADER + row("a.png", "Cough", 1), "line 2: unknown finding 'Cough'"),
        (HEADER + row("a.png", "Mass|No Finding", 1), "line 2: 'No Finding' beside"),
        (HEADER + row("a.png", "Mass", 1) * 2, "line 3: the same image as line 2"),
        (HEADER + "a.png,Mass\n", "line 2: 2 cells"),
    ],
)
def test_metadata_that_cannot_be_used_is_refused_with_its_line(
    tmp_path: Path, text: str, why: str
) -> None:
    (tmp_path / "meta.csv").write_text(text)
    with pytest.raises(BadInput, match=why):
        read_metadata(tmp_path / "meta.csv")


def test_gzipped_metadata_is_read_and_a_cut_one_refused(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    path = tmp_path / "meta.csv.gz"
    with files["metadata"].open("rb") as source, gzip.open(path, "wb") as target:
        shutil.copyfileobj(source, target)
    rows = read_metadata(path)
    assert [r.image for r in rows] == [r.image for r in read_metadata(files["metadata"])]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadInput, match="gzip"):
        read_metadata(path)
