"""What ``flower-data site`` makes of headers and tables that tell little or in other words."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.errors import BadInput
from common.shard import open_shard
from radiographs.sources.assumed import Known, assumptions
from radiographs.sources.site import command
from radiographs.write.private import private_path, read_private
from tests.support.commands import assert_one_line, run
from tests.support.films import film
from tests.support.shards import SHARED, needs_shared_data

LEVEL = np.full((48, 48), 1000, np.uint16)


def save(path: Path, missing: tuple[str, ...] = (), **tags: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    data = film(LEVEL, **tags)
    for name in missing:
        delattr(data, name)
    data.save_as(path, enforce_file_format=True)


def site(images: Path, *more: object) -> list[str]:
    given = ("--images", images, "--out", images.parent / "shard", "--size", 40, "--workers", 1)
    return [*map(str, (*given, *more))]


def taken(shard: Path) -> list[str]:
    files = read_private(private_path(shard)).files
    return sorted(files[entry.image] for entry in open_shard(shard).entries)


def test_the_summary_counts_what_was_assumed(tmp_path: Path) -> None:
    films = tmp_path / "films"
    for i in range(3):
        save(films / f"a{i}.dcm", ("ViewPosition",), PatientID=f"A-{i}")
    for i in range(2):
        save(films / f"b{i}.dcm", ("BodyPartExamined",), PatientID=f"B-{i}")
    save(films / "c.dcm", ViewPosition="LL")
    for i in range(4):
        save(films / f"d{i}.dcm", PatientID="ANONYMOUS")
    result = run("flower-data", "site", *site(films))
    assert result.returncode == 0, result.stderr
    assert "9 images of 6 patients, 1 files refused" in result.stdout
    assert "3 of 9 films give no view and were taken as frontal\n" in result.stdout
    assert "2 of 9 films give no body part and were taken as chest films\n" in result.stdout
    assert "4 of 9 films have a placeholder such as ANONYMOUS for the patient" in result.stdout


def test_nothing_is_said_if_nothing_was_assumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(3):
        save(tmp_path / "films" / f"{i}.dcm", PatientID=f"A-{i}")
    command(site(tmp_path / "films"))
    told = capsys.readouterr().out
    assert "3 images of 3 patients" in told
    assert not [word for word in ("give no", "placeholder") if word in told]


def test_a_view_in_the_table_is_told_and_can_contradict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    films = tmp_path / "films"
    for name in ("told", "lateral", "silent", "odd", "spoilt"):
        save(films / f"{name}.dcm", ("ViewPosition",), PatientID=name)
    (tmp_path / "l.csv").write_text(
        "Image Index,View_Position,Finding Labels\ntold,PA,Mass\nlateral,XTABLE LATERAL,Mass\n"
        "silent,,Mass\nodd,W1,Mass\nspoilt,Doe Jane,Mass\n"
    )
    command(site(films, "--labels", tmp_path / "l.csv"))
    assert taken(tmp_path / "shard") == ["silent.dcm", "told.dcm"]
    told = capsys.readouterr()
    assert "1 of 2 films give no view and were taken as frontal" in told.out
    assert "lateral.dcm: the view in --labels is lateral, frontal is wanted" in told.err
    reason = "the view in --labels is unknown; if it is frontal: --view-of WORD=frontal"
    assert f"odd.dcm: {reason}" in told.err
    assert f"      2 refused: {reason}" in told.out
    assert "Jane" not in told.out + told.err
    (tmp_path / "shard").rename(tmp_path / "first")
    command(site(films, "--labels", tmp_path / "l.csv", "--view-of", "w1=frontal"))
    assert "odd.dcm" in taken(tmp_path / "shard")


def test_words_that_are_not_known_can_be_made_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    films = tmp_path / "films"
    save(films / "a.dcm", BodyPartExamined="ZZ UPPER")
    save(films / "b.dcm", BodyPartExamined="QX")
    save(films / "c.dcm", ViewPosition="W1")
    save(films / "d.dcm", ViewPosition="W 2")
    save(films / "e.dcm", ViewPosition="W3")
    result = run("flower-data", "site", *site(films))
    assert result.returncode == 2
    for told in (
        "a.dcm: body part 'ZZ UPPER', not the chest; if it is: --body-part 'ZZ UPPER'\n",
        "b.dcm: body part 'QX', not the chest; if it is: --body-part QX\n",
        "c.dcm: view 'W1', not known; if it is frontal: --view-of W1=frontal\n",
        "d.dcm: view 'W 2', not known; if it is frontal: --view-of 'W 2=frontal'\n",
    ):
        assert f"refused: {told}" in result.stderr
    for name in ("a", "b", "c", "d", "e"):
        (films / f"{name}.dcm").rename(films / f"{name}2.dcm")
    options = ["--body-part", "zz upper", "--body-part", "QX"]
    options += ["--view-of", "W1=frontal,w 2=frontal", "--view-of", "W3=lateral"]
    command(site(films, *options))
    assert taken(tmp_path / "shard") == ["a2.dcm", "b2.dcm", "c2.dcm", "d2.dcm"]
    (tmp_path / "shard").rename(tmp_path / "first")
    monkeypatch.setenv("FLOWER_DATA_BODY_PART", "ZZ UPPER, QX")
    monkeypatch.setenv("FLOWER_DATA_VIEW_OF", "W1=frontal")
    command(site(films))
    assert taken(tmp_path / "shard") == ["a2.dcm", "b2.dcm", "c2.dcm"]


@pytest.mark.parametrize("value", ["W1", "W1=side", "=frontal", "W1=frontal,"])
def test_a_view_option_that_says_nothing_is_refused(tmp_path: Path, value: str) -> None:
    result = run("flower-data", "site", *site(tmp_path, "--view-of", value))
    assert_one_line(result, 2, "--view-of (or FLOWER_DATA_VIEW_OF): give WORD=VIEW")
    with pytest.raises(BadInput, match="--body-part"):
        command(site(tmp_path, "--body-part", "-,"))


def test_files_are_judged_by_their_first_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    films = tmp_path / "films"
    films.mkdir()
    grey = Image.fromarray(np.full((50, 50), 90, np.uint8))
    for name, kind in (("a.jfif", "JPEG"), ("b", "PNG"), ("c.txt", "JPEG"), ("d.dcm", "PNG")):
        grey.save(films / name, kind)
    save(films / "e.png")
    (films / "f.png").write_text("Doe")
    (films / "g.jpg").write_bytes(b"")
    labels = "image,patient,Finding Labels\n"
    labels += "".join(f"{name},{name},Mass\n" for name in ("a", "b", "c.txt", "d", "e", "f", "g"))
    (tmp_path / "l.csv").write_text(labels)
    command(site(films, "--labels", tmp_path / "l.csv"))
    assert taken(tmp_path / "shard") == ["a.jfif", "b", "c.txt", "d.dcm", "e.png"]
    told = capsys.readouterr().err
    assert "refused: f.png: neither DICOM, PNG nor JPEG\n" in told
    assert "refused: g.jpg: neither DICOM, PNG nor JPEG\n" in told


def test_a_table_of_absolute_paths_names_its_files(tmp_path: Path) -> None:
    films = tmp_path / "films"
    save(films / "a.dcm")
    (tmp_path / "l.csv").write_text(f"Path,Finding Labels\n{films / 'a.DCM'},Mass\n")
    command(site(films, "--labels", tmp_path / "l.csv"))
    assert taken(tmp_path / "shard") == ["a.dcm"]


@needs_shared_data
def test_what_is_brought_is_read_or_refused(tmp_path: Path) -> None:
    faults = SHARED / "faults"
    films = tmp_path / "films"
    films.mkdir()
    for name in ("film_lateral.jpg", "a.jfif"):
        (films / name).symlink_to(faults / name)
    (tmp_path / "l.csv").write_bytes(
        (faults / "labels_viewposition_column.csv").read_bytes() + b"a,2,PA" + b",0" * 14 + b"\n"
    )
    result = run("flower-data", "site", *site(films, "--labels", tmp_path / "l.csv"))
    assert result.returncode == 0, result.stderr
    assert "film_lateral.jpg: view 'LATERAL', frontal is wanted" in result.stderr
    assert taken(tmp_path / "shard") == ["a.jfif"]


@pytest.mark.parametrize(
    "placeholder",
    ["ANONYMOUS", "anonymized", "Anon^001", "ANON-7", "unknown", "0", "0000", "XXX", "N/A", "none",
     "anonymous patient", "PATIENT^ANON", "Patient, unknown", "HIDDEN", "匿名", "匿名患者"],
)  # fmt: skip
def test_placeholders_for_patients_are_told(placeholder: str) -> None:
    films = [Known(placeholder, True, True)] * 30 + [Known(str(i), True, True) for i in range(1, 9)]
    [line] = assumptions(films, "frontal")
    assert line.startswith("30 of 38 films have a placeholder")
    [line] = assumptions(films[:30], "frontal")
    assert line.startswith("30 of 30 films have a placeholder")


def test_one_patient_with_all_films_is_told() -> None:
    [line] = assumptions([Known("12345", True, True)] * 30, "frontal")
    assert line.startswith("30 of 30 films have the same patient")
    assert assumptions([Known("12345", True, True)] * 9, "frontal") == []


@pytest.mark.parametrize("number", ["12345", "P-7", "Patient 7", "TEST1", "DOE NAMEDA", "N-0815"])
def test_a_number_of_a_patient_is_no_placeholder(number: str) -> None:
    assert assumptions([Known(number, True, True)] * 2, "frontal") == []


def test_one_patient_with_many_films_is_told_without_the_number() -> None:
    others = [Known(f"P{i}", True, True) for i in range(200)]
    [line] = assumptions([*others, *[Known("DOE-1950", True, True)] * 30], "frontal")
    assert line.startswith("30 of 230 films have the same patient")
    assert "DOE" not in line
    assert assumptions([*others, *[Known("DOE-1950", True, True)] * 9], "frontal") == []
    assert assumptions([*others * 20, *[Known("DOE-1950", True, True)] * 30], "frontal") == []


def test_what_an_absent_view_was_taken_as_depends_on_the_wanted_ones() -> None:
    films = [Known("1", True, False), Known("2", True, True)]
    for views, taken_as in (("lateral", "lateral"), ("both", "frontal or lateral")):
        assert assumptions(films, views) == [  # type: ignore[arg-type]
            f"1 of 2 films give no view and were taken as {taken_as}"
        ]
