from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from common.errors import BadInput
from common.findings import FINDINGS, NO_FINDING, UNKNOWN
from common.shard import Entry, create_shard, open_shard
from radiographs.inspect.show import _caption, by_finding, command
from radiographs.inspect.summary import COLOURS, Summary, shares_figure
from tests.support.shards import make_hospitals, make_shard


def test_the_table_counts_images_patients_and_findings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = make_shard(tmp_path / "site", images=40)
    command([str(shard.path)])
    lines = {line[:20].strip(): line[20:].split() for line in capsys.readouterr().out.splitlines()}
    assert lines["images"] == ["40"]
    assert lines["patients"] == ["20"]
    mass = int(shard.labelled()[:, 4].sum())
    assert lines["Mass"] == [str(mass), f"{100 * mass / 40:.1f}", "%"]
    well = int((shard.labelled().sum(axis=1) == 0).sum())
    assert lines["No Finding"][0] == str(well)


def test_the_table_tells_known_positive_and_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = np.zeros((10, 14), np.uint8)
    labels[:2, 4] = 1
    labels[2:7, 4] = UNKNOWN  # 2 of 5
    labels[9, :] = UNKNOWN
    entries = [Entry(f"{i}.png", str(i), "train") for i in range(10)]
    with create_shard(tmp_path / "s", entries=entries, labels=labels, size=40, source="x"):
        pass
    make_shard(tmp_path / "whole", images=40)
    make_shard(tmp_path / "without", labelled=False)
    command([str(tmp_path)])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    after = {line[:20].strip(): (line, lines[i + 1]) for i, line in enumerate(lines[:-1])}
    mass, known = after["Mass"]
    assert mass[20:35].split() == ["2", "50.0", "%"]
    assert known.split()[:5] == ["known,", "unknown", "4,", "6", "40,"]
    assert known.split()[-1] == "-"
    well, decided = after["No Finding"]
    assert well[20:35].split() == ["2", "50.0", "%"]  # two of the four of which it is known
    assert decided.split()[2:4] == ["4,", "6"]
    command([str(tmp_path / "whole")])
    assert "unknown" not in capsys.readouterr().out


def test_an_unknown_film_is_shown_as_such(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "s", unknown=0.3, unlabelled=[0, 1])
    rows = by_finding(shard)
    for name, films in rows.items():
        for film in films:
            row = next(i for i in range(40) if np.array_equal(shard.images[i], film.pixels))
            labels = shard.labelled()[row]
            if name == NO_FINDING:
                assert not labels.any()
            else:
                assert labels[FINDINGS.index(name)] == 1
    assert _caption(shard, 0) == "unknown"
    figure = shares_figure([Summary("unknown", 2, 1, 40, shard.labelled()[:2])])
    assert figure.width == 1190


def test_a_folder_of_shards_gets_a_column_and_a_row_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_hospitals(tmp_path / "data", 3)
    make_shard(tmp_path / "data" / "pretrain", labelled=False)
    command([str(tmp_path / "data"), "--out", str(tmp_path / "sheet.png")])
    output = capsys.readouterr().out
    assert output.split()[:4] == ["hospital-00", "hospital-01", "hospital-02", "pretrain"]
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (1190, 440 + 4 * 146)


def test_the_sheet_of_a_shard_has_a_row_for_each_finding_that_is_there(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "site")
    command([str(shard.path), "--out", str(tmp_path / "sheet.png")])
    rows = int(shard.labelled().any(axis=0).sum() + (shard.labelled().sum(axis=1) == 0).any())
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (1190, 440 + rows * 146)
    with pytest.raises(BadInput, match="is there already"):
        command([str(shard.path), "--out", str(tmp_path / "sheet.png")])


def test_no_shard_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no shard here"):
        command([str(tmp_path)])


def test_films_are_shown_with_their_findings(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "site")
    rows = by_finding(shard)
    for name, films in rows.items():
        for film in films:
            row = next(i for i in range(40) if np.array_equal(shard.images[i], film.pixels))
            shown = [f for f, label in zip(FINDINGS, shard.labelled()[row], strict=True) if label]
            assert name in (shown or [NO_FINDING])
            plain = [finding.replace("_", " ") for finding in shown]
            assert film.caption in (
                ", ".join(plain) or NO_FINDING, f"{(plain or [''])[0]} and {len(plain) - 1} more",
            )  # fmt: skip


def test_captions_stay_below_their_films(tmp_path: Path) -> None:
    entries = [Entry(f"{i}.png", str(i), "train") for i in range(14)]
    labels = np.eye(14, dtype=np.uint8) | np.roll(np.eye(14, dtype=np.uint8), 3, axis=1)
    with create_shard(tmp_path / "s", entries=entries, labels=labels, size=40, source="x"):
        pass
    captions = [
        film.caption for films in by_finding(open_shard(tmp_path / "s")).values() for film in films
    ]
    assert any("," in caption for caption in captions)
    assert all(ImageFont.load_default(10).getlength(caption) < 128 for caption in captions)


def test_the_figure_shows_the_share_of_each_finding() -> None:
    labels = np.zeros((40, 14), np.uint8)
    labels[:30, 2] = 1
    labels[:10, 7] = 1
    figure = shares_figure([
        Summary("a", 40, 20, 64, labels), Summary("well", 40, 20, 64, labels * 0),
        Summary("pretrain", 40, 20, 64, None),
    ])  # fmt: skip
    pixels = np.asarray(figure.convert("RGB"))
    shares = {}
    for finding in (0, 2, 7):
        colour = tuple(bytes.fromhex(COLOURS[finding][1:]))
        columns = (pixels[:, :1017] == colour).all(axis=2).sum(axis=1)
        shares[finding] = int(columns.max())
    assert shares[0] == 0
    assert shares[2] / shares[7] == pytest.approx(3, rel=0.02)


def test_a_png_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "site")
    with pytest.raises(BadInput, match=r"none/sheet\.png: cannot be written: No such file"):
        command([str(shard.path), "--out", str(tmp_path / "none" / "sheet.png")])
