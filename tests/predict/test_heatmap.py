"""Heat maps: what they show, and the files that ``flower-predict`` writes."""

import csv
import io
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import uid
from torch.nn.functional import interpolate

from common.findings import FINDINGS
from common.images import centre_crops
from common.model import build_model, to_input
from predict.heatmap import GradCam
from predict.job import Job
from predict.overlay import SHOWN, STRIP, draw, overlay
from predict.probabilities import Prediction
from predict.settings import HeatmapFormat, PredictSettings
from tests.support.commands import assert_one_line, run
from tests.support.films import film
from tests.support.predicting import write_model

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 4096, (60, 50), np.uint16)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    size=st.sampled_from([40, 128, 130, 192]),
    finding=st.sampled_from(FINDINGS),
)
def test_a_heat_map_is_the_classifiers_weighted_sum(seed: int, size: int, finding: str) -> None:
    """With a linear layer on pooled features, Grad-CAM is CAM (Selvaraju et al., section 3.1)."""
    network = build_model("densenet-tiny", seed).eval()
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size), np.uint8)
    with torch.inference_mode():
        crops = torch.from_numpy(centre_crops(pixels[None]))
        features = network.features(to_input(crops)).relu()[0]
        weights = network.classifier.weight[FINDINGS.index(finding)]
        coarse = torch.zeros(features.shape[1:])
        for channel, weight in zip(features, weights, strict=True):
            coarse += weight * channel
        # The highest value may be the small difference of large terms; these bound the rounding.
        terms = float((weights.abs()[:, None, None] * features).sum(0).max())
        side = crops.shape[-1]
        fine = interpolate(coarse.relu()[None, None], (side, side), mode="bilinear")[0, 0].numpy()
    expected = np.zeros((size, size), np.float32)
    edge = (size - side) // 2
    expected[edge : edge + side, edge : edge + side] = fine / max(fine.max(), 1e-30)
    heat = GradCam(network, CPU).heat(pixels, finding)
    assert heat.dtype == np.float32
    np.testing.assert_allclose(heat * fine.max(), expected * fine.max(), atol=1e-5 * terms)
    assert heat.max() in (0, 1)


def test_colour_is_where_the_heat_is_and_nowhere_else() -> None:
    heat = np.zeros((64, 64), np.float32)
    heat[16:24, 40:48] = 1
    grey = np.full((SHOWN, SHOWN), 100, np.uint8)
    picture = np.asarray(overlay(grey, heat, "Mass", 0.25, calibrated=False)).astype(int)
    assert picture.shape == (SHOWN + STRIP, SHOWN, 3)
    film_part, strip = picture[:SHOWN], picture[SHOWN:]
    assert (film_part[300:] == 100).all()
    changed = np.argwhere((film_part != 100).any(axis=2)) * 64 / SHOWN
    assert changed.min(axis=0).tolist() == pytest.approx([15.5, 39.5], abs=0.2)
    assert changed.max(axis=0).tolist() == pytest.approx([24.5, 48.5], abs=0.3)
    bright = film_part[160, 352]  # black body to yellow: red first, blue last
    assert bright[0] > bright[2]
    assert (strip > 200).sum() > 500  # the text


