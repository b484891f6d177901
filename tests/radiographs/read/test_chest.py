"""What a header tells of body part and view: absent, not known, known."""
# ruff: noqa: RUF001 - letters of other alphabets are meant

import io
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from radiographs.read.chest import Header, Wanted, check_header
from radiographs.read.decode import Unreadable
from radiographs.read.dicom import examine_dicom
from radiographs.read.view import Views
from radiographs.read.view_words import Kind, kind_of
from radiographs.read.words import plain
from tests.support.films import film
from tests.support.shards import SHARED, needs_shared_data

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*for VR CS:UserWarning", "ignore:.*encode:UserWarning"
)


def header(**tags: Any) -> Dataset:
    """Return a header of no body part and no view, but for the given tags."""
    data = film(**tags)
    for name in {"BodyPartExamined", "ViewPosition"} - tags.keys():
        delattr(data, name)
    return data


def code(value: str, scheme: str = "SCT", meaning: str = "", **more: Any) -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    for name, content in more.items():
        setattr(item, name, content)
    return [item]


def stored(name: str, content: bytes, charset: str | None) -> Dataset:
    """Return the header of a file that has these bytes in an element."""
    data = header(**{name: "Z" * (len(content) + len(content) % 2)})
    if charset is not None:
        data.SpecificCharacterSet = charset
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    padded = content.ljust(len(content) + len(content) % 2)
    changed = file.getvalue().replace(b"Z" * len(padded), padded)
    assert changed != file.getvalue()
    return pydicom.dcmread(io.BytesIO(changed))


def check(data: Dataset, views: Views = "frontal", **more: Any) -> Header:
    return check_header(data, Wanted(views, **more))


def told_view(data: Dataset) -> str:
    """Return the only view as which a film is taken, ``none`` or ``absent``."""
    taken: set[str] = set()
    for views in get_args(Views):
        try:
            if not check(data, views).view:
                return "absent"
            taken.add(views)
        except Unreadable:
            pass
    if taken == {"frontal", "both"} or taken == {"lateral", "both"}:
        return (taken - {"both"}).pop()
    assert not taken - {"both"}
    return "both" if taken else "none"


CHESTS = """
    CHEST,THORAX,Tórax,TORAX,TORACE,PECHO,PULMÓN,PULMÃO,BRUSTKORB,POITRINE,POUMONS,BORSTKAS,bröstkorg
    BRYSTKASSE,KLATKA PIERSIOWA,płuca,hrudník,plíce,GÖĞÜS,AKCİĞER,TORAKS,грудная клетка,ОГК,лёгкие
    ΘΩΡΑΚΑΣ,θώραξ,흉부,가슴,胸部,胸,肺,胸廓,mellkas,rintakehä,LUNG,CHEST_PA,CHEST ABDOMEN,ＣＨＥＳＴ
    krūtinės ląsta,lồng ngực,ทรวงอก,صدر,PORTABLECHEST,RX TORAX
    TORACIC,THORACIC,THORACE,REGION TORACICA,RADIOGRAFIA TORACICA,きょうぶ,ムネ,むね,CHEST NECK
"""
OTHERS = """
    HAND,ABDOMEN,TSPINE,THORACIC SPINE,BWS,BRUSTWIRBELSÄULE,BRUST WIRBELSÄULE,COLUMNA TORACICA,RIBS
    RACHIS THORACIQUE,THORAX SPINE,胸椎,흉추,胸骨,HRUDNÍ PÁTEŘ,ABTEILUNG,BREAST,STERNUM,XYZ
    грудной отдел позвоночника,HEAD,PELVIS,MANO,手
    TORAX OSEO,TÓRAX ÓSEO,TORAX OSSEO,HEMITHORAX KNÖCHERN,HEMITHORAX KNOCHERN,THORACOLUMBAR
    HAND CHEST,CHEST HAND,THORAX SCHULTER,HAND\\CHEST,CHEST RIB
"""


def words(text: str) -> list[str]:
    return [word.strip() for line in text.strip().splitlines() for word in line.split(",")]


@pytest.mark.parametrize("word", words(CHESTS))
def test_the_chest_is_known_in_other_languages(word: str) -> None:
    for spelling in (word, word.upper(), word.lower()):
        assert check(stored("BodyPartExamined", spelling.encode(), "ISO_IR 192")).body_part


@pytest.mark.parametrize("word", words(OTHERS))
def test_another_body_part_is_refused_with_the_option(word: str) -> None:
    data = stored("BodyPartExamined", word.encode(), "ISO_IR 192")
    with pytest.raises(Unreadable, match=r"not the chest; if it is: --body-part "):
        check(data)
    assert check(data, body_parts=frozenset([plain(word)])).body_part


