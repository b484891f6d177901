"""How a DICOM file is opened: with and without preamble, transfer syntax and known encoding."""

import io
import re
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import uid
from pydicom.encaps import encapsulate

from common.shard import Bytes
from radiographs.read.chest import Header, Wanted
from radiographs.read.decode import Unreadable
from radiographs.read.dicom import examine_dicom, is_dicom, read_dicom
from tests.support.films import RAMP, film
from tests.support.shards import SHARED, needs_shared_data

pytestmark = pytest.mark.filterwarnings("ignore:.*for VR UI:UserWarning")

SYNTAXES = {
    "implicit": uid.ImplicitVRLittleEndian,
    "explicit": uid.ExplicitVRLittleEndian,
    "big": uid.ExplicitVRBigEndian,
}


def bare(syntax: uid.UID, **tags: Any) -> bytes:
    """Return a film's data set without preamble and meta header."""
    file = io.BytesIO()
    data = film(**tags)
    if syntax == uid.ExplicitVRBigEndian:
        data.PixelData = RAMP.byteswap().tobytes()
    pydicom.dcmwrite(
        file,
        pydicom.Dataset({element.tag: element for element in data}),
        implicit_vr=syntax.is_implicit_VR,
        little_endian=syntax.is_little_endian,
        force_encoding=True,
    )
    return file.getvalue()


def whole(**tags: Any) -> bytes:
    file = io.BytesIO()
    film(**tags).save_as(file, enforce_file_format=True)
    return file.getvalue()


def opened(content: bytes) -> tuple[Header, Bytes]:
    assert is_dicom(io.BytesIO(content))
    header = examine_dicom(io.BytesIO(content), Wanted("frontal"))
    return header, read_dicom(io.BytesIO(content), 64)


def why(content: bytes) -> str:
    with pytest.raises(Unreadable) as refused:
        opened(content)
    return str(refused.value)


EXPECTED = opened(whole())


@pytest.mark.parametrize("syntax", SYNTAXES.values(), ids=SYNTAXES)
def test_a_file_without_preamble_and_meta_header_is_read(syntax: uid.UID) -> None:
    header, picture = opened(bare(syntax))
    assert header == EXPECTED[0]
    assert np.array_equal(picture, EXPECTED[1])


@pytest.mark.parametrize("removed", [128, 132])
def test_a_file_that_lacks_the_preamble_alone_is_read(removed: int) -> None:
    header, picture = opened(whole()[removed:])
    assert header == EXPECTED[0]
    assert np.array_equal(picture, EXPECTED[1])


def without_syntax(content: bytes) -> bytes:
    """Rename the element of the transfer syntax to a private one of the meta header."""
    changed = content.replace(b"\x02\x00\x10\x00UI", b"\x02\x00\x11\x00UI", 1)
    assert changed != content
    return changed


def test_a_file_without_a_transfer_syntax_is_read_if_its_pixels_are_plain() -> None:
    header, picture = opened(without_syntax(whole()))
    assert header == EXPECTED[0]
    assert np.array_equal(picture, EXPECTED[1])


def compressed() -> bytes:
    data = film(PixelData=encapsulate([b"\xff\xd8\xff\xe0" + bytes(60)]))
    data.file_meta.TransferSyntaxUID = uid.JPEGLosslessSV1
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def test_compressed_pixels_without_a_syntax_are_refused_with_that_reason() -> None:
    reason = "compressed pixels, but no transfer syntax that says how"
    assert why(without_syntax(compressed())) == reason
    meta = int.from_bytes(compressed()[140:144], "little")
    assert why(compressed()[144 + meta :]) == reason


