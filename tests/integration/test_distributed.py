"""Two processes under torchrun take the steps of one."""

import copy
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from models.sparse.tensor import collate
from training.batches import plan_epoch
from training.datasets import read_split
from training.loop import Compute, fit
from training.losses import batch_loss
from training.optim import lr_factor, sgd
from training.recipe import load_recipe
from training.run import start, training_splits
from training.runlog import read_scalars
from training.runstate import STATE, read_state
from training.samples import CloudSamples

FIP = str(Path(sys.executable).with_name("fip"))
SMALL: dict[str, object] = {"input.voxel_size": 0.2, "batch_size": 12, "data.validation": 0.25, "epochs": 2}


def torchrun(data: Path, image_file: Path, run_dir: Path, overrides: dict[str, object], *more: str) -> None:
    settings = [part for key, value in (SMALL | overrides).items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python", FIP, "train"]
    command += ["bundled-modelnet40", "--data", str(data), "--weights", str(image_file), "--run-dir", str(run_dir), "--threads", "1"]
    done = subprocess.run([*command, *settings, *more], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("checkpoint in") == 1  # one process speaks for both
    assert (run_dir / "checkpoint" / "manifest.json").is_file()


def test_frozen_norms_give_what_one_process_gives(data: Path, image_file: Path, tmp_path: Path) -> None:
    """Mode io: the stages are in evaluation mode, and the batch norms of stem and head take all processes' clouds.

    With shots: every process must have drawn the same ones.
    """
    overrides: dict[str, object] = {"init": "random-frozen", "mode": "io", "accumulate": 2, "data.shots": 8}
    torchrun(data, image_file, tmp_path / "two", overrides)
    recipe = load_recipe("bundled-modelnet40", SMALL | overrides)
    beginning = start(recipe, 3, None)
    splits = training_splits(recipe, read_split("modelnet40", data, "train"))
    first = copy.deepcopy(beginning.net.state_dict())
    fit(beginning.net, beginning.policy, recipe, splits.train, splits.validation, tmp_path / "one", Compute())
    found = read_state(tmp_path / "two" / STATE)["net"]
    assert not torch.equal(found["conv1.weight"], first["conv1.weight"])
    assert not torch.equal(found["bn1.running_mean"], first["bn1.running_mean"])
    for name, tensor in beginning.net.state_dict().items():
        torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=1e-5, msg=partial("{}: {}".format, name))
    one, two = (read_scalars(tmp_path / name) for name in ("one", "two"))
    assert [row["val_accuracy"] for row in one] == [row["val_accuracy"] for row in two]
    assert [row["loss"] for row in one] == pytest.approx([row["loss"] for row in two], abs=1e-5)


def test_batch_norm_otherwise_normalises_each_shard(data: Path, image_file: Path, tmp_path: Path) -> None:
    """Against one process written out plainly: every shard through the net by itself, then the mean of their gradients."""
    overrides: dict[str, object] = {"epochs": 1, "optim.lr": 0.01}
    torchrun(data, image_file, tmp_path, overrides, "--workers", "1")
    recipe = load_recipe("bundled-modelnet40", SMALL | overrides)
    beginning = start(recipe, 3, str(image_file))
    net = beginning.net
    train = training_splits(recipe, read_split("modelnet40", data, "train")).train
    samples = CloudSamples(train, recipe.input, recipe.augment)
    plans = [
        plan_epoch(train.targets, batch_size=12, accumulate=1, balance="none", seed=0, epoch=0, rank=rank, ranks=2) for rank in range(2)
    ]
    optimiser = sgd(beginning.policy.parameters(net), recipe.optim)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lr_factor(recipe.schedule, 1, len(plans[0])))
    net.train()
    for steps in zip(*plans, strict=True):
        optimiser.zero_grad()
        kept = {}
        for rank, (micro,) in enumerate(steps):
            before = {name: buffer.clone() for name, buffer in net.named_buffers()}
            draws = [np.random.default_rng((0, 0, int(place))) for place in micro.places]
            inputs = collate([samples.voxels(int(row), rng) for row, rng in zip(micro.rows, draws, strict=True)])
            logits = net(inputs)
            loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(train.targets[micro.rows]), label_smoothing=0.1)
            (loss * len(micro.rows) / sum(len(step[0].rows) for step in steps)).backward()
            if rank == 0:
                kept = {name: buffer.clone() for name, buffer in net.named_buffers()}
            for name, buffer in net.named_buffers():
                buffer.copy_(before[name])
        for name, buffer in net.named_buffers():
            buffer.copy_(kept[name])
        optimiser.step()
        schedule.step()
    found = read_state(tmp_path / STATE)["net"]
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=1e-4, msg=partial("{}: {}".format, name))


def test_the_loss_of_a_batch_is_summed() -> None:
    logits, targets = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    expected = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=0.1) * 5
    torch.testing.assert_close(batch_loss(logits, targets, 5, label_smoothing=0.1), expected)
