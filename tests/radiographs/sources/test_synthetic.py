import json
from pathlib import Path

import numpy as np
import pytest

from common.errors import BadInput
from common.findings import FINDINGS
from common.seeds import generator
from common.shard import open_shard
from radiographs.phantom.chest import draw_anatomy, draw_scanner
from radiographs.phantom.findings import draw_film
from radiographs.sources.synthetic import PREVALENCE, SyntheticSettings, command, draw, films_of


def options(out: Path, **changes: object) -> list[str]:
    chosen = {"hospitals": 3, "images": 20, "size": 40, **changes}
    pairs = [text for key, value in chosen.items() for text in (f"--{key}", str(value))]
    return ["--out", str(out), *pairs]


def settings(**changes: object) -> SyntheticSettings:
    return SyntheticSettings.model_validate({"out": "x", "hospitals": 4, "images": 200, **changes})


def test_the_command_writes_whole_shards(tmp_path: Path) -> None:
    command(options(tmp_path / "data"))
    shards = {path.name: open_shard(path) for path in (tmp_path / "data").iterdir()}
    hospitals = [shards[f"hospital-{i:02d}"] for i in range(3)]
    assert sum(len(shard) for shard in hospitals) == 60
    assert len({len(shard) for shard in hospitals}) > 1
    assert len(shards["test"]) == 40
    assert len(shards["pretrain"]) == 80
    assert shards["pretrain"].labels is None
    assert {entry.split for entry in shards["test"].entries} == {"test"}
    patients = [{entry.patient for entry in shard.entries} for shard in shards.values()]
    assert len(set.union(*patients)) == sum(map(len, patients))
    assert all(len(names) < len(s) for names, s in zip(patients, shards.values(), strict=True))


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    hashes = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        command(options(tmp_path / name, seed=seed))
        manifest = json.loads((tmp_path / name / "hospital-01" / "manifest.json").read_text())
        hashes.append(manifest["sha256"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_what_is_written_is_what_is_drawn_alone(tmp_path: Path) -> None:
    # The command draws in several processes; a film depends on none of the others.
    command(options(tmp_path / "data"))
    chosen = settings(hospitals=3, images=20, size=40)
    for i, film in enumerate(films_of(chosen, "hospital-02")):
        alone = draw(film, size=40, seed=0)
        assert np.array_equal(open_shard(tmp_path / "data" / "hospital-02").images[i], alone)


def test_a_taken_folder_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("dear")
    with pytest.raises(BadInput, match="is there already"):
        command(options(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("radiographs.sources.synthetic.create_shard", stop)
    with pytest.raises(KeyboardInterrupt):
        command(options(tmp_path / "data"))
    assert list(tmp_path.iterdir()) == []


def test_hospitals_differ_and_together_have_every_finding() -> None:
    chosen = settings(hospitals=10)
    shares = [
        np.mean([film.labels for film in films_of(chosen, f"hospital-{i:02d}")], axis=0)
        for i in range(10)
    ]
    assert (np.std(shares, axis=0) > 0.02).all()
    overall = np.mean([film.labels for film in films_of(chosen, "test")], axis=0)
    general = np.array([PREVALENCE[finding] for finding in FINDINGS])
    assert (np.abs(overall - general) < 0.08).all()


def test_films_of_a_patient_share_anatomy_but_are_not_copies() -> None:
    films = films_of(settings(), "hospital-00")
    by_patient: dict[str, list[int]] = {}
    for i, film in enumerate(films):
        by_patient.setdefault(film.patient, []).append(i)
    assert {len(rows) for rows in by_patient.values()} == {1, 2, 3, 4}
    one, other = next(rows for rows in by_patient.values() if len(rows) == 2)
    assert not np.array_equal(draw(films[one], 40, 0), draw(films[other], 40, 0))


def draw_twice(finding: int, patient: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the same patient without noise, well and with one finding."""
    films = []
    scanner = draw_scanner(generator(0, "scanner"))._replace(noise=0.0)
    for ill in (0, 1):
        labels = np.zeros(14, np.uint8)
        labels[finding] = ill
        anatomy = draw_anatomy(generator(patient, "anatomy"))
        films.append(draw_film(size, anatomy, scanner, labels, generator(patient, "film")))
    return films[0].astype(float), films[1].astype(float)


@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize("finding", range(14), ids=FINDINGS)
def test_every_finding_is_to_be_seen(finding: int, size: int) -> None:
    for patient in range(5):
        well, ill = draw_twice(finding, patient, size)
        changed = np.abs(ill - well) > 20
        assert changed.mean() > 0.004, f"{changed.sum()} pixels"


def test_a_film_looks_like_a_chest() -> None:
    film, _ = draw_twice(0, 3, 256)
    lung, spine = film[110:130, 55:75].mean(), film[110:130, 120:136].mean()
    abdomen, air = film[235:250, 60:90].mean(), film[100:150, 1:4].mean()
    assert air < lung < abdomen
    assert lung + 60 < spine