@pytest.mark.parametrize(
    ("word", "encoding", "charset"),
    [
        ("흉부", "euc_kr", r"ISO 2022 IR 149"),
        ("흉부", "euc_kr", None),
        ("胸部", "iso2022_jp", "ISO 2022 IR 87"),
        ("胸部", "shift_jis", None),
        ("胸部", "gb18030", "GB18030"),
        ("胸部", "utf-8", None),
        ("TÓRAX", "latin-1", "ISO_IR 100"),
        ("TÓRAX", "latin-1", None),
        ("TÓRAX", "utf-8", None),
        ("грудная клетка", "iso8859_5", "ISO_IR 144"),
        ("грудная клетка", "cp1251", None),
        ("θώρακας", "iso8859_7", "ISO_IR 126"),
        ("göğüs", "iso8859_9", "ISO_IR 148"),
    ],
)
def test_a_word_is_read_in_its_character_set(word: str, encoding: str, charset: str | None) -> None:
    assert check(stored("BodyPartExamined", word.encode(encoding), charset)).body_part


@pytest.mark.parametrize("word", ["", "UNKNOWN", "unk", "-", "N/A"])
def test_a_header_that_says_nothing_is_taken_and_says_so(word: str) -> None:
    found = check(header(BodyPartExamined=word, ViewPosition=word))
    assert found == Header("MRN-0815", body_part=False, view=False)
    assert check(header()) == found
    assert check(header(BodyPartExamined="CHEST", ViewPosition="AP")) == Header(
        "MRN-0815", body_part=True, view=True
    )


@pytest.mark.parametrize(
    ("value", "scheme"),
    [
        ("816094009", "SCT"), ("51185008", "SCT"), ("T-D3000", "SRT"), ("T-D3000", "SNM3"),
        ("T-D3000", "99SDM"), ("39607008", "SCT"), ("T-28000", "SRT"), ("416550000", "SCT"),
        ("R-FAB55", "SRT"), ("RID1243", "RADLEX"), ("9576", "FMA"), ("FMA:9576", "FMA"),
    ],
)  # fmt: skip
def test_the_chest_is_known_by_its_codes_whatever_they_are_said_to_mean(
    value: str, scheme: str
) -> None:
    for meaning in ("Chest", "Thorax", "Hand", "胸部", ""):
        region = code(value, scheme, meaning)
        assert check(header(AnatomicRegionSequence=region)).body_part
        with pytest.raises(Unreadable, match="body part 'HAND', not the chest"):
            check(header(AnatomicRegionSequence=region, BodyPartExamined="HAND"))


@pytest.mark.parametrize(
    ("value", "scheme"),
    [
        ("85562004", "SCT"), ("T-D8700", "SRT"), ("T-D8700", "99SDM"), ("122495006", "SCT"),
        ("113197003", "SCT"), ("T-11300", "SRT"), ("RID1905", "RADLEX"), ("85562004", "SRT"),
    ],
)  # fmt: skip
def test_another_part_is_refused_by_its_code_whatever_else_says_chest(
    value: str, scheme: str
) -> None:
    for more in ({}, {"BodyPartExamined": "CHEST"}):
        data = header(AnatomicRegionSequence=code(value, scheme, "Chest"), **more)
        with pytest.raises(Unreadable, match=f"region '{value}', .* --body-part {value}$"):
            check(data)
        assert check(data, body_parts=frozenset([plain(value)])).body_part


def test_a_code_of_ones_own_counts_only_without_a_word() -> None:
    own = code("4711", "99MAKER", "Chest")
    with pytest.raises(Unreadable, match="anatomic region '4711', not known as the chest"):
        check(header(AnatomicRegionSequence=own))
    assert check(header(AnatomicRegionSequence=own, BodyPartExamined="CHEST")).body_part
    with pytest.raises(Unreadable, match="body part 'HAND'"):
        check(header(AnatomicRegionSequence=own, BodyPartExamined="HAND"))


