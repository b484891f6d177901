import io
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngImageFile

from common.errors import BadInput, FedCXRError
from radiographs.read.decode import Unreadable, decode
from radiographs.read.extent import extent_of
from radiographs.read.film_file import why_dull
from radiographs.write.parallel import in_order
from tests.support.shards import SHARED, needs_shared_data


def test_grey_pixels_of_the_right_size_are_kept(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 50)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(decode(tmp_path / "a.png", 50), pixels)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1"])
def test_grey_in_other_modes_stays_grey(tmp_path: Path, mode: str) -> None:
    pixels = np.where(np.arange(64) < 32, 0, 255).astype(np.uint8) * np.ones((64, 1), np.uint8)
    Image.fromarray(pixels).convert(mode).save(tmp_path / "a.png")
    assert np.array_equal(decode(tmp_path / "a.png", 64), pixels)


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    wide = np.array([[0, 400, 65535, 32896]] * 4, np.uint16)
    Image.fromarray(wide).save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png", 4)[0].tolist() == [0, 2, 255, 128]


def sixteen_bit_png(path: Path, wide: npt.NDArray[np.uint16], bits: int | None = None) -> None:
    """Write a 16-bit grey PNG, with the chunk sBIT if bits are given."""
    file = io.BytesIO()
    Image.fromarray(wide).save(file, "PNG")
    content = file.getvalue()
    end_of_header = 8 + 12 + 13
    extra = b"" if bits is None else chunk(b"sBIT", bytes([bits]))
    path.write_bytes(content[:end_of_header] + extra + content[end_of_header:])


def chunk(name: bytes, body: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(name + body))
    return struct.pack(">I", len(body)) + name + body + check


@pytest.mark.parametrize("bits", range(9, 16))
def test_bits_that_are_declared_significant_are_the_range(tmp_path: Path, bits: int) -> None:
    wide = np.linspace(0, 2**bits - 1, 64 * 64).reshape(64, 64).astype(np.uint16)
    sixteen_bit_png(tmp_path / "a.png", wide, bits)
    found = decode(tmp_path / "a.png", 64)
    assert np.abs(found - wide * (255 / (2**bits - 1))).max() <= 0.51
    scaled = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    sixteen_bit_png(tmp_path / "a.png", scaled, bits)
    assert np.abs(decode(tmp_path / "a.png", 64) - scaled / 257).max() <= 0.51


@pytest.mark.parametrize("side", [40, 64, 150, 300])
@pytest.mark.parametrize("levels", [2, 16, 60])
def test_resizing_does_not_hide_that_there_are_few_grey_levels(
    tmp_path: Path, side: int, levels: int
) -> None:
    ramp = np.add.outer(np.arange(128), np.arange(128)) / 254
    few = (np.rint(ramp * (levels - 1)) * (255 / (levels - 1))).astype(np.uint8)
    Image.fromarray(few).save(tmp_path / "a.png")
    found = decode(tmp_path / "a.png", side)
    assert set(np.unique(found)) <= set(np.unique(few))
    assert extent_of(Image.fromarray(found)).dull


def test_a_dark_film_is_not_stretched(tmp_path: Path) -> None:
    wide = np.linspace(0, 4095, 64 * 64).reshape(64, 64).astype(np.uint16)
    sixteen_bit_png(tmp_path / "a.png", wide)
    assert decode(tmp_path / "a.png", 64).max() == 16
    sixteen_bit_png(tmp_path / "a.png", wide // 64)
    with pytest.raises(Unreadable, match="come out as one grey level"):
        decode(tmp_path / "a.png", 64)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.99])
def test_a_png_with_a_hole_or_without_an_end_is_refused(tmp_path: Path, share: float) -> None:
    whole = png()
    kept = int(share * len(whole))
    for content in (
        whole[:kept] + bytes(len(whole) - kept - 12) + whole[-12:],
        whole[:kept] + chunk(b"IEND", b""),
        whole[:kept],
    ):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(Unreadable, match=r"damaged|cut short|cannot be decoded"):
            decode(tmp_path / "a.png", 64)


def jpeg(mode: str, progressive: bool) -> bytes:
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (20, 20), np.uint8)).resize((200, 160))
    file = io.BytesIO()
    smooth.convert(mode).save(file, "JPEG", quality=90, progressive=progressive)
    return file.getvalue()


def test_a_png_with_a_changed_byte_is_refused(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", compress_level=0)
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[2000] ^= 128  # not compressed: it is a pixel
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(Unreadable, match="damaged: a checksum is wrong"):
        decode(tmp_path / "a.png", 64)


JPEGS = {(m, p): jpeg(m, p) for m in ("L", "RGB") for p in (False, True)}


@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    kind=st.sampled_from(sorted(JPEGS)),
    missing=st.integers(3, 4000),
    tail=st.sampled_from([b"", b"\xff\xd9", bytes(40) + b"\xff\xd9", b"\xff\xd9" + bytes(9)]),
)
def test_a_jpeg_that_is_cut_short_is_refused_wherever_it_is_cut(
    tmp_path: Path, kind: tuple[str, bool], missing: int, tail: bytes
) -> None:
    whole = JPEGS[kind]
    (tmp_path / "a.jpg").write_bytes(whole[: max(len(whole) - missing, 2)] + tail)
    with pytest.raises(Unreadable, match=r"damaged|cut short|cannot be decoded|neither PNG nor"):
        decode(tmp_path / "a.jpg", 64)


