"""Batches that are made ahead: the same ones, in order; an error in its place; no thread that stays behind."""

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from typing import ClassVar

import pytest
import torch

from models.manifest import NetworkSpec
from models.sparse.tensor import Geometry, SiteCache, sparse_tensor
from models.zoo import build
from training.streaming import ahead, on_device

GIVE_UP_S = 60.0


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


class Stream:
    """A stream of a device, which is done with what it is asked for at once, or, while it is `busy`, when it is told so."""

    busy = False

    made: ClassVar[list[object]] = []  # of which devices

    def __init__(self, device: object = None) -> None:
        self.done: list[threading.Event] = []
        self.made.append(device)

    def wait_event(self, event: "Done") -> None:
        pass

    def record_event(self) -> "Done":
        self.done.append(threading.Event())
        if not self.busy:
            self.done[-1].set()
        return Done(self.done[-1])

    def synchronize(self) -> None:
        pass


class Done:
    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def synchronize(self) -> None:
        assert self._event.wait(GIVE_UP_S)


class Made:
    """A batch on the device, with its maps."""

    def __init__(self, number: int) -> None:
        self.number = number


class Cuda:
    """A device."""

    type = "cuda"


@pytest.fixture
def computing(monkeypatch: pytest.MonkeyPatch) -> Stream:
    """The stream that a device computes on."""
    computing = Stream()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: computing)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    return computing


def test_all_epochs_share_a_stream(computing: Stream) -> None:
    """Each of its own would keep the memory of its batches for itself."""
    device = Cuda()
    for _ in range(3):
        assert [batch.number for batch in on_device(iter([[Number(7)]]), device, lambda tensors: Made(tensors[0]))] == [7]  # type: ignore[arg-type, list-item, type-var]
    assert Stream.made.count(device) == 1


def test_two_batches_are_on_a_device_at_once(computing: Stream) -> None:
    """The one that computes and the next, which is there before that is asked for; none is let go of before the device is done with it."""
    computing.busy = True
    alive: weakref.WeakSet[Made] = weakref.WeakSet()
    made: list[list[int]] = []  # with each batch, which ones there are

    def make(tensors: list[int]) -> Made:
        batch = Made(tensors[0])
        alive.add(batch)
        made.append(sorted(each.number for each in alive))
        return batch

    batches = ([Number(number)] for number in range(6))
    found = []
    with closing(on_device(batches, Cuda(), make)) as arriving:  # type: ignore[arg-type, type-var]
        for number, batch in enumerate(arriving):
            found.append(batch.number)
            until(lambda next_one=number + 1: len(made) >= min(next_one, 6))  # type: ignore[misc]
            if number == 3:
                time.sleep(0.05)
                assert 2 in {each.number for each in alive}  # the device is not done with it
            if number:
                computing.done[number - 1].set()  # the device is through with the batch before
            until(lambda next_one=number + 2: len(made) >= min(next_one, 6))  # type: ignore[misc]
    assert found == list(range(6))
    assert made == [[0], [0, 1], [1, 2], [2, 3], [3, 4], [4, 5]]
    assert threads() == 0


class Number(int):
    """What goes to a device."""

    def to(self, _: object, non_blocking: bool) -> "Number":
        assert non_blocking
        return self


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + GIVE_UP_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


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
