"""The training loop: batches split over micro-batches and workers, caches, weights of classes, early stop."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.errors import BadDataset, Diverged, NonFinite
from models.sparse.tensor import collate
from tests.training_runs import assert_same, begin, fitted
from training.datasets import read_split
from training.loop import Compute, fit
from training.run import training_splits
from training.runlog import read_scalars
from training.runstate import STATE, read_state
from training.samples import CloudSamples


def test_batches_that_leave_nothing_to_train_on_are_refused(data: Path, image_file: Path, tmp_path: Path) -> None:
    recipe, beginning = begin(image_file)
    clouds = read_split("modelnet40", data, "train")
    with pytest.raises(BadDataset, match="1 samples in batches of 8"):
        fit(beginning.net, beginning.policy, recipe, clouds.take(np.arange(1)), clouds.take(np.arange(0)), tmp_path)


def test_the_reader_of_a_worker_says_what_is_wrong(data: Path, image_file: Path, tmp_path: Path) -> None:
    recipe, beginning = begin(image_file)
    clouds = read_split("modelnet40", data, "train")
    xyz = clouds.xyz.copy()  # type: ignore[attr-defined]
    xyz[5] = np.nan
    broken = replace(clouds, xyz=xyz)  # type: ignore[type-var]
    with pytest.raises(NonFinite, match="coordinates must be finite") as caught:
        fit(beginning.net, beginning.policy, recipe, broken, clouds.take(np.arange(0)), tmp_path, Compute(workers=1, cache=False))
    assert "Traceback" not in str(caught.value)


def test_workers_and_caches_change_nothing(whole: Path, data: Path, image_file: Path, tmp_path: Path) -> None:
    fitted(data, image_file, tmp_path / "workers", compute=Compute(workers=2))
    fitted(data, image_file, tmp_path / "no-cache", compute=Compute(workers=1, cache=False))
    assert_same(whole, tmp_path / "workers")
    assert_same(whole, tmp_path / "no-cache")
    assert (whole / "cache").is_dir()
    assert not (tmp_path / "no-cache" / "cache").exists()


def test_losses_that_are_read_a_step_late_are_the_same(
    whole: Path, data: Path, image_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a device, and saved after every step."""
    monkeypatch.setattr("training.loop._steps_behind", lambda _: 1)
    fitted(data, image_file, tmp_path / "late")
    fitted(data, image_file, tmp_path / "saved", compute=Compute(save_every_s=0.0))
    assert_same(whole, tmp_path / "late")
    assert_same(whole, tmp_path / "saved")


def test_a_loss_that_is_read_a_step_late_still_ends_the_run(
    data: Path, image_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.loop._steps_behind", lambda _: 1)
    with pytest.raises(Diverged, match="loss of epoch 1 is"):
        fitted(data, image_file, tmp_path, {"optim.lr": 1e30})


def test_micro_batches_are_one_batch_where_norms_are_frozen(data: Path, image_file: Path, tmp_path: Path) -> None:
    """Gradients add up: with every batch norm in evaluation mode, two batches of 4 are one of 8."""
    nets = []
    for number, sizes in enumerate(({"batch_size": 8}, {"batch_size": 4, "accumulate": 2})):
        recipe, beginning = begin(image_file, {"init": "random-frozen", "mode": "io", "epochs": 1, **sizes})
        norms = {name for name, module in beginning.net.named_modules() if isinstance(module, torch.nn.BatchNorm1d)}
        splits = training_splits(recipe, read_split("modelnet40", data, "train"))
        train = splits.train.take(np.arange(32))  # whole batches of either size
        fit(
            beginning.net,
            replace(beginning.policy, frozen_norms=frozenset(norms)),
            recipe,
            train,
            splits.validation,
            tmp_path / str(number),
        )
        nets.append(beginning.net.state_dict())
    assert not torch.equal(nets[0]["fc.weight"], begin(image_file)[1].net.state_dict()["fc.weight"])
    for name, tensor in nets[0].items():
        torch.testing.assert_close(tensor, nets[1][name], atol=1e-6, rtol=1e-5)


def test_a_weighted_loss_trains(data: Path, image_file: Path, tmp_path: Path) -> None:
    """The rare class counts for more: its clouds are put more often into the rare class than without weights."""
    clouds = read_split("modelnet40", data, "train")
    rows = np.concatenate([np.flatnonzero(clouds.targets == target)[:count] for target, count in enumerate((16, 16, 2))])
    logits = []
    for balance in ("none", "loss"):
        recipe, beginning = begin(image_file, {"epochs": 2, "balance": balance})
        fit(beginning.net, beginning.policy, recipe, clouds.take(rows), clouds.take(rows[:0]), tmp_path / balance)
        beginning.net.eval()
        voxels = [CloudSamples(clouds, recipe.input).voxels(int(row)) for row in np.flatnonzero(clouds.targets == 2)]
        with torch.inference_mode():
            logits.append(beginning.net(collate(voxels)).softmax(1)[:, 2].mean())
    assert logits[1] > logits[0] + 0.05


def test_early_stop_ends_the_run_and_stays_ended(data: Path, image_file: Path, tmp_path: Path) -> None:
    changes: dict[str, object] = {"epochs": 50, "early_stop": {"patience": 2, "min_delta": 1.0}}  # nothing improves by 100 %
    fitted(data, image_file, tmp_path, changes)
    assert len(read_scalars(tmp_path)) == 3
    before = read_state(tmp_path / STATE)
    fitted(data, image_file, tmp_path, changes)
    assert read_state(tmp_path / STATE)["epoch"] == before["epoch"] == 3