def test_scans_that_are_missing_are_noticed(tmp_path: Path) -> None:
    for mode in ("L", "RGB"):
        whole = JPEGS[mode, True]
        scans = [found.start() for found in re.finditer(rb"\xff\xda", whole)]
        tables = [whole.rfind(b"\xff\xc4", 0, scan) for scan in scans]
        assert len(scans) > 4
        for end in tables[1:]:
            (tmp_path / "a.jpg").write_bytes(whole[:end] + b"\xff\xd9")
            with pytest.raises(Unreadable, match="cut short: scans are missing"):
                decode(tmp_path / "a.jpg", 64)


@pytest.mark.parametrize("kind", sorted(JPEGS))
def test_a_whole_jpeg_is_read_and_so_is_what_follows_its_end(
    tmp_path: Path, kind: tuple[str, bool]
) -> None:
    (tmp_path / "a.jpg").write_bytes(JPEGS[kind])
    found = decode(tmp_path / "a.jpg", 64)
    (tmp_path / "a.jpg").write_bytes(JPEGS[kind] + bytes(100))
    assert np.array_equal(decode(tmp_path / "a.jpg", 64), found)


@needs_shared_data
def test_no_real_film_is_refused() -> None:
    films = sorted((SHARED / "cxr-small" / "images").iterdir())[::10]
    films += sorted((SHARED / "nih-128" / "images").iterdir())[::50]
    for film in films:
        assert not extent_of(Image.fromarray(decode(film, 128))).dull
    with pytest.raises(Unreadable, match="damaged or cut short"):
        decode(SHARED / "faults" / "jpeg_half_with_eoi.jpg", 128)


@needs_shared_data
def test_a_reported_png_of_12_bits_in_16_is_told_as_dull_with_the_cause() -> None:
    file = SHARED / "faults" / "png_12_bits_in_16.png"
    assert extent_of(Image.fromarray(decode(file, 64))).dull
    assert "16-bit values that have fewer bits" in why_dull(file)


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "neither PNG nor JPEG"),
        (b"GIF89a", "neither PNG nor JPEG"),
        (png()[:2000], "cut short|cannot be decoded"),
        (png()[:-12], "cut short|cannot be decoded"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(Unreadable, match=why):
        decode(tmp_path / "a.png", 40)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_exif_data_say(tmp_path: Path, orientation: int) -> None:
    upright = np.add.outer(np.arange(0, 128, 2), np.arange(64)).astype(np.uint8)
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.T, 6: np.rot90(upright), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    lying = Image.fromarray(stored.copy())
    data = lying.getexif()
    data[ExifTags.Base.Orientation] = orientation
    lying.save(tmp_path / "a.png", exif=data)
    assert np.array_equal(decode(tmp_path / "a.png", 64), upright)
    lying.save(tmp_path / "a.jpg", exif=data)
    assert np.abs(decode(tmp_path / "a.jpg", 64).astype(int) - upright).max() < 10


@pytest.mark.parametrize(
    "exif",
    [
        b"", b"MM", b"MMJANEDOE", b"II*\0", b"MM\0*\0\0\0", b"MM\0*\0\0\0\x08\0",
        b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\xff\xff\0\0\xff\xff",
        b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04JANE\0\0\0\0",
    ],
)  # fmt: skip
def test_exif_data_that_cannot_be_read_are_ignored(tmp_path: Path, exif: bytes) -> None:
    content = png()
    end_of_header = 8 + 12 + 13
    (tmp_path / "a.png").write_bytes(content)
    expected = decode(tmp_path / "a.png", 64)
    damaged = content[:end_of_header] + chunk(b"eXIf", exif) + content[end_of_header:]
    (tmp_path / "a.png").write_bytes(damaged)
    assert np.array_equal(decode(tmp_path / "a.png", 64), expected)


@pytest.mark.parametrize("kind", [IndexError, SyntaxError, OSError, struct.error])
def test_whatever_the_library_raises_is_a_refusal_in_fixed_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def load(_image: object) -> None:
        raise kind("JANE DOE")

    (tmp_path / "a.png").write_bytes(png())
    monkeypatch.setattr(PngImageFile, "load", load)
    with pytest.raises(Unreadable) as refused:
        decode(tmp_path / "a.png", 64)
    assert str(refused.value) == "cannot be decoded: damaged or cut short"


def test_too_little_memory_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_image: object) -> None:
        raise MemoryError

    (tmp_path / "a.png").write_bytes(png())
    monkeypatch.setattr(PngImageFile, "load", load)
    with pytest.raises(Unreadable, match="needs more memory than there is, or is damaged; try"):
        decode(tmp_path / "a.png", 64)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="No such file"):
        decode(tmp_path / "a.png", 40)


def square(number: int) -> int:
    if number < 0:
        raise BadInput(str(number))
    return number * number


def die(_number: int) -> int:
    os._exit(9)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_order_and_the_first_error_ends_it(workers: int) -> None:
    numbers = list(range(100))
    assert list(in_order(square, numbers, workers)) == [n * n for n in numbers]
    with pytest.raises(BadInput, match="-1"):
        list(in_order(square, [*numbers, -1, -2], workers))
    assert list(in_order(square, [], workers)) == []


def test_a_dead_worker_is_an_error_not_a_hang() -> None:
    with pytest.raises(FedCXRError, match="died"):
        list(in_order(die, [1, 2], 2))
