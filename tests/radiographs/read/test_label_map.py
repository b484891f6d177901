import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from common.errors import BadInput
from common.findings import FINDINGS, UNKNOWN
from common.shard import open_shard
from radiographs.read.label_map import read_map
from radiographs.read.site_labels import read_labels
from tests.support.commands import assert_one_line, run

OWN = {
    "Pleuraerguss": "Effusion",
    "Herzvergrößerung": "Cardiomegaly",
    "lung mass": "Mass",
    "o.B.": "No Finding",
}
OTHERS = [f for f in FINDINGS if f not in OWN.values()]


def write_map(path: Path, named: dict[str, str]) -> Path:
    if path.suffix == ".json":
        path.write_text(json.dumps(named, ensure_ascii=False))
    else:
        path.write_text("\n".join(["column,finding", *map(",".join, named.items())]))
    return path


@pytest.fixture(params=["map.csv", "map.json"])
def own_map(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_map(tmp_path / str(request.param), OWN)


def test_a_hospital_names_its_own_columns(own_map: Path, tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    Image.fromarray(np.full((50, 50), 9, np.uint8)).save(tmp_path / "films" / "a.png")
    labels = tmp_path / "labels.csv"
    labels.write_text(f"image,patient,{','.join(OWN)},{OTHERS[0]}\na.png,1,1,,0,0,1\n")
    given = (
        *("--images", tmp_path / "films", "--labels", labels, "--out", tmp_path / "shard"),
        *("--size", 40, "--workers", 1, "--map", own_map),
    )
    unlabelled = ",".join(OTHERS[1:])
    assert_one_line(run("flower-data", "site", *given), 2, f"missing: {', '.join(OTHERS[1:])}; if")
    result = run("flower-data", "site", *given, "--allow-unlabelled", unlabelled)
    assert result.returncode == 0, result.stderr
    known = {"Effusion": 1, "Mass": 0, OTHERS[0]: 1}
    assert open_shard(tmp_path / "shard").labelled().tolist() == [
        [known.get(finding, UNKNOWN) for finding in FINDINGS]
    ]
    pretraining = ("--images", tmp_path / "films", "--out", tmp_path / "x", "--map", own_map)
    assert_one_line(run("flower-data", "site", *pretraining), 2, "--map is for --labels")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("column,finding\nA,Cough\n", "line 2: 'Cough' is no finding; give some of .* No Finding"),
        ("column,finding\nA,Mass\nA,Edema\n", "line 3: 'A' is there twice"),
        ("column,finding\nA,Mass\nB,mass\n", "line 3: a second column for Mass; make one"),
        ("a,b\nA,Mass\n", "0 columns 'column'"),
        ('{"A": 1}', 'not JSON like {"Pleural effusion": "Effusion"'),
        ('{"A": {"B": "C"}}', "not JSON like"),
        ('{"A": "Mass"', "not JSON like"),
        ('{"A": "Mass", "A": "Edema"}', "'A' is there twice"),
        ("", "0 columns 'column'"),
    ],
)
def test_a_map_that_cannot_be_used_is_refused(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "map").write_text(text)
    with pytest.raises(BadInput, match=why):
        read_map(tmp_path / "map")


@pytest.mark.parametrize(
    ("header", "named", "why"),
    [
        (FINDINGS, {"Erguss": "Effusion"}, "no column 'Erguss', which --map names"),
        (
            (*FINDINGS, "Erguss"),
            {"Erguss": "Effusion"},
            "two columns for Effusion: 'Effusion', and by --map 'Erguss'",
        ),
        (("Finding Labels", "Erguss"), {"Erguss": "Effusion"}, "has a column 'Finding Labels'"),
    ],
)
def test_a_map_that_does_not_fit_the_table_is_refused(
    tmp_path: Path, header: tuple[str, ...], named: dict[str, str], why: str
) -> None:
    (tmp_path / "l.csv").write_text(f"image,{','.join(header)}\na{',0' * len(header)}\n")
    with pytest.raises(BadInput, match=why):
        read_labels(tmp_path / "l.csv", meant=named)


def test_a_column_that_the_map_names_is_not_read_by_its_own_name(tmp_path: Path) -> None:
    names = [f for f in FINDINGS if f != "Nodule"]  # their "Mass" means a nodule
    (tmp_path / "l.csv").write_text(
        f"image,{','.join(names)}\na,{','.join(str(int(f == 'Mass')) for f in names)}\n"
    )
    [label] = read_labels(tmp_path / "l.csv", ["Mass"], meant={"mass": "Nodule"})
    assert label.labels[FINDINGS.index("Nodule")] == 1
    assert label.labels[FINDINGS.index("Mass")] == UNKNOWN


@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.binary(max_size=100)
    | st.dictionaries(st.text(max_size=5), st.sampled_from(FINDINGS), max_size=3).map(
        lambda named: json.dumps(named).encode()
    )
)
def test_whatever_a_map_holds_it_is_read_or_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "map").write_bytes(content)
    with suppress(BadInput):
        read_map(tmp_path / "map")
