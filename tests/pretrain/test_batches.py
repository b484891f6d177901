from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import BadInput
from common.shard import Entry
from pretrain import batches as batches_module
from pretrain.batches import Batches, patient_numbers
from pretrain.presets import make_recipe
from pretrain.recipe import MethodName, Recipe
from tests.support.pretraining import all_parts, same
from tests.support.shards import make_shard

CPU = torch.device("cpu")


def recipe_of(method: MethodName = "simclr", **changes: Any) -> Recipe:
    given = {"architecture": "densenet-tiny", "batch_size": 8, "image_size": 32, **changes}
    return make_recipe("cxr", method, **given)


def test_an_epoch_shows_every_image_once_and_the_next_in_another_order(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "s", images=40)
    batches = Batches(shard, recipe_of(), CPU)
    assert batches.steps_per_epoch == 5
    known = {image.tobytes(): i for i, image in enumerate(shard.images)}
    epochs = [
        [known[image.numpy().tobytes()] for part in all_parts(batches, first, first + 5)
         for image in part.images]
        for first in (0, 5)
    ]  # fmt: skip
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(40))
    assert epochs[0] != epochs[1]


def test_a_last_incomplete_batch_is_left_out(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "s", images=47)
    assert Batches(shard, recipe_of(), CPU).steps_per_epoch == 5


def test_batches_depend_on_seed_and_step_alone(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "s", images=24)
    whole = all_parts(Batches(shard, recipe_of(), CPU), 0, 9)
    assert same(all_parts(Batches(shard, recipe_of(), CPU), 4, 9), whole[4:])
    assert not same(all_parts(Batches(shard, recipe_of(seed=1), CPU), 0, 9), whole)


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_however_few_steps_are_left(tmp_path: Path, steps: int) -> None:
    shard = make_shard(tmp_path / "s", images=24)
    assert len(all_parts(Batches(shard, recipe_of(), CPU), 3, 3 + steps)) == steps


def test_resident_images_and_streamed_ones_are_the_same(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "s", images=40)
    streamed = Batches(shard, recipe_of(), CPU)
    resident = Batches(shard, recipe_of(), CPU, resident=True)
    assert resident.resident
    assert not streamed.resident
    assert same(all_parts(resident, 0, 7), all_parts(streamed, 0, 7))


def test_parts_make_up_the_batch(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "s", images=40)
    whole = all_parts(Batches(shard, recipe_of(), CPU), 0, 3)
    parts = list(Batches(shard, recipe_of(accumulate=2), CPU).steps(0, 3))
    for one, pieces in zip(whole, parts, strict=True):
        assert len(pieces) == 2
        assert torch.equal(torch.cat([piece.images for piece in pieces]), one.images)
        assert torch.equal(torch.cat([piece.draws for piece in pieces], dim=1), one.draws)
        assert torch.equal(torch.cat([piece.patients for piece in pieces]), one.patients)


def test_processes_share_the_batch_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = make_shard(tmp_path / "s", images=40)
    whole = all_parts(Batches(shard, recipe_of(), CPU), 0, 3)
    monkeypatch.setattr(batches_module, "processes", lambda: 2)
    halves = []
    for number in range(2):
        monkeypatch.setattr(batches_module, "rank", lambda number=number: number)
        halves.append(all_parts(Batches(shard, recipe_of(), CPU), 0, 3))
    for one, first, second in zip(whole, *halves, strict=True):
        assert torch.equal(torch.cat([first.images, second.images]), one.images)
        assert torch.equal(torch.cat([first.draws, second.draws], dim=1), one.draws)
        assert torch.equal(torch.cat([first.patients, second.patients]), one.patients)


def test_an_image_comes_with_its_patient(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "s", images=40)  # two images a patient
    numbers = patient_numbers(shard.entries)
    known = {image.tobytes(): number for image, number in zip(shard.images, numbers, strict=True)}
    for resident in (False, True):
        (part,) = all_parts(Batches(shard, recipe_of(), CPU, resident=resident), 3, 4)
        assert part.patients.tolist() == [known[image.numpy().tobytes()] for image in part.images]
        assert part.patients.dtype == torch.int64


def test_patients_are_numbered_and_a_film_without_one_is_its_own() -> None:
    patients = ["b", "a", "", "b", ""]
    entries = [Entry(f"{i}.png", patient, "train") for i, patient in enumerate(patients)]
    numbers = patient_numbers(entries).tolist()
    assert numbers[0] == numbers[3]
    assert sorted(set(numbers)) == [0, 1, 2, 3]


def test_two_views_of_an_image_are_drawn_apart(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "s", images=16)
    draws = all_parts(Batches(shard, recipe_of(), CPU), 0, 1)[0].draws
    assert draws.shape == (2, 8, 10)
    assert not np.array_equal(draws[0], draws[1])


def test_rotation_takes_a_quarter_of_the_batch(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "s", images=16)
    batches = Batches(shard, recipe_of("rotation"), CPU)
    assert batches.steps_per_epoch == 8
    assert len(all_parts(batches, 0, 1)[0].images) == 2


@pytest.mark.parametrize(
    ("changes", "fragments"),
    [
        ({"batch_size": 32}, ["--batch-size 32", "16"]),
        ({"image_size": 64}, ["--image-size 64", "40 pixels"]),
    ],
)
def test_a_shard_that_does_not_do_is_refused(
    tmp_path: Path, changes: dict[str, Any], fragments: list[str]
) -> None:
    shard = make_shard(tmp_path / "s", images=16)
    with pytest.raises(BadInput) as error:
        Batches(shard, recipe_of(**changes), CPU)
    for fragment in fragments:
        assert fragment in str(error.value)
