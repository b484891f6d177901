import pytest

from common.errors import BadInput
from pretrain.presets import make_recipe
from pretrain.recipe import MethodName, MoCoSettings, Recipe

METHODS: tuple[MethodName, ...] = ("mocov2", "simclr", "byol", "rotation")


def test_a_recipe_survives_json() -> None:
    for method in METHODS:
        recipe = make_recipe("cxr", method, seed=3, lr=0.1)
        assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_the_learning_rate_is_scaled_with_the_batch() -> None:
    assert make_recipe("cxr", "simclr", batch_size=512, lr=0.1).lr == pytest.approx(0.2)


@pytest.mark.parametrize(("part", "groups"), [(256, 8), (64, 2), (32, 2), (48, 2), (96, 3)])
def test_keys_are_normalised_in_groups_of_32_and_never_all_together(part: int, groups: int) -> None:
    assert MoCoSettings().key_groups(part) == groups


@pytest.mark.parametrize(
    ("method", "changes", "fragments"),
    [
        ("mocov2", {"queue": 1000}, ["1000", "not a multiple of the batch of 256", "--queue"]),
        ("mocov2", {"batch_size": 2, "queue": 2}, ["groups", "--batch-size"]),
        ("simclr", {"queue": 512}, ["--queue", "simclr has no such setting"]),
        ("rotation", {"temperature": 1.0}, ["--temperature", "rotation has no such setting"]),
        ("simclr", {"ema": 0.9}, ["--ema", "simclr has no such setting"]),
        ("rotation", {"batch_size": 6}, ["6", "4 rotations"]),
        ("simclr", {"batch_size": 16, "accumulate": 3}, ["16", "3 parts"]),
        ("simclr", {"batch_size": 16, "accumulate": 16}, ["2 or more"]),
        ("byol", {"ema": 1.5}, ["ema", "less than or equal to 1"]),
        ("byol", {"image_size": 8}, ["image_size", "32"]),
    ],
)
def test_what_does_not_fit_is_named(
    method: MethodName, changes: dict[str, int], fragments: list[str]
) -> None:
    with pytest.raises(BadInput) as error:
        make_recipe("cxr", method, **changes)
    for fragment in fragments:
        assert fragment in str(error.value)


def test_processes_cut_the_batch_too() -> None:
    recipe = make_recipe("cxr", "rotation", batch_size=64, accumulate=2)
    assert recipe.part(2) == 4
    with pytest.raises(ValueError, match="3 processes"):
        recipe.part(3)
