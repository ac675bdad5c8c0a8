"""Batches that are made ahead: the same ones, in order; an error in its place; no thread that stays behind."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
import torch

from models.manifest import NetworkSpec
from models.sparse.tensor import Geometry, SiteCache, sparse_tensor
from models.zoo import build
from training.streaming import ahead, on_device


def threads() -> int:
    return sum(thread.name == "fip-batches" for thread in threading.enumerate())


def test_the_next_one_is_made_while_one_is_used() -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(5):
            made.append(number)
            yield number

    with closing(ahead(numbers())) as items:
        assert next(items) == 0
        deadline = time.monotonic() + 10
        while len(made) < 2:  # without anybody having asked for it
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert list(items) == [1, 2, 3, 4]
    assert made == list(range(5))
    assert threads() == 0


def test_an_error_comes_after_what_was_made_before() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("the second sample is broken")

    items = ahead(failing())
    assert next(items) == 1
    with pytest.raises(ValueError, match="second sample"):
        next(items)
    assert threads() == 0


def test_whoever_stops_early_leaves_no_thread() -> None:
    items = ahead(iter(range(1000)))
    assert next(items) == 0
    items.close()
    assert threads() == 0


def test_on_a_cpu_batches_are_handed_on() -> None:
    batches = [[torch.arange(3), torch.ones(2)], [torch.arange(4), torch.ones(0)]]
    found = list(on_device(iter(batches), torch.device("cpu"), lambda tensors: tensors))
    assert all(torch.equal(a, b) for one, other in zip(found, batches, strict=True) for a, b in zip(one, other, strict=True))
    assert threads() == 0


def test_what_a_net_made_of_one_batch_is_built_for_the_next() -> None:
    """All of it, way back included, and the same maps as when they are asked for one by one."""
    torch.manual_seed(0)
    net = build(NetworkSpec(name="resnet18", in_channels=3, num_classes=5, tied="y"))

    def used(sites: torch.Tensor, ahead_of_need: Geometry) -> SiteCache:
        x = sparse_tensor(sites, torch.ones(len(sites), 3))
        x.sites.build(ahead_of_need)
        built = x.sites.geometry
        net(x).square().sum().backward()
        assert ahead_of_need == Geometry() or built == x.sites.geometry
        return x.sites

    one, other = ((torch.rand(2, 9, 9, 9) < share).nonzero().int() for share in (0.4, 0.5))
    wanted = used(one, Geometry()).geometry
    assert wanted.strides
    found, expected = used(other, wanted), used(other, Geometry())
    assert set(found._maps) == set(expected._maps)
    for key, kernel_map in expected._maps.items():
        assert torch.equal(found._maps[key].in_rows, kernel_map.in_rows)
        assert torch.equal(found._maps[key].out_rows, kernel_map.out_rows)
