import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngImageFile

from common.errors import BadInput, FedCXRError
from radiographs.read.decode import Unreadable, decode
from radiographs.write.parallel import in_order


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


def test_a_picture_is_turned_as_its_exif_data_say(tmp_path: Path) -> None:
    upright = np.full((64, 64), 255, np.uint8)
    upright[:, :32] = 0
    lying = Image.fromarray(np.rot90(upright).copy())
    data = lying.getexif()
    data[ExifTags.Base.Orientation] = 6  # to be turned clockwise by a quarter
    for name in ("a.png", "a.jpg"):
        lying.save(tmp_path / name, exif=data)
        assert np.abs(decode(tmp_path / name, 64).astype(int) - upright).max() < 30


def test_whatever_the_library_raises_is_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_image: object) -> None:
        raise IndexError

    (tmp_path / "a.png").write_bytes(png())
    monkeypatch.setattr(PngImageFile, "load", load)
    with pytest.raises(Unreadable, match=r"cannot be decoded \(IndexError\)"):
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
