import csv
import errno
import io
import os
import tempfile
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
from pydicom.encaps import encapsulate, generate_frames

from common.errors import BadInput
from common.shard import Bytes
from predict.films import read_one
from radiographs.read.chest import Wanted
from radiographs.read.decode import Unreadable, decode
from radiographs.read.decoder_warnings import warnings_refused
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


@pytest.mark.parametrize(
    ("tags", "slope", "intercept"),
    [
        ({"RescaleSlope": 2}, 2, 0),
        ({"RescaleSlope": -2}, -2, 0),
        ({"RescaleIntercept": -300}, 1, -300),
        ({"RescaleSlope": 0, "RescaleIntercept": -300}, 1, -300),
        ({"RescaleSlope": None, "RescaleIntercept": 7}, 1, 7),
    ],
)
def test_half_a_rescale_is_one(
    tmp_path: Path, tags: dict[str, Any], slope: float, intercept: float
) -> None:
    values = (RAMP.astype(int) * slope + intercept).astype(np.int16)
    low, high = sorted((intercept, 4095 * slope + intercept))
    found = shown(film(**tags), tmp_path)
    assert_shades(found, values, lambda v: (v - low) * 255 / (high - low))
    center = (low + high) / 2
    found = shown(film(**tags, WindowCenter=center, WindowWidth=1500), tmp_path)
    assert_shades(found, values, lambda v: slow_window(v, center, 1500))


def test_a_rescale_that_leaves_no_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="leaves no range"):
        shown(film(RescaleSlope="1e307", RescaleIntercept="0"), tmp_path)


@pytest.mark.parametrize(
    ("function", "widths", "centers", "used"),
    [
        ("LINEAR", [0], [2000], None),
        ("LINEAR", [0.9], [2000], None),
        ("LINEAR", [-800], [2000], None),
        ("LINEAR", [1], [2000], 0),
        ("LINEAR", [0, 800], [9, 1500], 1),
        ("LINEAR", [800, 9], [1500, 9], 0),
        ("LINEAR", [800], [1500, 9], 0),
        ("LINEAR", [800], [], None),
        ("LINEAR_EXACT", [0], [2000], None),
        ("LINEAR_EXACT", [0.5], [2000.2], 0),
        ("SIGMOID", [0], [2000], None),
        ("SIGMOID", [0.5], [2000], 0),
    ],
)
def test_the_first_window_of_a_valid_width_decides(
    tmp_path: Path, function: str, widths: list[float], centers: list[float], used: int | None
) -> None:
    data = film(WindowWidth=widths, WindowCenter=centers, VOILUTFunction=function)

    def shade(value: float) -> float:
        if used is None:
            return value * 255 / 4095
        return slow_window(value, centers[used], widths[used], function)

    with np.errstate(over="ignore"):
        assert_shades(shown(data, tmp_path), RAMP, shade)


def test_an_unknown_window_function_is_refused(tmp_path: Path) -> None:
    data = film(WindowCenter=1500, WindowWidth=800, VOILUTFunction="CUBIC")
    with pytest.raises(Unreadable, match="window function 'CUBIC'"):
        shown(data, tmp_path)


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": 40, "WindowWidth": 80},
        {"VOILUTSequence": "beside"},
        {"BitsStored": 16, "HighBit": 15},
    ],
)
def test_a_header_that_leaves_nothing_to_see_is_refused(
    tmp_path: Path, tags: dict[str, Any]
) -> None:
    pixels = (np.arange(64 * 64).reshape(64, 64) % 100).astype(np.uint16)
    if "WindowCenter" in tags:
        pixels += 1000
        pixels[0, :9] = 0
    if "VOILUTSequence" in tags:
        tags = {"VOILUTSequence": [lut(2000, 10, list(range(1024)))]}
    with pytest.raises(Unreadable, match="come out as one grey level"):
        shown(film(pixels, **tags), tmp_path)


def test_a_film_that_is_all_alike_is_not_the_headers_fault(tmp_path: Path) -> None:
    assert (shown(film(np.full((64, 64), 9, np.uint16)), tmp_path) == 1).all()


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


