"""Runs whose weights are averaged: one start, draws of their own, and the mean is what is left, also over a stop."""

from pathlib import Path

import pytest
import torch

from tests.training_runs import Interrupting, assert_same, begin, fitted
from training.datasets import read_split
from training.loop import Compute, fit
from training.run import training_splits
from training.runlog import read_scalars
from training.runstate import STATE, read_state
from training.soup import Soup

TWO: dict[str, object] = {"epochs": 2, "soup": 2}
CLOUDS = 38  # that an epoch reads


def test_the_weights_are_the_mean_of_those_of_all_runs(
    data: Path, image_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends, starts = [], []
    add, begin_run = Soup.add, Soup.begin

    def adding(self: Soup, net: torch.nn.Module, count: int) -> None:
        ends.append({name: tensor.clone() for name, tensor in net.state_dict().items()})
        add(self, net, count)

    def beginning(self: Soup, net: torch.nn.Module, optimiser: torch.optim.Optimizer) -> None:
        begin_run(self, net, optimiser)
        starts.append({name: tensor.clone() for name, tensor in net.state_dict().items()})

    monkeypatch.setattr(Soup, "add", adding)
    monkeypatch.setattr(Soup, "begin", beginning)
    fitted(data, image_file, tmp_path, TWO)
    net = read_state(tmp_path / STATE)["net"]
    assert len(ends) == len(starts) == 2
    for name, tensor in net.items():
        assert torch.equal(starts[0][name], starts[1][name])
        torch.testing.assert_close(tensor, (ends[0][name] + ends[1][name]) / 2 if tensor.is_floating_point() else ends[1][name])
    assert not torch.equal(ends[0]["fc.weight"], ends[1]["fc.weight"])
    rates = [row["lr"] for row in read_scalars(tmp_path)]
    assert rates[:2] == rates[2:]
    alone = read_state(fitted(data, image_file, tmp_path / "alone", {"epochs": 2}) / STATE)["net"]
    assert all(torch.equal(alone[name], ends[0][name]) for name in alone)  # the first run is the one that there would be without


@pytest.mark.parametrize("reads", [CLOUDS + 20, 2 * CLOUDS + 21, 3 * CLOUDS + 22])  # in the first run, at the begin of the second, in it
def test_a_stop_changes_nothing(data: Path, image_file: Path, tmp_path: Path, reads: int) -> None:
    fitted(data, image_file, tmp_path / "whole", TWO, Compute(cache=False))
    recipe, beginning = begin(image_file, TWO)
    splits = training_splits(recipe, read_split("modelnet40", data, "train"))
    clouds = Interrupting(splits.train.xyz, splits.train.targets, splits.train.names)  # type: ignore[attr-defined]
    object.__setattr__(clouds, "left", [reads])
    with pytest.raises(KeyboardInterrupt):
        fit(beginning.net, beginning.policy, recipe, clouds, splits.validation, tmp_path / "stopped", Compute(cache=False))
    assert read_state(tmp_path / "stopped" / STATE)["epoch"] < 4
    fitted(data, image_file, tmp_path / "stopped", TWO, Compute(cache=False))
    assert_same(tmp_path / "whole", tmp_path / "stopped")


def test_frozen_weights_stay_as_they_were(data: Path, image_file: Path, tmp_path: Path) -> None:
    overrides = TWO | {"mode": "io", "recalibrate": True, "soup": 3, "epochs": 1}
    _, beginning = begin(image_file, overrides)
    state = read_state(fitted(data, image_file, tmp_path, overrides) / STATE)
    kernels = [name for name in state["net"] if name.startswith("layer") and name.endswith("weight") and "bn" not in name]
    assert kernels
    assert all(torch.equal(state["net"][name], beginning.net.state_dict()[name]) for name in kernels)
    frozen = [name for name in state["net"] if name.startswith("layer") and "running" in name]
    assert all(torch.equal(state["net"][name], state["soup"]["start"][name]) for name in frozen)  # estimated anew once, for all runs
