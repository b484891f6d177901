"""Look-up tables in DICOM files, against a slow look-up of one value after the other."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset

from common.shard import Bytes
from radiographs.read.dicom import read_dicom
from radiographs.read.lut import read_lut
from radiographs.read.unreadable import Unreadable
from tests.support.films import RAMP, Pixels, film
from tests.support.shards import SHARED, needs_shared_data

Form = Literal["US", "SS", "OW", "packed"]

FORMS: list[tuple[Form, int]] = [
    ("packed", 8),
    *[(form, depth) for form in ("US", "SS", "OW") for depth in (8, *range(10, 17))],
]

SIGNED = np.linspace(-2048, 2047, 64 * 64).reshape(64, 64).astype(np.int16)


def table(first: int, bits: int, entries: list[int], form: Form, big_endian: bool) -> Dataset:
    item = Dataset()
    count = len(entries) % 65536
    signed = first < 0
    item.add_new("LUTDescriptor", "SS" if signed else "US", [count, first, bits])
    order = ">u2" if big_endian else "<u2"
    if form == "US":
        item.add_new("LUTData", "US", entries)
    elif form == "SS":
        item.add_new("LUTData", "SS", np.array(entries, np.uint16).astype(np.int16).tolist())
    elif form == "OW":
        item.add_new("LUTData", "OW", np.array(entries, order).tobytes())
    else:
        even = [*entries, 0][: len(entries) + len(entries) % 2]
        words = [low | high << 8 for low, high in zip(even[::2], even[1::2], strict=True)]
        item.add_new("LUTData", "OW", np.array(words, order).tobytes())
    return item


def shown(data: Dataset, path: Path, big_endian: bool = False) -> Bytes:
    if big_endian:
        data.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian
        data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
        data["PixelData"].VR = "OW"
    data.save_as(path, enforce_file_format=True)
    with path.open("rb") as file:
        return read_dicom(file, data.Rows)


def slow(pixels: Pixels, first: int, entries: list[int], photometric: str) -> Bytes:
    white = 1
    while white < max(entries):
        white = 2 * white + 1
    grey = []
    for value in pixels.ravel().tolist():
        entry = entries[min(max(value - first, 0), len(entries) - 1)]
        shade = round(entry * 255 / white)
        grey.append(255 - shade if photometric == "MONOCHROME1" else shade)
    return np.array(grey, np.uint8).reshape(pixels.shape)


@pytest.mark.parametrize("where", ["VOILUTSequence", "ModalityLUTSequence"])
@pytest.mark.parametrize(("form", "depth"), FORMS)
def test_every_table_is_looked_up_as_one_value_after_the_other(
    tmp_path: Path, where: str, form: Form, depth: int
) -> None:
    rng = np.random.default_rng(depth)
    for pixels, firsts in ((RAMP, (0, 700)), (SIGNED, (-1500, 0, 100))):
        for first in firsts:
            for photometric in ("MONOCHROME1", "MONOCHROME2"):
                for big_endian in (False, True):
                    # 8 bits need an even and an odd number, which is filled up.
                    entries = sorted(rng.integers(0, 2**depth, 1501 + big_endian).tolist())
                    entries[-1] = 2**depth - 1
                    data = film(pixels, PhotometricInterpretation=photometric)
                    setattr(data, where, [table(first, depth, entries, form, big_endian)])
                    found = shown(data, tmp_path / "a.dcm", big_endian)
                    expected = slow(pixels, first, entries, photometric)
                    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("where", ["VOILUTSequence", "ModalityLUTSequence"])
@pytest.mark.parametrize("needed", range(8, 17))
def test_the_bits_that_the_entries_need_decide(tmp_path: Path, where: str, needed: int) -> None:
    entries = np.linspace(0, 2**needed - 1, 4096).astype(int).tolist()
    for declared in (8, 10, 12, 16):
        data = film()
        setattr(data, where, [table(0, declared, entries, "US", False)])
        found = shown(data, tmp_path / "a.dcm")
        assert np.abs(found.astype(int) - RAMP * (255 / 4095)).max() <= 1


def test_a_table_for_every_value_of_16_bits(tmp_path: Path) -> None:
    pixels = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    entries = np.linspace(0, 4095, 65536).astype(int).tolist()
    for form in ("US", "OW"):
        data = film(pixels, bits=16, VOILUTSequence=[table(0, 12, entries, form, False)])
        assert data.VOILUTSequence[0].LUTDescriptor[0] == 0
        found = shown(data, tmp_path / "a.dcm")
        assert np.abs(found.astype(int) - slow(pixels, 0, entries, "MONOCHROME2")).max() <= 1


def test_packed_data_of_odd_length_are_read() -> None:
    item = table(0, 8, [1, 2, 3], "packed", False)
    item.LUTData = bytes([1, 2, 3])
    lut = read_lut(item, low=0, high=9, little_endian=True)
    assert lut.entries.tolist() == [1, 2, 3]


def test_a_first_value_of_the_wrong_sign_is_understood(tmp_path: Path) -> None:
    entries = list(range(2048))
    for pixels, first, written in ((SIGNED, -1500, 65536 - 1500), (RAMP, -100, -100)):
        item = table(0, 12, entries, "US", False)
        item.add_new("LUTDescriptor", "US" if written > 0 else "SS", [2048, written, 11])
        found = shown(film(pixels, VOILUTSequence=[item]), tmp_path / "a.dcm")
        assert np.abs(found.astype(int) - slow(pixels, first, entries, "MONOCHROME2")).max() <= 1
    wide = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    item = table(0, 12, entries, "US", False)
    item.add_new("LUTDescriptor", "SS", [2048, 40000 - 65536, 11])
    found = shown(film(wide, bits=16, VOILUTSequence=[item]), tmp_path / "a.dcm")
    assert np.abs(found.astype(int) - slow(wide, 40000, entries, "MONOCHROME2")).max() <= 1


def test_a_table_after_a_rescale_is_looked_up_with_rounded_values(tmp_path: Path) -> None:
    entries = [v * v // 1024 for v in range(1024)]
    data = film(RescaleSlope=0.3, RescaleIntercept=-200)
    data.VOILUTSequence = [table(-200, 10, entries, "US", False)]
    values = np.rint(RAMP * 0.3 - 200).astype(np.int16)
    expected = slow(values, -200, entries, "MONOCHROME2")
    assert np.abs(shown(data, tmp_path / "a.dcm").astype(int) - expected).max() <= 1


@pytest.mark.parametrize("tag", ["LUTDescriptor", "LUTData", "short", "two"])
def test_a_table_that_is_not_whole_is_refused(tmp_path: Path, tag: str) -> None:
    item = table(0, 12, list(range(4096)), "US", False)
    if tag == "short":
        item.add_new("LUTData", "US", list(range(4095)))
    elif tag == "two":
        item.add_new("LUTDescriptor", "US", [4096, 0])
    else:
        del item[tag]
    with pytest.raises(Unreadable, match="a look-up table"):
        shown(film(VOILUTSequence=[item]), tmp_path / "a.dcm")


@needs_shared_data
@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("agfa_voi_lut_12_bits_called_16", 100),
        ("modality_lut_10_bits_called_16", 200),
        ("lut8_us", 190),
    ],
)
def test_the_tables_of_reported_files_give_full_contrast(name: str, levels: int) -> None:
    with (SHARED / "faults" / f"{name}.dcm").open("rb") as file:
        picture = read_dicom(file, 256)
    assert len(np.unique(picture)) >= levels
    assert (picture.min(), picture.max()) == (0, 255)
