import itertools
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models import densenet121

from common.checkpoint import read_checkpoint
from common.errors import BadInput
from common.initial import initial_state
from common.shard import Shard
from pretrain import engine as engine_module
from pretrain.features import pooled_features, rankme
from pretrain.methods.base import Outcome
from pretrain.methods.simclr import SimCLR
from pretrain.recipe import MethodName, PresetName, Recipe
from tests.support.foreign import FEATURES, head, under
from tests.support.pretraining import CPU, METHODS, Run, curve, recipe_of
from tests.support.shards import make_shard
from tests.support.states import same_bits


@pytest.fixture(autouse=True)
def _looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "LOG_EVERY", 2)


@pytest.mark.parametrize("preset", ["cxr", "paper", "upstream"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_with_every_preset(
    tmp_path: Path, shard: Shard, method: MethodName, preset: PresetName
) -> None:
    recipe = recipe_of(method, preset, epochs=1)
    run = Run(tmp_path / "run", recipe, shard)
    run.engine.run()
    state, provenance = read_checkpoint(run.out, "densenet-tiny", 0)
    assert all(np.isfinite(array).all() for array in state.values())
    start, _ = initial_state("random", "densenet-tiny", 0)
    moved = {name for name in state if not np.array_equal(state[name], start[name])}
    assert {"features.conv0.weight", "features.norm0.running_mean"} <= moved
    assert not any(name.startswith("classifier") for name in moved)
    assert provenance is not None
    assert (provenance.method, provenance.preset, provenance.epochs) == (method, preset, 1)
    assert Recipe.model_validate(provenance.settings) == recipe


@pytest.mark.parametrize("method", METHODS)
def test_a_run_cut_in_the_middle_of_an_epoch_goes_on_as_if_nothing_had_been(
    tmp_path: Path, shard: Shard, method: MethodName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "SAVE_SECONDS", -1)
    recipe = recipe_of(method)
    whole = Run(tmp_path / "whole", recipe, shard)
    whole.engine.run()

    cut = Run(tmp_path / "cut", recipe, shard)
    write = cut.folder.write_metrics

    def write_and_die(line: dict[str, Any]) -> None:
        write(line)
        if line["step"] >= cut.engine.trainer.steps // 2 + 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(cut.folder, "write_metrics", write_and_die)
    with pytest.raises(KeyboardInterrupt):
        cut.engine.run()
    saved = cut.folder.read_state()
    assert saved is not None
    # Saved in mid-epoch, and behind what the metrics say.
    assert 0 < saved["step"] < cut.metrics()[-1]["step"]
    assert saved["step"] % (cut.engine.trainer.steps // 3)

    again = Run(tmp_path / "cut", recipe, shard)
    again.engine.run()
    assert curve(again) == curve(whole)
    one, _ = read_checkpoint(again.out, "densenet-tiny", 0)
    other, _ = read_checkpoint(whole.out, "densenet-tiny", 0)
    assert same_bits(one, other)


def test_a_finished_run_that_is_resumed_changes_nothing(tmp_path: Path, shard: Shard) -> None:
    run = Run(tmp_path / "run", recipe_of("simclr"), shard)
    run.engine.run()
    before, lines = run.out.read_bytes(), curve(run)
    run.out.unlink()  # as if it was killed just before
    again = Run(tmp_path / "run", recipe_of("simclr"), shard)
    again.engine.run()
    assert again.out.read_bytes() == before
    assert curve(again) == lines


@pytest.mark.parametrize("epoch", [1, 3])
def test_who_dies_right_after_a_checkpoint_or_right_before_it_goes_on(
    tmp_path: Path, shard: Shard, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    recipe = recipe_of("simclr")
    whole = Run(tmp_path / "whole", recipe, shard)
    whole.engine.run()
    for written in (True, False):
        folder = tmp_path / f"{written}-{epoch}"
        cut = Run(folder, recipe, shard)
        write = cut.engine._write_checkpoint

        def write_and_die(cut: Run = cut, write: Any = write, written: bool = written) -> None:
            dies = cut.engine.trainer.step == epoch * cut.engine.trainer.steps // 3
            if written or not dies:
                write()
            if dies:
                raise KeyboardInterrupt

        monkeypatch.setattr(cut.engine, "_write_checkpoint", write_and_die)
        with pytest.raises(KeyboardInterrupt):
            cut.engine.run()
        again = Run(folder, recipe, shard)
        again.engine.run()
        assert again.out.read_bytes() == whole.out.read_bytes()
        assert curve(again) == curve(whole)


def test_labels_are_not_looked_at(tmp_path: Path) -> None:
    states = []
    for labelled in (True, False):
        shard = make_shard(tmp_path / f"shard-{labelled}", labelled=labelled)
        run = Run(tmp_path / str(labelled), recipe_of("simclr"), shard)
        run.engine.run()
        states.append(read_checkpoint(run.out, "densenet-tiny", 0)[0])
    assert same_bits(*states)


def test_a_loss_that_is_not_finite_names_its_step_and_keeps_the_last_epoch(
    tmp_path: Path, shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "run", recipe_of("simclr"), shard)
    calls: Iterator[int] = iter(range(1, 100))
    forward = SimCLR.forward

    def poisoned(self: SimCLR, views: list[torch.Tensor], patients: torch.Tensor) -> Outcome:
        outcome = forward(self, views, patients)
        return outcome._replace(loss=outcome.loss * (torch.nan if next(calls) == 8 else 1))

    monkeypatch.setattr(SimCLR, "forward", poisoned)
    with pytest.raises(BadInput, match=r"step 8 of 15: the loss is nan; .*keeps epoch 1;.*--lr"):
        run.engine.run()
    state, provenance = read_checkpoint(run.out, "densenet-tiny", 0)
    assert all(np.isfinite(array).all() for array in state.values())
    assert provenance is not None
    assert provenance.epochs == 1
    assert run.metrics()[-1]["step"] == 7


def test_weights_ruined_by_the_last_step_of_an_epoch_are_not_kept(
    tmp_path: Path, shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "run", recipe_of("simclr"), shard)
    optimizer = run.engine.trainer.optimizer
    step = optimizer.step

    def ruinous() -> None:
        step()
        if run.engine.trainer.step == 9:  # the tenth: the second epoch's last
            next(run.engine.trainer.method.parameters()).data.fill_(torch.inf)

    monkeypatch.setattr(optimizer, "step", ruinous)
    with pytest.raises(BadInput, match=r"step 10 of 15: weights are not finite; .*keeps epoch 1;"):
        run.engine.run()
    state, provenance = read_checkpoint(run.out, "densenet-tiny", 0)
    assert all(np.isfinite(array).all() for array in state.values())
    assert provenance is not None
    assert provenance.epochs == 1
    saved = run.folder.read_state()
    assert saved is not None
    assert saved["step"] == 5


def test_a_collapse_is_told(tmp_path: Path, shard: Shard, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(tmp_path / "run", recipe_of("byol", epochs=1), shard)
    projector = run.engine.trainer.method.encoder.head
    with torch.no_grad():
        for parameter in projector.parameters():
            parameter.zero_()
        for constant in list(projector.parameters())[-2:]:  # BatchNorm's bias, the last layer
            constant.fill_(1)
    caplog.set_level(logging.INFO)
    run.engine.run()
    assert run.metrics()[-1]["embedding_std"] < 0.02
    assert "collapsed" in caplog.text


def test_a_healthy_run_is_not_called_collapsed(
    tmp_path: Path, shard: Shard, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    Run(tmp_path / "run", recipe_of("byol", epochs=2), shard).engine.run()
    assert "epoch 2 of 2" in caplog.text
    assert "collapsed" not in caplog.text
    assert "few dimensions" not in caplog.text


def test_a_collapse_to_one_dimension_is_told_though_the_spread_is_large(
    tmp_path: Path, shard: Shard, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path / "run", recipe_of("simclr", epochs=2, lr=1e-9), shard)
    trainer = run.engine.trainer
    (part,) = next(iter(run.engine.batches.steps(0, 1)))
    with torch.no_grad():
        # Every embedding is a multiple of one direction; about half are opposite to the others.
        weight, bias = list(trainer.method.encoder.head.parameters())[-2:]
        weight.copy_(weight[:1].expand_as(weight).clone())
        bias.sub_(trainer.method.encoder(trainer.views(part)[0]).mean(dim=0))
    caplog.set_level(logging.INFO)
    run.engine.run()
    line = run.metrics()[-1]
    assert line["embedding_std"] > 0.5
    assert line["rankme"] == pytest.approx(1, abs=0.1)
    assert "collapsed" not in caplog.text
    assert "few dimensions" in caplog.text


def test_the_rank_is_that_of_the_same_images_after_each_epoch(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "shard", images=600, labelled=False)
    run = Run(tmp_path / "run", recipe_of("simclr", epochs=2, batch_size=200), shard)
    run.engine.run()
    lines = [line for line in run.metrics() if "rankme" in line]
    assert [line["epoch"] for line in lines] == [1, 2]
    sample = shard.images[np.linspace(0, 599, 512).astype(int)]
    embeddings = pooled_features(run.engine.trainer.method.encoder, sample, CPU)
    assert lines[-1]["rankme"] == pytest.approx(rankme(embeddings))


def test_every_epoch_tells_the_time_left(
    tmp_path: Path, shard: Shard, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = itertools.count(step=10)
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    caplog.set_level(logging.INFO)
    Run(tmp_path / "run", recipe_of("simclr"), shard).engine.run()
    epochs = [r.getMessage() for r in caplog.records if r.getMessage().startswith("epoch")]
    ends = [line.rsplit(", ", 1)[1] for line in epochs]
    assert ends[-1] == "0:00:00 left"
    assert ends[0] > ends[1] > ends[2]
    assert all(re.fullmatch(r"\d:\d\d:\d\d left", end) for end in ends)


def test_it_starts_from_a_checkpoint(tmp_path: Path, shard: Shard) -> None:
    first = Run(tmp_path / "first", recipe_of("rotation", epochs=1), shard)
    first.engine.run()
    recipe = recipe_of("simclr", init=str(first.out), seed=5)
    second = Run(tmp_path / "second", recipe, shard)
    begun, _ = read_checkpoint(first.out, "densenet-tiny", 0)
    own = second.engine.trainer.method.encoder.backbone.state_dict()
    for name, tensor in own.items():
        assert np.array_equal(tensor.numpy(), begun[name])
    second.engine.run()
    _, provenance = read_checkpoint(second.out, "densenet-tiny", 0)
    assert provenance is not None
    assert provenance.init == "checkpoint.pt"
    assert str(tmp_path) not in str(provenance)
    assert provenance.describe() == (
        f"simclr (preset cxr), 3 epochs on 40 images of noise (manifest {provenance.data[:12]}), "  # type: ignore[index]
        f"from {provenance.start.describe()}"  # type: ignore[union-attr]
    )
    assert provenance.start is not None
    assert provenance.start.method == "rotation"


def test_it_starts_from_another_tools_backbone_and_asks_about_no_head(
    tmp_path: Path, shard: Shard, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    torch.save({"state_dict": under("module.", {**FEATURES, **head(14)})}, tmp_path / "c.pt")
    run = Run(tmp_path / "run", recipe_of("simclr", init=str(tmp_path / "c.pt"), seed=5), shard)
    for name, tensor in run.engine.trainer.method.encoder.backbone.state_dict().items():
        assert torch.equal(tensor, FEATURES[name])
    assert (
        "initial weights: c.pt: checkpoint (state_dict, prefix module., head replaced)"
    ) in caplog.messages
    run.engine.run()
    # Else the server would take the file's head for one of the 14 findings.
    state, _ = read_checkpoint(run.out, "densenet-tiny", 0)
    fresh, _ = initial_state("random", "densenet-tiny", 5)
    assert np.array_equal(state["classifier.weight"], fresh["classifier.weight"])


def test_it_starts_from_imagenets_weights(
    tmp_path: Path, shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What torchvision would download, but for the hash in its name.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints" / "densenet121-a639ec97.pth"
    cache.parent.mkdir(parents=True)
    weights = densenet121(weights=None).state_dict()
    torch.save(weights, cache)
    recipe = recipe_of("byol", architecture="densenet121", init="imagenet", epochs=1)
    run = Run(tmp_path / "run", recipe, shard)
    for name, tensor in run.engine.trainer.method.encoder.backbone.state_dict().items():
        assert torch.equal(tensor, weights[name])
    run.engine.trainer.take_step(next(run.engine.batches.steps(0, 1)))
    assert run.engine._provenance.init == "imagenet"


def test_the_probe_sees_the_backbone_in_evaluation_mode_and_leaves_no_trace(
    tmp_path: Path, shard: Shard
) -> None:
    probe = make_shard(tmp_path / "probe", images=40, seed=4)
    plain = Run(tmp_path / "plain", recipe_of("simclr"), shard)
    plain.engine.run()
    probed = Run(tmp_path / "probed", recipe_of("simclr"), shard, probe=probe, probe_every=2)
    probed.engine.run()
    assert curve(probed) == curve(plain)
    # Training mode would leave a trace in BatchNorm's statistics alone.
    assert same_bits(*(read_checkpoint(of.out, "densenet-tiny", 0)[0] for of in (plain, probed)))
    at = [line["epoch"] for line in probed.metrics() if "knn_auc" in line]
    assert at == [2, 3]
    assert all(0 <= line["knn_auc"] <= 1 for line in probed.metrics() if "knn_auc" in line)


def test_bf16_trains_near_fp32(tmp_path: Path, shard: Shard) -> None:
    losses = []
    for precision in ("bf16", "fp32"):
        run = Run(tmp_path / precision, recipe_of("simclr", precision=precision, epochs=1), shard)
        run.engine.run()
        assert next(run.engine.trainer.method.parameters()).dtype == torch.float32
        losses.append(run.metrics()[0]["loss"])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_the_real_model_goes_into_torchvisions_strictly(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "shard", images=8, labelled=False)
    recipe = recipe_of("mocov2", architecture="densenet121", epochs=1, batch_size=8, queue=8)
    run = Run(tmp_path / "run", recipe, shard)
    run.engine.run()
    content = torch.load(run.out, weights_only=True)
    model = densenet121(num_classes=14)
    model.load_state_dict(content["state_dict"], strict=True)
    own = run.engine.trainer.method.encoder.backbone.eval()
    image = torch.randn(1, 3, 64, 64)
    model.classifier = torch.nn.Identity()
    torch.testing.assert_close(model.eval()(image), own(image))
    # What belongs to the trainer alone is not in it, but beside it.
    assert not any("key_encoder" in name or "queue" in name for name in content["state_dict"])
    trainer = torch.load(run.folder.path / "trainer.pt", weights_only=True)
    assert {"queue", "queue_patients"} <= trainer["buffers"].keys()


def test_a_state_of_another_version_is_refused(tmp_path: Path, shard: Shard) -> None:
    run = Run(tmp_path / "run", recipe_of("mocov2"), shard)
    state = run.engine.trainer.state()
    del state["buffers"]["queue_patients"]
    with pytest.raises(BadInput, match=r"--resume: .* differs in queue_patients; .*--out"):
        run.engine.trainer.load(state)
