import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from common.shard import Bytes
from radiographs.read.chest import Wanted
from radiographs.read.decode import Unreadable, decode
from radiographs.read.dicom import examine_dicom, is_dicom, read_dicom
from radiographs.read.view import Views
from tests.support.films import RAMP, Pixels, film
from tests.support.shards import SHARED, needs_shared_data


def examine(path: Path, views: Views) -> str:
    with path.open("rb") as file:
        return examine_dicom(file, Wanted(views)).patient


def read(path: Path, size: int) -> Bytes:
    with path.open("rb") as file:
        return read_dicom(file, size)


def shown(data: Dataset, folder: Path) -> Bytes:
    """Return the film as read, in its own size."""
    data.save_as(folder / "film.dcm", enforce_file_format=True)
    examine(folder / "film.dcm", "frontal")
    return read(folder / "film.dcm", data.Rows)


def slow_window(value: float, center: float, width: float, function: str = "LINEAR") -> float:
    """PS3.3 C.11.2.1.2, one value, to 0...255."""
    if function == "SIGMOID":
        return float(255 / (1 + np.exp(-4 * (value - center) / width)))
    shift = 0.5 if function == "LINEAR" else 0.0
    w = width - 1 if function == "LINEAR" else width
    if value <= center - shift - w / 2:
        return 0
    if value > center - shift + w / 2:
        return 255
    return ((value - (center - shift)) / w + 0.5) * 255


def assert_shades(found: Bytes, values: Pixels, shade: Callable[[float], float]) -> None:
    expected = np.array([shade(float(value)) for value in values.ravel()]).reshape(values.shape)
    assert np.abs(found - expected).max() <= 0.51


def test_without_a_window_the_range_of_the_stored_bits_is_shown(tmp_path: Path) -> None:
    assert_shades(shown(film(), tmp_path), RAMP, lambda v: v * 255 / 4095)


def test_signed_pixels_are_shown_from_their_least_value_on(tmp_path: Path) -> None:
    pixels = np.linspace(-2048, 2047, 64 * 64).reshape(64, 64).astype(np.int16)
    assert_shades(shown(film(pixels), tmp_path), pixels, lambda v: (v + 2048) * 255 / 4095)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_the_window_decides_what_is_shown(tmp_path: Path, function: str) -> None:
    data = film(WindowCenter=[1500, 9], WindowWidth=[800, 9], VOILUTFunction=function)
    assert_shades(shown(data, tmp_path), RAMP, lambda v: slow_window(v, 1500, 800, function))


def test_rescale_comes_before_the_window(tmp_path: Path) -> None:
    pixels = np.linspace(-2000, 2000, 64 * 64).reshape(64, 64).astype(np.int16)
    data = film(pixels, RescaleSlope=0.5, RescaleIntercept=-100, WindowCenter=200, WindowWidth=900)
    assert_shades(shown(data, tmp_path), pixels, lambda v: slow_window(v / 2 - 100, 200, 900))


def test_a_negative_slope_turns_the_shades_round(tmp_path: Path) -> None:
    data = film(RescaleSlope=-1, RescaleIntercept=4095)
    assert_shades(shown(data, tmp_path), RAMP, lambda v: (4095 - v) * 255 / 4095)
    data = film(RescaleSlope=-1, RescaleIntercept=4095, WindowCenter=1000, WindowWidth=2000)
    assert_shades(shown(data, tmp_path), RAMP, lambda v: slow_window(4095 - v, 1000, 2000))


def lut(first: int, bits: int, values: list[int]) -> Dataset:
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [len(values), first, bits])
    table.add_new("LUTData", "US", values)
    return table


