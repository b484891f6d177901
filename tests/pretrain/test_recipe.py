import pytest

from common.errors import BadInput
from pretrain.recipe import MethodName, MoCoSettings, PresetName, Recipe, make_recipe

METHODS: tuple[MethodName, ...] = ("mocov2", "simclr", "byol", "rotation")


@pytest.mark.parametrize("method", METHODS)
def test_the_papers_figures(method: MethodName) -> None:
    recipe = make_recipe("paper", method)
    assert (recipe.batch_size, recipe.epochs, recipe.image_size) == (256, 100, 224)
    assert (recipe.optimizer.name, recipe.lr, recipe.optimizer.momentum) == ("sgd", 0.05, 0.9)
    for view in recipe.views:
        assert view.crop_scale == ((224 / 256) ** 2,) * 2
        assert (view.rotate, view.jitter, view.blur, view.solarize) == (0, 0, 0, 0)


@pytest.mark.parametrize("method", METHODS)
def test_cxr_views(method: MethodName) -> None:
    for view in make_recipe("cxr", method).views:
        assert 0.2 <= view.crop_scale[0] <= 0.3
        assert view.rotate <= 10
        assert view.flip == 0.5
    assert all(view.flip == 0 for view in make_recipe("cxr", method, flip=0).views)


def test_upstream_figures() -> None:
    moco, simclr, byol, rotation = (make_recipe("upstream", method) for method in METHODS)
    assert isinstance(moco.method, MoCoSettings)
    assert (moco.method.queue, moco.method.ema, moco.method.temperature) == (65_536, 0.999, 0.2)
    assert (moco.lr, moco.optimizer.weight_decay, moco.epochs) == (0.03, 1e-4, 200)
    assert simclr.optimizer.name == byol.optimizer.name == "lars"
    assert simclr.lr == pytest.approx(4.8)
    assert byol.lr == pytest.approx(7.2)
    assert not byol.optimizer.decay_all
    assert [view.blur for view in byol.views] == [1.0, 0.1]
    assert rotation.lr == pytest.approx(0.01)
    assert rotation.images_per_step == 192


def test_cxr_leaves_simclr_and_byol_their_authors_optimiser() -> None:
    others: dict[MethodName, PresetName]
    others = {"simclr": "upstream", "byol": "upstream", "mocov2": "paper", "rotation": "paper"}
    for method, other in others.items():
        assert make_recipe("cxr", method).optimizer == make_recipe(other, method).optimizer


@pytest.mark.parametrize("name", ["cxr", "paper", "upstream"])
def test_byol_spares_norms_and_biases(name: PresetName) -> None:
    assert not make_recipe(name, "byol").optimizer.decay_all


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
        ("simclr", {"queue": 512}, ["--queue", "simclr has none"]),
        ("rotation", {"temperature": 1.0}, ["--temperature", "rotation has none"]),
        ("simclr", {"ema": 0.9}, ["--ema", "simclr has none"]),
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
