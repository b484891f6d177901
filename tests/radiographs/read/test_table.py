import gzip
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import BadInput
from common.findings import FINDINGS
from radiographs.read.chexpert import read_films
from radiographs.read.nih import read_list, read_metadata
from radiographs.read.site_labels import read_labels
from radiographs.read.table import header_of, read_table
from radiographs.write.assignment import read_assignment

NAMES = ["Image Index", "Finding Labels", "Patient ID", "image", "hospital", "Path"]
CELLS = [
    *(*NAMES, "Frontal/Lateral", "a.png", "Mass|Edema", "No Finding", "1", "", '"', "\x00", "ä"),
    *("ViewPosition", "patient_id", '"x', 'x"', '"x,1"', ",".join(FINDINGS), ",".join("0" * 14)),
]

texts = st.lists(
    st.lists(st.sampled_from(CELLS) | st.text(max_size=8), max_size=8).map(",".join), max_size=8
).map("\n".join)


@settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=300) | texts.map(lambda text: text.encode(errors="replace")))
def test_whatever_a_file_holds_it_is_read_or_refused(tmp_path: Path, content: bytes) -> None:
    for name, data in (
        ("train.csv", content),
        ("a.csv.gz", content),
        ("b.csv.gz", gzip.compress(content, 1)),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        for read in (
            read_metadata,
            read_list,
            read_labels,
            lambda path: read_assignment(path, ["a.png"], ["b.png"], False),
            lambda path: read_films(path, "train"),
            lambda path: read_films(path, "train", "ones"),
            lambda path: list(read_table(path, [])),
        ):
            with suppress(BadInput):
                read(path)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_columns_are_found_by_name_whatever_a_spreadsheet_did(
    tmp_path: Path, delimiter: str, bom: bytes
) -> None:
    rows = [["b", " a", "", "c"], ["1", "x ", "?", "3"], [], ["4", "y", "", "6", " "]]
    text = "\r\n".join(delimiter.join(row) for row in rows)
    (tmp_path / "t.csv").write_bytes(bom + text.encode())
    lines = list(read_table(tmp_path / "t.csv", ["a", "b"]))
    assert [line.cells for line in lines] == [
        {"b": "1", "a": "x", "c": "3"},
        {"b": "4", "a": "y", "c": "6"},
    ]
    assert [line.number for line in lines] == [2, 4]
    assert lines[1].where.endswith("t.csv, line 4")
    assert header_of(tmp_path / "t.csv") == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "0 columns 'a'"),
        (b"a,a\n1,2\n", "2 columns 'a'"),
        (b"a\n", "a header and no line"),
        (b"a,b\n1\n", "line 2: 1 cells, but the header has 2"),
        (b"a\n\xff\n", "not UTF-8"),
        (b'a,"b\n1,2\n', "line 1: a stray quotation mark"),
        (b'a,b\n1,2\n3,"4\n5,6\n', "line 3: a stray quotation mark"),
        (b'a,b\n1,2\n3,"4" 5\n5,6\n', "line 3: a stray quotation mark"),
        (b'a,b,c\n1,"2,3\n4,"5",6\n', "line 2: a stray quotation mark"),
        (b'a,b,c\n\n1,"2,3\n4,5",6\n', "line 3: a stray quotation mark.* go on to line 4"),
        (b'a,b\n1,"' + b"2,3\n" * 40_000, "line 2: a stray quotation mark"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(BadInput, match=why):
        list(read_table(tmp_path / "t.csv", ["a"]))


def test_a_cell_may_span_lines_if_they_are_no_lines_of_the_table(tmp_path: Path) -> None:
    text = 'a,b,c,d\n1,"x, y\nand ""z""\n",3,4\n5,"6",7,"end\r\nof it"\n8,9,10,11\n'
    (tmp_path / "t.csv").write_bytes(text.encode())
    lines = list(read_table(tmp_path / "t.csv", ["a"]))
    assert [line.cells["a"] for line in lines] == ["1", "5", "8"]
    assert lines[0].cells["b"] == 'x, y\nand "z"'
    assert lines[1].cells["d"] == "end\r\nof it"
    assert [line.number for line in lines] == [2, 5, 7]


@settings(
    deadline=None, max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.lists(st.sampled_from(["1", "x", "a b", '"q"', '"q, r"', ""]), min_size=4, max_size=4),
        min_size=1,
        max_size=6,
    ),
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 200)), min_size=1, max_size=3),
)
def test_no_line_has_cells_of_another_whatever_quotation_marks_are_added(
    tmp_path: Path, rows: list[list[str]], strays: list[tuple[int, int]]
) -> None:
    """The first cell is the line's number; the last must be the same one, marks or not."""
    lines = [",".join([str(i), *cells, f"end {i}"]) for i, cells in enumerate(rows)]
    for row, place in strays:
        line = lines[row % len(lines)]
        at = 1 + place % (len(line) - 1)
        lines[row % len(lines)] = f'{line[:at]}"{line[at:]}'
    (tmp_path / "t.csv").write_text("\n".join(["n,a,b,c,d,end", *lines]))
    with suppress(BadInput):
        for found in read_table(tmp_path / "t.csv", ["n"]):
            number, end = (found.cells[name].replace('"', "") for name in ("n", "end"))
            assert end == f"end {number}"


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read: Is a directory"):
        read_metadata(tmp_path)