VIEWS: dict[Kind, str] = {
    "frontal": """
        AP,PA,ap,A.P.,P-A,POSTEROANTERIOR,POSTERO-ANTERIOR,POSTERO_ANTERIOR,ANTERO-POSTERIOR
        Antéro-postérieur,AP SUPINE,AP PORTABLE,PA ERECT,AP SEMI-ERECT,AP 1,FRONTAL,DE FACE
        CHEST PA,THORAX AP IM BETT,胸部正面,正位,后前位,정면,TYLNO-PRZEDNIE,předozadní,прямая
        AP DECUBITO SUPINO
    """,
    "lateral": """
        LL,RL,L,LAT,LATERAL,LLAT,R LAT,XTABLE LATERAL,X-TABLE LAT,CROSS-TABLE LATERAL,LEFT LATERAL
        LATERALE,LATERO-LATERAL,PROFIL,PROFILO,PERFIL,SEITLICH,BOCZNE,boční,боковая,YAN,πλάγια,側面
        侧位,측면,CHEST LATERAL,LATERAL ERECT
    """,
    "other": """
        RLO,LLO,LLD,RLD,LAO,RAO,LPO,RPO,OBLIQUE,AP OBLIQUE,LATERAL DECUBITUS,AP LLD,AP AXIAL
        LORDOTIC,AP LORDOTIC,SWIMMERS,schräg,斜位,LEFT POSTERIOR OBLIQUE
    """,
    "unknown": "W1,SKULL,AP DOE,PA AND LATERAL,FLAT,STANDARD",
}


@pytest.mark.parametrize(
    ("word", "kind"), [(word, kind) for kind, text in VIEWS.items() for word in words(text)]
)
def test_a_view_is_known_by_its_word(word: str, kind: Kind) -> None:
    for spelling in (word, word.upper(), word.lower()):
        assert kind_of(spelling, {}) == kind
    data = stored("ViewPosition", word.encode(), "ISO_IR 192")
    assert told_view(data) == (kind if kind in ("frontal", "lateral") else "none")
    assert kind_of(word, {plain(word): "lateral"}) == "lateral"


def test_a_word_that_is_not_known_is_refused_with_the_option() -> None:
    data = header(ViewPosition="W1 X")
    with pytest.raises(Unreadable) as refused:
        check(data, "both")
    assert str(refused.value) == (
        "view 'W1 X', not known; if it is frontal: --view-of 'W1 X=frontal'"
    )
    assert check(data, view_of={"w1 x": "frontal"}).view
    with pytest.raises(Unreadable, match="view 'W1 X', lateral is wanted"):
        check(data, "lateral", view_of={"w1 x": "frontal"})


@pytest.mark.parametrize("place", ["BodyPartExamined", "ViewPosition"])
@pytest.mark.parametrize("word", ["JANE", "DOE JANE", "MRN 0815", "SEE JANE DOE, BORN 1950"])
def test_a_word_that_may_name_the_patient_is_not_quoted(place: str, word: str) -> None:
    with pytest.raises(Unreadable, match=r"WORD") as refused:
        check(header(**{place: word}))
    assert not {"JANE", "DOE", "0815", "1950"} & set(str(refused.value).replace("'", " ").split())


FRONTAL_CODES = ["399348003", "272479007", "399033003", "R-10206", "R-40888", "R-10202"]
LATERAL_CODES = ["399067008", "399198007", "399173006", "R-102CD", "R-10232", "R-10236"]
OTHER_CODES = ["399135007", "R-10220", "399182000", "R-102C1", "399061009", "399004004"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [(FRONTAL_CODES, "frontal"), (LATERAL_CODES, "lateral"), (OTHER_CODES, "none")],
)
def test_a_view_is_known_by_its_code_whatever_it_is_said_to_mean(
    values: list[str], expected: str
) -> None:
    for value, meaning in product(values, ("", "frontal", "lateral", "oblique")):
        scheme = "SRT" if value.startswith("R") else "SCT"
        assert told_view(header(ViewCodeSequence=code(value, scheme, meaning))) == expected


def test_a_modifier_can_make_a_frontal_view_another() -> None:
    for value, expected in (("399182000", "none"), ("260450008", "none"), ("399196006", "frontal")):
        view = code("399348003", ViewModifierCodeSequence=code(value))
        assert told_view(header(ViewCodeSequence=view)) == expected


def test_a_view_code_of_ones_own_counts_only_if_nothing_else_is_told() -> None:
    own = code("77", "99MAKER", "PA")
    assert told_view(header(ViewCodeSequence=own)) == "none"
    assert told_view(header(ViewCodeSequence=own, ViewPosition="PA")) == "frontal"
    assert told_view(header(ViewCodeSequence=own, PatientOrientation=["P", "F"])) == "lateral"
    assert check(header(ViewCodeSequence=own), view_of={"77": "frontal"}).view


