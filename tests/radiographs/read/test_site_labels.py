"""Which columns of a hospital's CSV are read, and which file a line names."""

import unicodedata
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import BadInput
from common.findings import FINDINGS
from radiographs.read.site_labels import Label, match, read_labels
from tests.support.shards import SHARED, needs_shared_data

ROW = ",".join("0" * 14)
HEADER = ",".join(FINDINGS)


def write(path: Path, columns: str, cells: str) -> Path:
    path.write_text(f"{columns},{HEADER}\n{cells},{ROW}\n")
    return path


def label(image: str) -> Label:
    return Label(f"l.csv, line of {image}", image, "", "", np.zeros(14, np.uint8))


USUAL_NAMES = {
    "image": "image,Image Index,IMAGE_INDEX,Image-Index,filename,File Name,path,dicom_id,ImageID",
    "patient": "patient,Patient ID,PatientID,patient_id,Patient-ID,pat_id,PID,subject_id,MRN",
    "view": "view,View,ViewPosition,View Position,view_position,View-Position,VIEWPOSITION,ViewPos,"
    "View Type,Frontal/Lateral,frontal_lateral,FrontalLateral,Projection,"
    "ViewCodeSequence_CodeMeaning",
}


@pytest.mark.parametrize(
    ("column", "name"), [(c, name) for c, names in USUAL_NAMES.items() for name in names.split(",")]
)
def test_columns_are_known_under_their_usual_names(
    tmp_path: Path, column: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = "view,patient,image".replace(column, name)
    [found] = read_labels(write(tmp_path / "l.csv", columns, "Lateral,7,a.png"))
    assert (found.image, found.patient, found.view) == ("a.png", "7", "LATERAL")
    assert capsys.readouterr().err == ""


def test_the_view_position_goes_before_the_meaning_of_the_view_code(tmp_path: Path) -> None:
    columns = "image,ViewCodeSequence_CodeMeaning,ViewPosition"
    [found] = read_labels(write(tmp_path / "l.csv", columns, "a.png,postero-anterior,LL"))
    assert found.view == "LL"


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        ("image,view,ViewPosition", "'view' and 'ViewPosition'"),
        ("image,view,View", "'view' and 'View'"),
        ("image,view,view", "'view' and 'view'"),
        ("image,view-position,ViewPos", "'view-position' and 'ViewPos'"),
        ("image,filename,age", "'image' and 'filename'"),
        ("image,patient,Patient_ID", "'patient' and 'Patient_ID'"),
        ("image,patient,mass", "'mass' and 'Mass'"),
    ],
)
def test_two_columns_of_one_meaning_are_refused(tmp_path: Path, columns: str, names: str) -> None:
    with pytest.raises(BadInput, match=f"columns {names} may mean the same"):
        read_labels(write(tmp_path / "l.csv", columns, "a,1,2"))


def test_columns_that_are_not_used_are_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "l.csv", "image,Sex,Age at Exam,patient", "a,F,50,1")
    file.write_text(file.read_text() + f"b,M,40,2,{ROW}\n")
    assert len(read_labels(file)) == 2
    assert capsys.readouterr().err == f"{file}: columns that are not used: 'Sex', 'Age at Exam'\n"
    file.write_text("Image Index,Finding Labels,Mass\na,Mass,0\n")
    assert read_labels(file)[0].labels.sum() == 1
    assert capsys.readouterr().err == f"{file}: columns that are not used: 'Mass'\n"
    file.write_text("image,finding_labels\na,Mass\n")
    assert read_labels(file)[0].labels.sum() == 1


def test_a_stray_quotation_mark_is_refused_with_its_line(tmp_path: Path) -> None:
    file = write(tmp_path / "l.csv", "image,patient,remark", "f0,0,ok")
    file.write_text(
        file.read_text() + f'f1,1,"5 mm nodule,{ROW}\nf2,2,ok,{ROW}\nf3,3,"known",{ROW}\n'
    )
    with pytest.raises(BadInput, match="line 3: a stray quotation mark"):
        read_labels(file)
    file.write_text(file.read_text().replace('"known"', 'known"'))
    with pytest.raises(BadInput, match=r"line 3: a stray quotation mark; .* go on to line 5"):
        read_labels(file)


@needs_shared_data
def test_the_stray_quotation_mark_of_a_report_is_refused() -> None:
    with pytest.raises(BadInput, match="line 3: a stray quotation mark"):
        read_labels(SHARED / "faults" / "labels_stray_quote_before_labels.csv")


@needs_shared_data
def test_the_view_column_of_mimic_is_read() -> None:
    [found] = read_labels(SHARED / "faults" / "labels_viewposition_column.csv")
    assert (found.image, found.view) == ("film_lateral.jpg", "LATERAL")


STEMS = ["a", "Müller", "b.c", "1.2.840", "é", "Ö 1"]
FOLDERS = ["", "x/", "x/ÿ/"]
SUFFIXES = ["", ".dcm", ".png", ".JPG", ".jfif", ".DICOM"]


@given(
    st.sampled_from(FOLDERS), st.sampled_from(STEMS), st.sampled_from(SUFFIXES),
    st.sampled_from(["NFC", "NFD"]), st.sampled_from(["NFC", "NFD"]),
    st.sampled_from([str.lower, str.upper, str]), st.sampled_from(["", "./", ".//", "/films/"]),
    st.booleans(),
)  # fmt: skip
def test_a_line_names_its_file_however_it_is_spelled(
    folder: str, stem: str, suffix: str, stored: str, written: str, case: object, start: str,
    backslashes: bool,
) -> None:  # fmt: skip
    normal = unicodedata.normalize
    files = [
        PurePosixPath(normal(stored, f"{folder}{stem}{suffix}")),  # type: ignore[arg-type]
        PurePosixPath("other/z.png"),
        PurePosixPath("q.dcm"),
    ]
    name = normal(written, start + folder + stem) + case(suffix)  # type: ignore[arg-type, operator]
    if backslashes and not start.startswith("/"):
        name = name.replace("/", "\\")
    line = label(name.replace("\\", "/"))
    assert match([line], files, Path("/films")) == {files[0]: line}


def test_files_that_differ_in_nothing_else_are_told_apart_by_case_and_form() -> None:
    files = [PurePosixPath(name) for name in ("a.png", "a.PNG", "\xe9.dcm", "e\u0301.dcm")]
    lines = [label(str(file)) for file in files]
    assert match(lines, files) == dict(zip(files, lines, strict=True))
    with pytest.raises(BadInput, match="fits 2 files"):
        match([label("a.Png")], files)


def test_a_path_below_the_folder_is_understood_absolute_and_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "films").mkdir()
    (tmp_path / "link").symlink_to("films")
    monkeypatch.chdir(tmp_path)
    files = [PurePosixPath("x/a.png")]
    for root in (Path("films"), Path("./films"), tmp_path / "films", Path("link")):
        name = tmp_path.resolve() / "films" / "x" / "a.png"
        assert list(match([label(str(name))], files, root)) == files
    assert list(match([label("films/x/a.png")], files, Path("films"))) == files
    assert match([label("/elsewhere/x/a.png")], files, Path("films")) == {}
    with pytest.raises(BadInput, match="the same file as"):
        match([label("x/a.png"), label("./x/a.png")], files, Path("films"))
