import pytest

from pretrain.presets import make_recipe
from pretrain.recipe import MethodName, MoCoSettings, PresetName

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


def test_cxr_has_lars_for_all_but_rotation() -> None:
    moco, simclr, byol, rotation = (make_recipe("cxr", method).optimizer for method in METHODS)
    assert simclr == make_recipe("upstream", "simclr").optimizer.model_copy(update={"lr": 1.2})
    assert moco == byol == make_recipe("upstream", "byol").optimizer
    assert rotation == make_recipe("paper", "rotation").optimizer


@pytest.mark.parametrize("name", ["cxr", "paper", "upstream"])
def test_byol_spares_norms_and_biases(name: PresetName) -> None:
    assert not make_recipe(name, "byol").optimizer.decay_all