COMPRESSED = {
    "JPEGLosslessProcess14": uid.JPEGLossless,
    "JPEGLosslessProcess14_1": uid.JPEGLosslessSV1,
    "JPEGLSLossless": uid.JPEGLSLossless,
    "JPEG2000Lossless": uid.JPEG2000Lossless,
    "RLELossless": uid.RLELossless,
}


@pytest.mark.parametrize("name", ["", *COMPRESSED])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("padding", [None, 3000 - 4096, 9])
def test_bits_above_the_stored_ones_are_not_pixels(
    tmp_path: Path, name: str, signed: bool, padding: int | None
) -> None:
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 4096, (64, 64)).astype(np.uint16)
    clean[:20, :20] = 9
    clean[30:40, :20] = 3000
    dirty = clean | (rng.integers(0, 16, (64, 64)) << 12).astype(np.uint16)
    data = film(dirty, bits=16)
    if name:
        data = pydicom.dcmread(lossless(data, tmp_path, getattr(gdcm.TransferSyntax, name)))
        assert data.file_meta.TransferSyntaxUID == COMPRESSED[name]
    data.BitsStored, data.HighBit, data.PixelRepresentation = 12, 11, int(signed)
    if padding is not None:
        data.add_new("PixelPaddingValue", "SS" if padding < 0 else "US", padding)
    values = np.where(clean >= 2048, clean.astype(int) - 4096, clean) if signed else clean
    expected = (values.astype(int) + 2048 * signed) * 255 / 4095
    expected[values == padding] = 0
    found = shown(data, tmp_path)
    assert np.abs(found - expected).max() <= 0.51


def test_padding_of_signed_pixels_may_be_written_as_unsigned(tmp_path: Path) -> None:
    pixels = np.linspace(-2048, 2047, 64 * 64).reshape(64, 64).astype(np.int16)
    pixels[:9] = -2000
    data = film(pixels)
    data.add_new("PixelPaddingValue", "US", 65536 - 2000)
    assert (shown(data, tmp_path)[:9] == 0).all()


def test_only_16_bits_are_a_film(tmp_path: Path) -> None:
    data = film(BitsStored=17, HighBit=16, BitsAllocated=32)
    data.PixelData = RAMP.astype(np.uint32).tobytes()
    with pytest.raises(Unreadable, match="17 bits stored, not 1 to 16"):
        shown(data, tmp_path)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.sampled_from(["JPEGBaseline", *COMPRESSED]),
    share=st.floats(0.05, 0.97),
    tail=st.sampled_from([b"", b"\xff\xd9", bytes(64) + b"\xff\xd9"]),
)
def test_compressed_pixels_that_are_cut_short_are_refused(
    tmp_path: Path, name: str, share: float, tail: bytes
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128)).astype(np.uint16)
    if name == "JPEGBaseline":
        frame = jpeg(noise.astype(np.uint8))
        data = film(noise.astype(np.uint8), bits=8)
        data.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    else:
        data = pydicom.dcmread(
            lossless(film(noise * 16), tmp_path, getattr(gdcm.TransferSyntax, name))
        )
        frame = next(generate_frames(data.PixelData, number_of_frames=1))
    data.PixelData = encapsulate([frame[: int(share * len(frame))] + tail])
    data["PixelData"].VR = "OB"
    with pytest.raises(Unreadable, match=r"damaged or cut short|cannot be"):
        shown(data, tmp_path)