@pytest.mark.parametrize(
    ("syntax", "reason"),
    [
        ("1.2.840.10008.1.2.4.102", r"transfer syntax 1\.2\.840\.10008\.1\.2\.4\.102 \(MPEG-4"),
        ("1.2.840.10008.1.2.4.51", r"JPEG Extended \(Process 2 and 4\)\) with 12 bits"),
        ("1.3.6.1.4.1.5962.300.1", r"transfer syntax 1\.3\.6\.1\.4\.1\.5962\.300\.1 is not"),
        ("JANE DOE", "transfer syntax unknown is not supported"),
    ],
)
def test_a_syntax_that_is_not_supported_is_named(syntax: str, reason: str) -> None:
    data = film(PixelData=encapsulate([bytes(64)]))
    data.preamble = bytes(128)
    data.file_meta.TransferSyntaxUID = uid.UID(syntax, validation_mode=0)
    data["PixelData"].VR = "OB"
    file = io.BytesIO()
    pydicom.dcmwrite(file, data, implicit_vr=False, little_endian=True, force_encoding=True)
    refusal = why(file.getvalue())
    assert "is not supported; export it uncompressed" in refusal
    assert re.search(reason, refusal)


def test_a_header_in_an_encoding_that_cannot_be_seen_is_refused_with_that_reason() -> None:
    noise = np.random.default_rng(0).bytes(400)
    for start in (b"\x08\x00\x05\x00CS", b"\x08\x00\x00\x00\x04\x00\x00\x00"):
        assert "no transfer syntax" in why(start + noise) or "cut short" in why(start + noise)


def test_no_refusal_names_a_class_of_errors() -> None:
    content = whole()
    for cut in range(140, len(content), 97):
        assert "Error" not in (reason := reason_or_none(content[:cut]))
        assert "Exception" not in reason
    assert why(whole()[:-100]) == "cannot be read as DICOM: damaged, or cut short"
    assert why(content[: content.index(b"\xe0\x7f\x10\x00")]) == "no pixels"


def reason_or_none(content: bytes) -> str:
    try:
        opened(content)
    except Unreadable as error:
        return str(error)
    return ""


def test_other_files_are_not_taken_for_dicom() -> None:
    for content in (
        *(b"", b"\x08", b"\x08\x00\x05\x00", b"II*\x00\x08\x00\x00\x00", b"PK\x03\x04" * 9),
        *(b"\x89PNG\r\n\x1a\n" * 20, b"\xff\xd8\xff\xe0" * 40, b"image,patient\n" * 40),
        b"\x08\x00\x05\x00\x00\x00\x00\x40" * 20,
    ):
        assert not is_dicom(io.BytesIO(content))


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_damaged_file_of_any_opening_is_read_or_refused_without_a_name(
    data: st.DataObject,
) -> None:
    part, syntax = pydicom.Dataset(), data.draw(st.sampled_from(list(SYNTAXES.values())))
    part.CodeValue, part.CodingSchemeDesignator = "T-D3000", "SRT"
    content = bytearray(
        data.draw(
            st.sampled_from(
                [
                    bare(syntax, AnatomicRegionSequence=[part], ViewCodeSequence=[part]),
                    whole(PatientOrientation=["L", "F"], AnatomicRegionSequence=[part]),
                    whole(SpecificCharacterSet="ISO 2022 IR 149")[128:],
                    without_syntax(whole()),
                    compressed(),
                ]
            )
        )
    )
    for place in data.draw(st.lists(st.integers(8, min(900, len(content) - 1)), max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    changed = bytes(content[: data.draw(st.integers(8, len(content)))])
    is_dicom(io.BytesIO(changed))
    try:
        header = examine_dicom(io.BytesIO(changed), Wanted("both"))
        assert isinstance(header.patient, str)
        picture = read_dicom(io.BytesIO(changed), 40)
        assert picture.shape == (40, 40)
        assert picture.dtype == np.uint8
    except Unreadable as error:
        problem = str(error).upper()
        assert not [secret for secret in ("DOE", "JANE", "MRN", "0815") if secret in problem]
        assert not [name for name in ("ERROR", "EXCEPTION") if name in problem]


@needs_shared_data
def test_the_file_without_a_meta_header_is_the_ramp_that_it_was_made_of() -> None:
    content = (SHARED / "faults" / "no_meta_implicit.dcm").read_bytes()
    header, picture = opened(content)
    assert header == Header("SYN-1", body_part=True, view=True)
    assert picture.std() > 20