def save(path: Path, missing: tuple[str, ...] = (), **tags: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = film(PIXELS, **{"StudyInstanceUID": "1.2.3", **tags})
    for name in missing:
        delattr(data, name)
    data.save_as(path, enforce_file_format=True)
    return path


def heatmaps(tmp_path: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    model = tmp_path / "final.pt"
    write_model(model)
    given = (model, "--size", 64, "--device", "cpu", *arguments)
    return run("flower-predict", *given)


def test_each_film_has_a_png_of_its_likeliest_finding(tmp_path: Path) -> None:
    films, out = tmp_path / "films", tmp_path / "maps"
    save(films / "a.dcm")
    save(films / "more" / "a.dcm")
    save(films / "side.dcm", ViewPosition="LL")
    result = heatmaps(tmp_path, films, "--heatmap", out)
    assert result.returncode == 0, result.stderr
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    expected = [out / "a.dcm.heatmap.png", out / "more" / "a.dcm.heatmap.png"]
    assert [Path(row["heatmap"]) for row in rows] == expected
    assert sorted(file for file in out.rglob("*") if file.is_file()) == expected
    with Image.open(expected[0]) as picture:
        assert (picture.mode, picture.size) == ("RGB", (SHOWN, SHOWN + STRIP))
        likeliest = picture.tobytes()
    names = sorted(FINDINGS, key=lambda name: float(rows[0][name]))
    for name, same in ((names[-1], True), (names[0], False)):
        heatmaps(tmp_path, films, "--heatmap", tmp_path / name, "--finding", name)
        with Image.open(tmp_path / name / "a.dcm.heatmap.png") as picture:
            assert (picture.tobytes() == likeliest) == same


def test_nothing_is_replaced_or_mixed_up(tmp_path: Path) -> None:
    films, out = tmp_path / "films", tmp_path / "maps"
    save(films / "a.dcm")
    save(films / "more" / "a.dcm")
    assert heatmaps(tmp_path, films, "--heatmap", out).returncode == 0
    again = heatmaps(tmp_path, films, "--heatmap", out)
    assert_one_line(again, 2, "a.dcm.heatmap.png: is there already", "--force")
    assert heatmaps(tmp_path, films, "--heatmap", out, "--force").returncode == 0
    both = (films / "a.dcm", films / "more" / "a.dcm", "--heatmap", tmp_path / "new")
    assert_one_line(heatmaps(tmp_path, *both), 2, "two films would have this heat map")
    within = heatmaps(tmp_path, films, "--heatmap", films / "maps")
    assert_one_line(within, 2, "the films'; give another folder")
    assert not (films / "maps").exists()


def test_a_file_is_no_folder_for_heat_maps(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    film = save(tmp_path / "a.dcm")
    result = heatmaps(tmp_path, film, "--heatmap", tmp_path / "notes.txt")
    assert_one_line(result, 2, "notes.txt: is a file; name a folder")


@pytest.mark.parametrize("form", ["png", "dicom"])
def test_a_film_that_vanishes_before_its_heat_map_is_refused_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: HeatmapFormat
) -> None:
    def drawn(method: GradCam, prediction: Prediction, finding: str) -> Image.Image:
        if form == "dicom":  # it is read once more, for its header
            picture = draw(method, prediction, finding)
            gone.unlink(missing_ok=True)
            return picture
        gone.unlink(missing_ok=True)
        return draw(method, prediction, finding)

    gone, left = save(tmp_path / "films" / "a.dcm"), save(tmp_path / "films" / "b.dcm")
    monkeypatch.setattr("predict.heatmap_files.draw", drawn)
    options = PredictSettings(
        model=write_model(tmp_path / "final.pt"),
        images=[tmp_path / "films"],
        heatmap=tmp_path / "maps",
        heatmap_format=form,
        size=64,
        device="cpu",
    )
    rows, refused = Job(options).run()
    assert [row.image for row in rows] == [left]
    assert refused == {PurePosixPath(gone): "No such file or directory"}
    assert len(list((tmp_path / "maps").iterdir())) == 1


def test_without_the_extra_package_the_remedy_is_named(tmp_path: Path) -> None:
    films = save(tmp_path / "films" / "a.dcm")
    model = write_model(tmp_path / "m.pt")
    blocked = "import sys; sys.modules['captum'] = None; from predict.cli import main; main()"
    given = [str(model), str(films), "--heatmap", str(tmp_path / "maps")]
    result = subprocess.run(
        [sys.executable, "-c", blocked, *given], capture_output=True, text=True, check=False
    )
    assert_one_line(result, 2, "needs the package captum.attr", "pip install 'fedcxr[predict]'")


def test_a_secondary_capture_is_filed_beside_its_film_without_the_patients_name(
    tmp_path: Path,
) -> None:
    patient: dict[str, Any] = {
        "PatientName": "Doe^Jane",
        "PatientID": "MRN-0815",
        "PatientBirthDate": "19700101",
        "PatientSex": "O",
        "ReferringPhysicianName": "Roe^Richard",
        "AccessionNumber": "ACC-42",
        "StudyDate": "20240102",
        "StudyDescription": "CHEST OF DOE",
        "InstitutionName": "St. Nowhere",
        "BurnedInAnnotation": "NO",
        "LossyImageCompression": "01",
        "SOPInstanceUID": "1.2.3.4",
    }
    source = save(tmp_path / "films" / "a.dcm", **patient)
    result = heatmaps(tmp_path, source, "--heatmap", tmp_path / "m", "--heatmap-format", "dicom")
    assert result.returncode == 0, result.stderr
    path = tmp_path / "m" / "a.dcm.heatmap.dcm"
    data = pydicom.dcmread(path)
    assert data.SOPClassUID == data.file_meta.MediaStorageSOPClassUID
    assert data.SOPClassUID == uid.SecondaryCaptureImageStorage
    assert data.SOPInstanceUID == data.file_meta.MediaStorageSOPInstanceUID != "1.2.3.4"
    assert (data.StudyInstanceUID, data.PatientID) == ("1.2.3", "MRN-0815")
    (film_of,) = data.SourceImageSequence
    assert film_of.ReferencedSOPInstanceUID == "1.2.3.4"
    assert data.ImageType == ["DERIVED", "SECONDARY"]
    assert (data.BurnedInAnnotation, data.LossyImageCompression) == ("NO", "01")
    assert "Not a medical device" in data.DerivationDescription
    assert data.pixel_array.shape == (SHOWN + STRIP, SHOWN, 3)
    assert (data.pixel_array[SHOWN:] > 200).any()
    for name in set(patient) - {"PatientID", "BurnedInAnnotation", "LossyImageCompression"}:
        assert str(data.get(name) or "") not in patient.values(), name
    for text in ("Doe", "DOE", "Roe", "ACC-42", "19700101", "Nowhere"):
        assert text.encode() not in path.read_bytes()


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed")
def test_a_secondary_capture_is_valid_dicom(tmp_path: Path) -> None:
    film = save(tmp_path / "films" / "a.dcm", PatientID="MRN-0815")
    heatmaps(tmp_path, film, "--heatmap", tmp_path / "m", "--heatmap-format", "dicom")
    path = tmp_path / "m" / "a.dcm.heatmap.dcm"
    checked = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    assert "Error" not in checked.stderr
    assert "SCImage" in checked.stderr


def test_a_secondary_capture_of_a_film_without_header_or_with_little_of_it(tmp_path: Path) -> None:
    films, out = tmp_path / "films", tmp_path / "m"
    save(films / "bare.dcm", ("PatientID", "StudyInstanceUID", "PatientName"))
    grey = Image.fromarray(RNG.integers(0, 256, (64, 48), np.uint8))
    grey.save(films / "a.png")
    grey.save(films / "b.jpg")
    result = heatmaps(tmp_path, films, "--heatmap", out, "--heatmap-format", "dicom")
    assert result.returncode == 0, result.stderr
    read = {path.name.split(".")[0]: pydicom.dcmread(path) for path in out.iterdir()}
    assert {data.PatientID for data in read.values()} == {""}
    assert len({data.StudyInstanceUID for data in read.values()}) == 3
    assert len({data.SOPInstanceUID for data in read.values()}) == 3
    lossy = {name: data.get("LossyImageCompression") for name, data in read.items()}
    assert lossy == {"bare": None, "a": None, "b": "01"}
    assert not any("BurnedInAnnotation" in data for data in read.values())
    assert ["SourceImageSequence" in read[name] for name in ("bare", "a", "b")] == [
        True,
        False,
        False,
    ]
