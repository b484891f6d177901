import builtins
import errno
import io
import os
import re
import stat
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from common.errors import BadInput
from common.findings import FINDINGS, NO_FINDING, UNKNOWN
from common.shard import open_shard
from radiographs.read.film_file import why_dull
from radiographs.read.site_labels import Label, match, read_labels
from radiographs.sources.site import command
from radiographs.write.private import private_path, read_private
from tests.support.commands import assert_one_line, run
from tests.support.films import film
from tests.support.shards import SHARED, needs_shared_data

ZEROS = dict.fromkeys(FINDINGS, 0)


def write_labels(path: Path, rows: dict[str, tuple[str, dict[str, int]]]) -> Path:
    lines = [",".join(["image", "patient", *FINDINGS])]
    for image, (patient, shown) in rows.items():
        lines.append(",".join([image, patient, *map(str, {**ZEROS, **shown}.values())]))
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder as a hospital has it: DICOM with and without a suffix, PNG, JPEG, and others."""
    images = tmp_path / "films"
    (images / "2024").mkdir(parents=True)
    level = np.full((64, 64), 1000, np.uint16)
    film(level, PatientID="MRN-1").save_as(images / "Doe_Jane.dcm", enforce_file_format=True)
    film(level * 2, PatientID="MRN-1").save_as(images / "2024" / "IM0001", enforce_file_format=True)
    film(level, ViewPosition="LL").save_as(images / "side.dcm", enforce_file_format=True)
    film(level, Modality="CT").save_as(images / "ct.dcm", enforce_file_format=True)
    broken = film(level)
    broken.PixelData = broken.PixelData[:100]
    broken.save_as(images / "broken.dcm", enforce_file_format=True)
    Image.fromarray(np.full((50, 50), 200, np.uint8)).save(images / "a.png")
    Image.fromarray(np.full((50, 50), 90, np.uint8)).save(images / "b.JPG")
    (images / "notes.txt").write_text("Doe")
    (images / ".hidden").write_text("")
    write_labels(
        images / "labels.csv",
        {
            "Doe_Jane": ("MRN-1", {"Mass": 1}),
            "2024/IM0001": ("", {"Edema": 1}),
            "side.dcm": ("MRN-3", {}),
            "broken.dcm": ("MRN-3", {}),
            "a.png": ("MRN-2", {"Hernia": 1, "Mass": 1}),
            "b.JPG": ("MRN-2", {}),
            "gone.png": ("MRN-2", {}),
        },
    )
    return images


def arguments(site: Path, *more: object) -> list[str]:
    given = ("--images", site, "--labels", site / "labels.csv", "--size", 40, "--workers", 1)
    return [*map(str, (*given, "--out", site.parent / "shard", *more))]


def test_films_of_all_kinds_become_a_shard(site: Path) -> None:
    result = run("flower-data", "site", *arguments(site))
    assert result.returncode == 0, result.stderr
    shard = open_shard(site.parent / "shard")
    private = read_private(private_path(shard.path))
    levels = {"Doe_Jane.dcm": 62, "2024/IM0001": 125, "a.png": 200, "b.JPG": 90}
    shown = {"Doe_Jane.dcm": {4}, "2024/IM0001": {9}, "a.png": {4, 13}, "b.JPG": set()}
    assert sorted(private.files.values()) == sorted(levels)
    for i, entry in enumerate(shard.entries):
        file = private.files[entry.image]
        assert abs(int(shard.images[i].max()) - levels[file]) <= 1
        assert set(np.flatnonzero(shard.labelled()[i]).tolist()) == shown[file]
        patient = "MRN-1" if file in ("Doe_Jane.dcm", "2024/IM0001") else "MRN-2"
        assert entry == (entry.image, private.pseudonym(patient), "train")
    for refused in (
        "side.dcm: view 'LL', frontal is wanted",
        "ct.dcm: modality 'CT', not CR or DX",
        "broken.dcm: cannot be read as DICOM",
        "notes.txt: neither DICOM, PNG nor JPEG",
    ):
        assert f"refused: {refused}" in result.stderr
    assert "1 of 7 lines" in result.stderr
    assert "4 images of 2 patients, 4 files refused" in result.stdout
    assert "      1 refused: modality 'CT', not CR or DX" in result.stdout


def test_a_patient_who_may_have_become_two_is_warned_of(site: Path) -> None:
    (site / "broken.dcm").unlink()
    labels = site / "labels.csv"
    plain = run("flower-data", "site", *arguments(site))
    assert plain.returncode == 0
    assert "different patients" not in plain.stderr
    # As a spreadsheet leaves a number; IM0001 has its patient from the file.
    labels.write_text(labels.read_text().replace("Doe_Jane,MRN-1", "Doe_Jane,1"))
    options = arguments(site)[:-1]
    result = run("flower-data", "site", *options, site.parent / "two")
    assert (
        "of 1 films --labels and the file name different patients, and 1 have theirs from the file "
        "alone" in result.stderr
    )
    labels.write_text(labels.read_text().replace("2024/IM0001,,", "2024/IM0001,1,"))
    filled = run("flower-data", "site", *options, site.parent / "three")
    assert filled.returncode == 0
    assert "different patients" not in filled.stderr


def test_a_film_in_few_grey_levels_is_told_with_the_likely_cause(tmp_path: Path) -> None:
    films = tmp_path / "Doe_films"
    films.mkdir()
    level = np.linspace(0, 4095, 64 * 64).reshape(64, 64).astype(np.uint16)
    grey = (level // 16).astype(np.uint8)
    steps = [lut(4096, [v // 256 * 273 for v in range(4096)])]
    headers: dict[str, dict[str, Any]] = {
        "good": {},
        "bits": {"BitsStored": 16, "HighBit": 15},
        "window": {"WindowCenter": 2000, "WindowWidth": 90_000},
        "black_and_white": {"WindowCenter": 2000, "WindowWidth": 3},
        "table": {"VOILUTSequence": [lut(4096, [0] * 1000 + list(range(3096)))]},
        "modality": {"ModalityLUTSequence": steps},
        "modality_and_window": {
            "ModalityLUTSequence": steps, "WindowCenter": 2048, "WindowWidth": 4096,
        },
        "few": {"VOILUTSequence": steps},
    }  # fmt: skip
    for name, tags in headers.items():
        film(level, **tags).save_as(films / f"{name}.dcm", enforce_file_format=True)
    Image.fromarray(level).save(films / "wide.png")
    Image.fromarray(grey // 5 + 20).save(films / "flat.png")
    labels = write_labels(
        tmp_path / "labels.csv", {file.name: ("MRN-1", {"Mass": 1}) for file in films.iterdir()}
    )
    result = run("flower-data", "site", "--images", films, "--labels", labels, "--out",
                 tmp_path / "shard", "--size", 256)  # fmt: skip
    assert result.returncode == 0, result.stderr
    files = read_private(private_path(tmp_path / "shard")).files
    causes = {
        "bits.dcm": "no window in the header, and the pixels use few of the 16 bits stored",
        "window.dcm": "the window in the header does not fit the pixels",
        "black_and_white.dcm": "the window in the header does not fit the pixels",
        "modality.dcm": "the table (modality LUT) in the header does not fit the pixels",
        "modality_and_window.dcm": "the table (modality LUT) or the window in the header does not "
        "fit the pixels",
        "few.dcm": "the table (VOI LUT) in the header does not fit the pixels",
        "wide.png": "16-bit values that have fewer bits: scale them to 16 bits, or declare them "
        "in a chunk sBIT",
        "flat.png": "the file itself is dark, flat or in few grey levels",
    }
    told = re.findall(r"^dull: image (\d+): .*; likely cause: (.*)$", result.stderr, re.MULTILINE)
    assert {files[number]: cause for number, cause in told} == causes
    assert len(told) == len(causes)
    for cause in set(causes.values()):
        count = list(causes.values()).count(cause)
        assert f"{count:>7} dull, but in the shard: {cause}" in result.stdout
    assert "Doe" not in result.stderr + result.stdout.replace(str(films), "")
    checked = run("flower-data", "check", tmp_path / "shard")
    assert f"warning: dull: {len(causes)} times: " in checked.stdout
    assert "blank" not in checked.stdout


def test_why_a_film_is_dull_is_unknown_without_its_file(tmp_path: Path) -> None:
    assert why_dull(tmp_path / "a.dcm") == "unknown, the file can no longer be read"


def lut(count: int, entries: list[int]) -> Dataset:
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [count, 0, 16])
    table.add_new("LUTData", "US", entries)
    return table


def test_a_dicom_file_is_opened_once_for_its_header_and_once_for_its_pixels(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("Doe_Jane.dcm", "2024/IM0001"):  # a dull film's header is read again
        film(PatientID="MRN-1").save_as(site / name, enforce_file_format=True)
    opened: Counter[str] = Counter()
    original = open

    def counting(file: Any, *rest: Any, **named: Any) -> Any:
        opened[str(file)] += 1
        return original(file, *rest, **named)

    monkeypatch.setattr(builtins, "open", counting)
    monkeypatch.setattr(io, "open", counting)
    command(arguments(site))
    counts = {name: opened[str(site / name)] for name in ("Doe_Jane.dcm", "2024/IM0001", "ct.dcm")}
    assert counts == {"Doe_Jane.dcm": 2, "2024/IM0001": 2, "ct.dcm": 1}


def test_nothing_that_names_a_patient_is_in_the_shard_or_printed(site: Path) -> None:
    (site / "Doe_Jane.dcm").rename(site / "one.dcm")
    result = run("flower-data", "site", *arguments(site))
    shard = site.parent / "shard"
    texts = [file.read_bytes() for file in shard.iterdir()]
    texts += [result.stdout.encode(), result.stderr.encode()]
    for secret in (b"MRN", b"Doe", b"Jane", b"1.2.3.4", b"IM0001"):
        assert not [text for text in texts if secret in text]
    private = private_path(shard)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert private.parent == shard.parent
    assert read_private(private).salt.encode() not in b"".join(texts)


def test_strict_refuses_it_all_and_writes_nothing(site: Path) -> None:
    result = run("flower-data", "site", *arguments(site, "--strict"))
    assert_one_line(result, 2, "3 of 8 files are refused")
    assert "refused: ct.dcm: modality 'CT'" in result.stderr
    assert [path.name for path in site.parent.iterdir()] == ["films"]
    for name in ("ct.dcm", "side.dcm", "notes.txt"):
        (site / name).unlink()
    result = run("flower-data", "site", *arguments(site, "--strict"))
    assert_one_line(result, 2, "1 of 5 images cannot be read; replace them, or leave out --strict")
    *told, error = result.stderr.splitlines()
    assert "refused: broken.dcm: cannot be read as DICOM: damaged, or cut short" in told
    assert "broken" not in error
    assert not (site.parent / "shard").exists()


def test_an_error_names_no_file_if_no_film_can_be_decoded(site: Path) -> None:
    for name in ("Doe_Jane.dcm", "2024/IM0001", "a.png", "b.JPG"):
        (site / name).unlink()
    result = run("flower-data", "site", *arguments(site))
    assert_one_line(result, 2, "1 of 1 images cannot be read; give files that can be read")
    assert "refused: broken.dcm: cannot be read as DICOM" in result.stderr
    assert "broken" not in result.stderr.splitlines()[-1]


def test_a_second_try_keeps_the_salt_and_another_shard_can_share_it(site: Path) -> None:
    command(arguments(site))
    first = open_shard(site.parent / "shard").entries
    for file in (site.parent / "shard").iterdir():
        file.unlink()
    command(arguments(site))
    assert open_shard(site.parent / "shard").entries == first
    private = private_path(site.parent / "shard")
    command([*arguments(site)[:-1], str(site.parent / "two"), "--salt-from", str(private)])
    assert {e.patient for e in open_shard(site.parent / "two").entries} == {
        e.patient for e in first
    }
    command([*arguments(site)[:-1], str(site.parent / "three")])
    assert not {e.patient for e in open_shard(site.parent / "three").entries} & {
        e.patient for e in first
    }


def test_the_private_file_of_another_shard_is_not_replaced(site: Path) -> None:
    shard, two = site.parent / "shard", site.parent / "two"
    command(arguments(site))
    command([*arguments(site)[:-1], str(two)])
    before = private_path(shard).read_bytes()
    shard.rename(site.parent / "moved")
    with pytest.raises(BadInput, match=r"already and has another salt; move it to its shard, or"):
        command(arguments(site, "--salt-from", private_path(two)))
    (site / "a.png").unlink()
    with pytest.raises(BadInput, match=r"lists other films; .* another --out with --salt-from"):
        command(arguments(site))
    assert private_path(shard).read_bytes() == before
    assert not shard.exists()
    (site.parent / "moved").rename(shard)
    command([*arguments(site)[:-1], f"{shard}-2", "--salt-from", str(private_path(shard))])
    assert len(open_shard(site.parent / "shard-2")) == 3


def test_without_labels_the_shard_is_for_pretraining(site: Path) -> None:
    for name in ("a.png", "b.JPG", "broken.dcm"):
        (site / name).unlink()
    (site / "labels.csv").unlink()
    command(["--images", str(site), "--out", str(site.parent / "shard"), "--views", "both",
             "--size", "40", "--workers", "1"])  # fmt: skip
    shard = open_shard(site.parent / "shard")
    assert shard.labels is None
    assert len(shard) == 3


def test_a_labelled_film_of_no_known_patient_is_refused(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_labels(site / "labels.csv", {"a.png": ("", {}), "b.JPG": ("1", {})})
    command(arguments(site))
    assert "refused: a.png: no patient" in capsys.readouterr().err


def test_without_labels_a_film_of_no_known_patient_is_a_patient_of_its_own(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (site / "labels.csv").unlink()
    given = ["--images", str(site), "--size", "40", "--workers", "1"]
    command([*given, "--out", str(site.parent / "shard")])
    printed = capsys.readouterr()
    assert "no patient" not in printed.err
    assert "2 films of no known patient; each is taken as a patient of its own" in printed.out
    entries = open_shard(site.parent / "shard").entries
    private = read_private(private_path(site.parent / "shard"))
    assert sorted(private.files.values()) == ["2024/IM0001", "Doe_Jane.dcm", "a.png", "b.JPG"]
    assert len({entry.patient for entry in entries}) == 3
    assert all(re.fullmatch("[0-9a-f]{16}", entry.patient) for entry in entries)
    salted = ("--salt-from", str(private_path(site.parent / "shard")))
    command([*given, "--out", str(site.parent / "two"), *salted])
    assert open_shard(site.parent / "two").entries == entries


def test_what_is_decoded_stays_when_a_file_is_removed(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ct.dcm", "side.dcm", "notes.txt"):
        (site / name).unlink()
    with pytest.raises(BadInput, match=r"1 of 5 .*; replace them, or leave out --strict, and"):
        command(arguments(site, "--strict"))
    (site / "broken.dcm").unlink()
    (site / "a.png").unlink()
    command(arguments(site, "--strict"))
    assert "continuing: 3 of 3 images are done" in capsys.readouterr().err
    assert len(open_shard(site.parent / "shard")) == 3


def test_the_view_may_be_in_the_labels(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site / "labels.csv").write_text(
        "image,patient,view,Finding Labels\na.png,1,ll,Mass\nb.JPG,1,PA,Mass\n"
    )
    command(arguments(site))
    assert "refused: a.png: view 'LL', frontal is wanted" in capsys.readouterr().err
    assert len(open_shard(site.parent / "shard")) == 1


def test_a_damaged_private_file_stops_it_before_a_new_salt_is_made(site: Path) -> None:
    private_path(site.parent / "shard").write_text('{"salt": "MRN-1"}')
    with pytest.raises(
        BadInput, match=r"shard\.private\.json: damaged, or not the private"
    ) as error:
        command(arguments(site))
    assert "MRN" not in str(error.value)


@needs_shared_data
def test_real_dicom_files_with_labels_as_chestxray14_has_them(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(
        "Image Index;Finding Labels;Patient ID;View Position\n"
        "udacity_test2;Cardiomegaly;1;AP\nudacity_test3.dcm;Effusion|Mass;61;\n"
        "udacity_test5.dcm;No Finding;2;PA\nnema_RG1_UNCR;No Finding;9RG1;PA\n"
    )
    result = run("flower-data", "site", "--images", SHARED / "dicom", "--labels",
                 tmp_path / "labels.csv", "--out", tmp_path / "shard")  # fmt: skip
    assert result.returncode == 0, result.stderr
    shard = open_shard(tmp_path / "shard")
    assert shard.manifest.counts is not None
    assert {f: n for f, n in shard.manifest.counts.items() if n} == {
        "Cardiomegaly": 1, "Effusion": 1, "Mass": 1,
    }  # fmt: skip
    assert "refused: udacity_test5.dcm: modality 'CT'" in result.stderr
    assert "refused: nema_RG1_J2KR.dcm: no line in --labels" in result.stderr


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("image,Mass\na,1\n", "neither a column 'Finding Labels' nor .* missing: Atelectasis"),
        ("name,Finding Labels\na,Mass\n", "no column of the file; give it .* Image Index, image, "),
        ("image,Finding Labels\n,Mass\n", "line 2: image is empty"),
        ("image,Finding Labels\na,Mass\na,Mass\n", "line 3: the same image as line 2"),
        ("image,Finding Labels\na,Cough\n", "line 2: unknown finding; known: "),
        ("image,NAMES\na,ZEROS\n".replace("ZEROS", "yes" + ",0" * 13), "Atelectasis is 'yes'"),
        ("image,NAMES\na,ZEROS\n".replace("ZEROS", "-2" + ",0" * 13), "Atelectasis is '-2', not 0"),
        ("image,NAMES\na,ZEROS\n".replace("ZEROS", "2" + ",0" * 13), "Atelectasis is '2', not 0"),
        ("image,NAMES,No Finding\na,ZEROS,1\n".replace("ZEROS", "1" + ",0" * 13),
         "No Finding is 1 beside 1 findings"),
        ("image,NAMES,No Finding\na,ZEROS,0\n".replace("ZEROS", "0" + ",0" * 13),
         "No Finding is 0 beside 0 findings"),
        ("image,NAMES,No Finding\na,ZEROS,1\n".replace("ZEROS", "1" + "," * 13),
         "No Finding is 1 beside 1 findings"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_used_are_refused(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "l.csv").write_text(text.replace("NAMES", ",".join(FINDINGS)))
    with pytest.raises(BadInput, match=why):
        read_labels(tmp_path / "l.csv")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("image,patient,NAMES\na,Doe, Jane,ZEROS\n", "line 2: 17 cells, but the header has 16"),
        ("image,patient,NAMES\na,Doe, Jane,ZERO\n", "line 2: Atelectasis is something else"),
        ("image,patient,Finding Labels\na,1,Doe|Jane\n", "line 2: unknown finding; known"),
        ("image,patient,Finding Labels\na,1,Doe|No Finding\n", "line 2: unknown finding; known"),
    ],
)
def test_a_cell_that_a_comma_has_moved_is_refused_and_not_repeated(
    tmp_path: Path, text: str, why: str
) -> None:
    for name, value in (("NAMES", ",".join(FINDINGS)), ("ZEROS", "0" + ",0" * 13)):
        text = text.replace(name, value)
    (tmp_path / "l.csv").write_text(text.replace("ZERO", "0" + ",0" * 12))
    with pytest.raises(BadInput, match=why) as refused:
        read_labels(tmp_path / "l.csv")
    assert "Doe" not in str(refused.value)
    assert "Jane" not in str(refused.value)


def test_the_last_number_of_a_uid_is_no_suffix() -> None:
    files = [PurePosixPath("1.2.5.7"), PurePosixPath("b/1.2.6.DCM")]
    assert match([Label("1", "1.2.5", "", "", np.zeros(14, np.uint8))], files) == {}
    found = match([Label("1", "1.2.6", "", "", np.zeros(14, np.uint8))], files)
    assert list(found) == [files[1]]


def test_the_order_is_that_of_the_pseudonyms_and_the_labels_name_the_patient(
    tmp_path: Path,
) -> None:
    (tmp_path / "films").mkdir()
    for i in range(12):
        film(np.full((64, 64), 50 * i, np.uint16)).save_as(
            tmp_path / "films" / f"{i:02}.dcm", enforce_file_format=True
        )
    rows = {f"{i:02}": (f"CSV-{i}", {"Mass": 1}) for i in range(12)}
    labels = write_labels(tmp_path / "labels.csv", rows)
    command([*("--images", str(tmp_path / "films"), "--labels", str(labels), "--size", "40"),
             *("--workers", "1", "--out", str(tmp_path / "shard"))])  # fmt: skip
    private = read_private(private_path(tmp_path / "shard"))
    files = list(private.files.values())
    assert files == sorted(files, key=private.pseudonym)
    assert files != sorted(files)
    patients = [entry.patient for entry in open_shard(tmp_path / "shard").entries]
    assert patients == [private.pseudonym(f"CSV-{int(file[:2])}") for file in files]


def test_what_is_not_entered_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    films = tmp_path / "films"
    (films / "closed").mkdir(parents=True)
    Image.fromarray(np.full((50, 50), 200, np.uint8)).save(films / "a.png")
    (tmp_path / "elsewhere").mkdir()
    (films / "link").symlink_to(tmp_path / "elsewhere")
    (films / "nowhere.png").symlink_to(tmp_path / "nothing")
    scan = os.scandir

    def closed(path: str) -> Any:  # root may enter every folder
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    labels = write_labels(tmp_path / "labels.csv", {"a.png": ("1", {"Mass": 1})})
    given = ["--images", str(films), "--labels", str(labels), "--size", "40", "--workers", "1"]
    with pytest.raises(BadInput, match="3 of 4 files are refused"):
        command([*given, "--out", str(tmp_path / "shard"), "--strict"])
    command([*given, "--out", str(tmp_path / "shard")])
    told = capsys.readouterr().err
    for line in (
        "closed: folder: Permission denied", "link: links to folders are not followed",
        "nowhere.png: broken link",
    ):  # fmt: skip
        assert told.count(f"refused: {line}\n") == 2


def test_a_name_that_is_not_utf_8_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    film(np.full((64, 64), 1000, np.uint16)).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    (tmp_path / "a.dcm").rename(tmp_path / "films" / os.fsdecode(b"M\xfcller.dcm"))
    result = run("flower-data", "site", "--images", tmp_path / "films", "--out", tmp_path / "shard")
    assert result.returncode == 0, result.stderr
    files = read_private(private_path(tmp_path / "shard")).files
    assert files == {"000000": "M\\xfcller.dcm"}


def test_the_list_of_files_is_there_before_the_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Path
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("radiographs.sources.site.convert", killed)
    with pytest.raises(KeyboardInterrupt):
        command(arguments(site))
    files = read_private(private_path(tmp_path / "shard")).files
    assert "a.png" in files.values()


def test_column_names_may_be_written_in_other_ways(tmp_path: Path) -> None:
    names = [name.lower().replace("_", " ") for name in reversed(FINDINGS)]
    (tmp_path / "l.csv").write_text(f"image,{','.join(names)}\na\\b,1.0{',0' * 13}\n")
    [label] = read_labels(tmp_path / "l.csv")
    assert label.image == "a/b"
    assert label.labels.tolist() == [0] * 13 + [1]


def read_one(folder: Path, cells: str, **options: Any) -> list[int]:
    """Return the labels of a line with the cells of all findings, and of No Finding."""
    columns = [*FINDINGS, NO_FINDING][: cells.count(",") + 1]
    (folder / "l.csv").write_text(f"image,{','.join(columns)}\na,{cells}\n")
    [label] = read_labels(folder / "l.csv", **options)
    return [int(value) for value in label.labels]


def test_an_empty_cell_is_unknown_and_an_uncertain_one_as_asked(tmp_path: Path) -> None:
    cells = "1,,-1,-1.0,0.0,1.0" + ",0" * 8
    for asked, label in ((None, UNKNOWN), ("ignore", UNKNOWN), ("ones", 1), ("zeros", 0)):
        options = {} if asked is None else {"uncertain": asked}
        expected = [1, UNKNOWN, label, label, 0, 1] + [0] * 8
        assert read_one(tmp_path, cells, **options) == expected


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ("," * 13 + ",1", [UNKNOWN] * 14),  # it fills nothing
        ("0" + "," * 13 + ",1.0", [0] + [UNKNOWN] * 13),
        ("-1" + "," * 13 + ",1", [UNKNOWN] * 14),
        ("," * 13 + ",0", [UNKNOWN] * 14),
        ("0," * 13 + ",0", [0] * 13 + [UNKNOWN]),  # the last one may be it
        ("1," + "0," * 13, [1] + [0] * 13),
        ("0," * 14 + "-1", [0] * 14),
    ],
)
def test_no_finding_fills_no_unknown_label(tmp_path: Path, cells: str, expected: list[int]) -> None:
    assert read_one(tmp_path, cells) == expected


def test_a_column_may_be_missing_for_what_nobody_looked_for(site: Path) -> None:
    findings = [finding for finding in FINDINGS if finding not in ("Hernia", "Pleural_Thickening")]
    given = (
        "Doe_Jane.dcm,1," + "0," * 11 + "-1",
        "2024/IM0001,1," + "," * 11,
        "a.png,2,1" + ",0" * 11,
    )
    text = "\n".join([",".join(["image", "patient", *findings]), *given])
    (site / "labels.csv").write_text(text)
    result = run("flower-data", "site", *arguments(site))
    assert_one_line(result, 2, "missing: Pleural_Thickening, Hernia; if nobody looked for these: "
                    "--allow-unlabelled Pleural_Thickening,Hernia")  # fmt: skip
    result = run("flower-data", "site", *arguments(site, "--allow-unlabelled", "Hernia,Cough"))
    assert_one_line(result, 2, "'Cough' is no finding")
    options = ("--allow-unlabelled", "hernia,Pleural Thickening", "--uncertain", "ones")
    result = run("flower-data", "site", *arguments(site, *options))
    assert result.returncode == 0, result.stderr
    assert "18 of 42 labels are unknown" in result.stdout
    shard = open_shard(site.parent / "shard")
    files = read_private(private_path(shard.path)).files
    found = {
        files[e.image]: row.tolist() for e, row in zip(shard.entries, shard.labelled(), strict=True)
    }
    unknown = [UNKNOWN] * 2
    assert found == {
        "Doe_Jane.dcm": [0] * 11 + [1] + unknown,
        "2024/IM0001": [UNKNOWN] * 14,
        "a.png": [1] + [0] * 11 + unknown,
    }


def test_joined_findings_leave_none_unknown(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("image,Finding Labels\na,Mass\n")
    with pytest.raises(BadInput, match="cannot leave a finding unknown"):
        read_labels(tmp_path / "l.csv", ["Hernia"])


def label(image: str) -> Label:
    return Label(f"l.csv, line of {image}", image, "", "", np.zeros(14, np.uint8))


def test_a_line_names_a_file_by_path_or_name_with_or_without_suffix() -> None:
    files = [PurePosixPath(name) for name in ("x/a.png", "x/b.png", "y/b.png", "c", "a.b.dcm")]
    labels = [label(name) for name in ("a.png", "x/b", "y/b.png", "c", "a.b")]
    found = match(labels, files)
    assert [found[file].image for file in files] == ["a.png", "x/b", "y/b.png", "c", "a.b"]
    with pytest.raises(BadInput, match="line of b: fits 2 files"):
        match([label("b")], files)
    with pytest.raises(BadInput, match="the same file as"):
        match([label("x/b"), label("x/b.png")], files)