def test_what_a_decoder_writes_is_kept_unless_it_tells_of_damage(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with warnings_refused():
        os.write(2, b"tile 1 of 1\n")
    with pytest.raises(Unreadable, match="damaged or cut short"), warnings_refused():
        os.write(2, b"one\nCorrupt JPEG data: premature end of data segment\ntwo\n")
    assert capfd.readouterr().err == "tile 1 of 1\none\ntwo\n"


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
@pytest.mark.parametrize("name", ["overlay_in_high_bits_jpeg2000", "slope_only", "ww0"])
def test_reported_files_have_full_contrast_and_no_overlay(name: str) -> None:
    path = SHARED / "faults" / f"{name}.dcm"
    assert examine(path, "frontal") == "SYN-1"
    stored = pydicom.dcmread(path).pixel_array & 4095
    assert np.abs(read(path, 256) - stored * (255 / 4095)).max() <= 0.51


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


@pytest.mark.parametrize("what", ["header", "pixels"])
def test_trouble_of_the_machine_is_no_damage_of_the_film(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised[0]

    path = tmp_path / "a.dcm"
    film().save_as(path, enforce_file_format=True)
    if what == "header":
        monkeypatch.setattr(pydicom, "dcmread", fail)
    else:
        monkeypatch.setattr(Dataset, "pixel_array", property(fail))
    said = {
        OSError(errno.EIO, "Input/output error"): "Input/output error",
        OSError("cut short"): "cannot be read as DICOM: damaged, or cut short",
        EOFError("cut short"): "cannot be read as DICOM: damaged, or cut short",
        MemoryError(): "needs more memory than there is, or is damaged; try fewer --workers",
    }
    raised: list[Exception] = [MemoryError()]
    for error, reason in said.items():
        raised[0] = error
        assert read_one(path, Wanted("frontal"), 40) == reason


def test_without_a_place_for_a_temporary_file_no_film_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film().save_as(tmp_path / "a.dcm", enforce_file_format=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(BadInput, match=r"No such file or directory; free a place .* TMPDIR"):
        read(tmp_path / "a.dcm", 40)


@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit])
def test_a_damaged_jpeg_does_not_reach_the_decoder_that_may_end_the_process(
    tmp_path: Path, syntax: uid.UID, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(_: Dataset) -> None:
        raise AssertionError

    pixels = (RAMP // 16).astype(np.uint8)
    code = bytearray(jpeg(pixels))
    code[len(code) // 2 :] = bytes(len(code) - len(code) // 2)
    data = film(pixels, bits=8, PixelData=encapsulate([bytes(code)]))
    data.file_meta.TransferSyntaxUID = syntax
    data["PixelData"].VR = "OB"
    data.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    monkeypatch.setattr(Dataset, "pixel_array", property(ended))
    with pytest.raises(Unreadable, match=r"^the compressed pixels are damaged or cut short$"):
        read(tmp_path / "a.dcm", 40)


def fuzzed_film(name: str) -> Dataset:
    """Return a film on one of the paths that pixels and header can take."""
    if name == "voi table":
        return film(VOILUTSequence=[lut(100, 10, list(range(1024)))], PixelPaddingRangeLimit=9)
    if name == "packed table":
        data = film(VOILUTSequence=[lut(0, 8, [0])])
        data.VOILUTSequence[0].add_new("LUTDescriptor", "US", [4096, 0, 8])
        data.VOILUTSequence[0].add_new("LUTData", "OW", bytes(range(256)) * 16)
        return data
    if name == "modality table":
        return film(ModalityLUTSequence=[lut(0, 16, list(range(4096)))])
    if name == "rescale":
        return film(RescaleSlope="-1.5", RescaleIntercept="7", VOILUTFunction="SIGMOID",
                    WindowCenter=["100", "9"], WindowWidth=["0", "200"])  # fmt: skip
    if name == "window":
        return film(WindowCenter=100, WindowWidth=200)
    pixels = (RAMP // 16).astype(np.uint8)
    data = film(pixels, bits=8, PixelData=encapsulate([jpeg(pixels)]))
    data.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    data["PixelData"].VR = "OB"
    return data


@settings(
    deadline=None,
    max_examples=400,
    # A busy machine is slow between two draws, where a film is written.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
def test_a_damaged_file_is_read_or_refused_without_a_name(
    tmp_path: Path, data: st.DataObject
) -> None:
    paths = ("window", "rescale", "voi table", "packed table", "modality table", "jpeg")
    whole = fuzzed_film(data.draw(st.sampled_from(paths)))
    whole.save_as(tmp_path / "w.dcm", enforce_file_format=True)
    content = bytearray((tmp_path / "w.dcm").read_bytes())
    last = min(data.draw(st.sampled_from((900, len(content)))), len(content)) - 1
    for place in data.draw(st.lists(st.integers(132, last), min_size=1, max_size=6)):
        content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.just(len(content)) | st.integers(140, len(content)))
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