def test_tables_in_place_of_rescale_and_window(tmp_path: Path) -> None:
    squares = [v * v // 256 for v in range(4096)]
    data = film(ModalityLUTSequence=[lut(0, 16, squares)])
    data.ModalityLUTSequence[0].ModalityLUTType = "US"
    assert_shades(shown(data, tmp_path), RAMP, lambda v: squares[int(v)] * 255 / 65535)
    data = film(VOILUTSequence=[lut(1000, 10, list(range(1024)))], WindowCenter=1, WindowWidth=2)
    assert_shades(shown(data, tmp_path), RAMP, lambda v: min(max(v - 1000, 0), 1023) * 255 / 1023)


def test_monochrome1_is_inverted_after_the_window(tmp_path: Path) -> None:
    data = film(PhotometricInterpretation="MONOCHROME1", WindowCenter=1500, WindowWidth=800)
    assert_shades(shown(data, tmp_path), RAMP, lambda v: 255 - slow_window(v, 1500, 800))


def test_the_filling_around_the_field_is_black(tmp_path: Path) -> None:
    pixels = np.full((64, 64), 3000, np.uint16)
    pixels[:, :8] = 10
    pixels[:, 8:16] = 12
    data = film(pixels, PhotometricInterpretation="MONOCHROME1", WindowCenter=2000,
                WindowWidth=4000, PixelPaddingRangeLimit=11)  # fmt: skip
    data.add_new("PixelPaddingValue", "US", 9)
    found = shown(data, tmp_path)
    assert (found[:, :8] == 0).all()
    assert (found[:, 8:16] > 250).all()
    assert (found[:, 16:] < 70).all()


def lossless(data: Dataset, folder: Path, syntax: int) -> Path:
    """Compress with GDCM, which pydicom's own encoders do not cover."""
    data.save_as(folder / "plain.dcm", enforce_file_format=True)
    reader = gdcm.ImageReader()
    reader.SetFileName(str(folder / "plain.dcm"))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetFileName(str(folder / "packed.dcm"))
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return folder / "packed.dcm"


@pytest.mark.parametrize(
    "name", ["JPEGLosslessProcess14", "JPEGLosslessProcess14_1", "JPEGLSLossless",
             "JPEG2000Lossless", "RLELossless"],
)  # fmt: skip
def test_lossless_compression_changes_no_pixel(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 4096, (64, 64)).astype(np.uint16)
    packed = lossless(film(noise), tmp_path, getattr(gdcm.TransferSyntax, name))
    assert pydicom.dcmread(packed).file_meta.TransferSyntaxUID.is_compressed
    assert np.array_equal(read(packed, 64), shown(film(noise), tmp_path))


def jpeg(pixels: Bytes) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


def test_baseline_jpeg_is_read(tmp_path: Path) -> None:
    pixels = (RAMP // 16).astype(np.uint8)
    data = film(pixels, bits=8, PixelData=encapsulate([jpeg(pixels)]))
    data.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    data["PixelData"].VR = "OB"
    assert np.abs(shown(data, tmp_path).astype(int) - pixels).max() <= 4


@needs_shared_data
def test_a_real_film_is_the_same_compressed_and_not() -> None:
    folder = SHARED / "dicom"
    plain, packed = (read(folder / f"nema_RG1_{kind}.dcm", 256) for kind in ("UNCR", "J2KR"))
    assert np.array_equal(plain, packed)
    stored = pydicom.dcmread(folder / "nema_RG1_UNCR.dcm").pixel_array
    slow = 255 - ((np.clip(stored, 0, 29999) - 14999.5) / 29999 + 0.5) * 255
    grey = Image.fromarray(np.clip(np.rint(slow), 0, 255).astype(np.uint8))
    reference = np.asarray(grey.resize((256, 256), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(plain - reference).max() <= 1


@needs_shared_data
def test_real_dicom_films_are_the_nih_films_that_they_were_made_of() -> None:
    film = read(SHARED / "dicom" / "udacity_test2.dcm", 256).astype(float)
    same = decode(SHARED / "cxr-small" / "images" / "00000001_000.jpg", 256).astype(float)
    assert np.corrcoef(film.ravel(), same.ravel())[0, 1] > 0.99


@needs_shared_data
def test_the_headers_of_real_files_decide() -> None:
    with (SHARED / "dicom" / "index.csv").open() as file:
        for row in csv.DictReader(file):
            path = SHARED / "dicom" / row["File"]
            with path.open("rb") as opened:
                assert is_dicom(opened)
            if row["Modality"] == "CT":
                with pytest.raises(Unreadable, match="modality 'CT', not CR or DX"):
                    examine(path, "frontal")
            else:
                assert examine(path, "frontal") == row["PatientID"]


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        ({"Modality": "CT"}, "modality 'CT'"),
        ({"Modality": None}, "modality not given"),
        ({"Modality": "Jane Doe, born 1950"}, "modality unknown"),
        ({"BodyPartExamined": "HAND"}, "body part 'HAND'"),
        ({"ViewPosition": "LL"}, "view 'LL', frontal is wanted"),
        ({"ViewPosition": "RLO"}, "view 'RLO'"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "for processing"),
        ({"BurnedInAnnotation": "YES"}, "burned-in"),
        ({"PhotometricInterpretation": "RGB"}, "photometric interpretation 'RGB'"),
        ({"NumberOfFrames": 4}, "several frames"),
        ({"Rows": 12_000, "Columns": 12_000}, "too large for a radiograph"),
        ({"HighBit": 15}, "12 bits end at bit 15, not at 11"),
    ],
)
def test_what_is_no_chest_film_is_refused(tmp_path: Path, tags: dict[str, Any], why: str) -> None:
    film(**tags).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    with pytest.raises(Unreadable, match=why):
        examine(tmp_path / "a.dcm", "frontal")


def test_a_view_may_be_a_code_and_lateral_films_are_taken_when_asked(tmp_path: Path) -> None:
    code = Dataset()
    code.CodeMeaning = "left lateral"
    file = tmp_path / "a.dcm"
    film(ViewPosition=None, ViewCodeSequence=[code]).save_as(file, enforce_file_format=True)
    with pytest.raises(Unreadable, match="view 'LATERAL', frontal is wanted"):
        examine(file, "frontal")
    assert examine(file, "lateral") == examine(file, "both") == "MRN-0815"
    film(ViewPosition="RLO").save_as(file, enforce_file_format=True)
    with pytest.raises(Unreadable, match="view 'RLO', both is wanted"):
        examine(file, "both")
    film().save_as(file, enforce_file_format=True)
    with pytest.raises(Unreadable, match="view 'PA', lateral is wanted"):
        examine(file, "lateral")


def test_twelve_bit_jpeg_cannot_be_read_and_is_said_so(tmp_path: Path) -> None:
    data = film(PixelData=encapsulate([jpeg((RAMP // 16).astype(np.uint8))]))
    data.file_meta.TransferSyntaxUID = uid.JPEGExtended12Bit
    data["PixelData"].VR = "OB"
    with pytest.raises(Unreadable, match=r"JPEG Extended .* with 12 bits is not supported"):
        shown(data, tmp_path)


def test_what_the_library_says_of_a_damaged_file_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("bad value 'Doe^Jane'")

    film().save_as(tmp_path / "a.dcm", enforce_file_format=True)
    monkeypatch.setattr(pydicom, "dcmread", fail)
    with pytest.raises(Unreadable, match=r"^cannot be read as DICOM: damaged, or cut short$"):
        examine(tmp_path / "a.dcm", "frontal")


@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_damaged_file_is_read_or_refused_without_a_name(
    tmp_path: Path, data: st.DataObject
) -> None:
    film(WindowCenter=100, WindowWidth=200).save_as(tmp_path / "w.dcm", enforce_file_format=True)
    content = bytearray((tmp_path / "w.dcm").read_bytes())
    for place in data.draw(st.lists(st.integers(132, 900), min_size=1, max_size=6)):
        content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(140, len(content)))
    (tmp_path / "d.dcm").write_bytes(content[:cut])
    problem = ""
    try:
        examine(tmp_path / "d.dcm", "both")
        picture = read(tmp_path / "d.dcm", 40)
        assert picture.shape == (40, 40)
        assert picture.dtype == np.uint8
    except Unreadable as error:
        problem = str(error)
    assert not [secret for secret in ("Doe", "Jane", "MRN", "0815") if secret in problem]