def slow_orientation(rows: str, columns: str) -> str:
    """Tell by the plane that the two main directions span, in the words of PS3.17 A."""
    axes = {"L": "x", "R": "x", "A": "y", "P": "y", "H": "z", "F": "z", "": ""}
    mixed = any(
        part[:1] in "LRAP" and "x" in (names := {axes[c] for c in part}) and "y" in names
        for part in (rows, columns)
    )
    main = {axes[rows[:1]], axes[columns[:1]]} - {""}
    if "x" not in main and "y" not in main:
        return "absent"
    if mixed or {"x", "y"} <= main:
        return "none"
    return "frontal" if "x" in main else "lateral"


PARTS = ["", *"LRAPHF", "FR", "FL", "LF", "PH", "LA", "PR", "HA", "AFL"]


@pytest.mark.parametrize(("rows", "columns"), list(product(PARTS, PARTS)))
def test_a_view_is_known_by_the_orientation(rows: str, columns: str) -> None:
    data = header(PatientOrientation=[rows, columns])
    assert told_view(data) == slow_orientation(rows, columns)


def test_the_usual_orientations() -> None:
    for orientation, expected in {
        ("L", "F"): "frontal", ("R", "F"): "frontal", ("A", "F"): "lateral", ("P", "F"): "lateral",
        ("P", "FR"): "lateral", ("F", "L"): "frontal", ("LA", "F"): "none", ("L", "A"): "none",
        ("", ""): "absent",
    }.items():  # fmt: skip
        assert told_view(header(PatientOrientation=list(orientation))) == expected
    assert told_view(header(PatientOrientation="LEFT")) == "absent"


def test_a_view_beside_the_body_part() -> None:
    for part, expected in {
        "CHEST": "absent", "CHEST LAT": "lateral", "CHEST PA": "frontal", "THORAX LL": "lateral",
        "CHEST PA AND LAT": "absent", "CHEST ABDOMEN": "absent", "CHEST OBLIQUE": "none",
    }.items():  # fmt: skip
        assert told_view(header(BodyPartExamined=part)) == expected


PLACES: dict[str, dict[str, Any]] = {
    "ViewPosition": {"frontal": "PA", "lateral": "LL", "other": "RLO"},
    "PatientOrientation": {"frontal": ["L", "F"], "lateral": ["A", "F"], "other": ["LA", "F"]},
    "BodyPartExamined": {"frontal": "CHEST AP", "lateral": "CHEST LAT", "other": "CHEST OBL"},
    "ViewCodeSequence": {
        "frontal": code("R-40888", "SRT"),
        "lateral": code("R-10236", "SRT"),
        "other": code("R-10220", "SRT"),
    },
}  # fmt: skip


@given(st.fixed_dictionaries({}, optional={
    place: st.sampled_from(["frontal", "lateral", "other"]) for place in PLACES
}))  # fmt: skip
def test_a_film_is_taken_if_no_place_tells_of_an_unwanted_view(told: dict[str, str]) -> None:
    data = header(**{place: PLACES[place][kind] for place, kind in told.items()})
    kinds: Sequence[str] = list(told.values())
    wanted_by: dict[Views, set[str]] = {
        "frontal": {"frontal"}, "lateral": {"lateral"}, "both": {"frontal", "lateral"},
    }  # fmt: skip
    for views, wanted in wanted_by.items():
        try:
            assert check(data, views).view == bool(kinds)
            assert set(kinds) <= wanted
        except Unreadable:
            assert not set(kinds) <= wanted


def test_a_contradiction_is_told() -> None:
    data = header(ViewPosition="PA", PatientOrientation=["P", "F"])
    with pytest.raises(Unreadable) as refused:
        check(data)
    assert str(refused.value) == (
        "patient orientation P/F, frontal is wanted, although another field tells of it: view 'PA'"
    )


@needs_shared_data
@pytest.mark.parametrize(
    ("name", "views", "why"),
    [
        ("body_part_torax", "frontal", None),
        ("dx_hand_by_anatomic_region_code", "frontal", "not known as the chest"),
        ("lateral_by_patient_orientation", "frontal", "frontal is wanted"),
        ("lateral_by_patient_orientation", "both", None),
        ("view_xtable_lateral", "frontal", "frontal is wanted"),
        ("view_xtable_lateral", "both", None),
        ("no_meta_implicit", "frontal", None),
    ],
)
def test_headers_as_they_are_brought(name: str, views: Views, why: str | None) -> None:
    path: Path = SHARED / "faults" / f"{name}.dcm"
    with path.open("rb") as file:
        if why is None:
            assert examine_dicom(file, Wanted(views)).patient == "SYN-1"
        else:
            with pytest.raises(Unreadable, match=why):
                examine_dicom(file, Wanted(views))
