"""Batches on their way to a device: the next one is made, copied and has its kernel maps built while the last one computes."""

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from queue import Empty, Full, Queue
from typing import TypeVar

import torch

Item = TypeVar("Item")
Tensors = list[torch.Tensor]
POLL_S = 0.1  # how soon the thread notices that nobody wants more


def ahead(items: Iterator[Item]) -> Generator[Item, None, None]:
    """The same items, in order, of which the next is made in a thread while one is used. What making one raises is raised in its place."""
    made: Queue[tuple[Item | None, BaseException | None]] = Queue(maxsize=1)
    enough = threading.Event()

    def put(item: Item | None, error: BaseException | None) -> None:
        while not enough.is_set():
            try:
                made.put((item, error), timeout=POLL_S)
            except Full:
                continue
            return

    def make() -> None:
        end: BaseException = StopIteration()
        try:
            for item in items:
                put(item, None)
                if enough.is_set():
                    return
        except BaseException as error:
            end = error
        put(None, end)

    thread = threading.Thread(target=make, name="fip-batches", daemon=True)
    thread.start()
    try:
        while True:
            item, error = made.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]  # None only beside an error
    finally:
        enough.set()
        _emptied(made)
        thread.join()


def on_device(batches: Iterator[Tensors], device: torch.device, make: Callable[[Tensors], Item]) -> Generator[Item, None, None]:
    """What `make` makes of the tensors of each batch, once they are on the device.

    To CUDA from pinned memory, made on a stream of their own: no batch waits for the one before. One is kept until the device is done
    with what was asked of it, whoever else lets go of it: its memory belongs to that other stream, which does not wait, either.
    """
    if device.type != "cuda":
        for tensors in batches:
            yield make([tensor.to(device) for tensor in tensors])
        return
    computing = torch.cuda.current_stream(device)
    before: tuple[Item, torch.cuda.Event] | None = None
    try:
        with closing(ahead(_made(batches, device, make))) as arriving:
            for item, arrived in arriving:
                computing.wait_event(arrived)
                yield item
                if before is not None:
                    before[1].synchronize()  # no further ahead than by one
                before = item, computing.record_event()
    finally:
        computing.synchronize()


def _made(batches: Iterator[Tensors], device: torch.device, make: Callable[[Tensors], Item]) -> Iterator[tuple[Item, torch.cuda.Event]]:
    copying = torch.cuda.Stream(device)
    for tensors in batches:
        with torch.cuda.stream(copying):
            item = make([tensor.to(device, non_blocking=True) for tensor in tensors])
            arrived = copying.record_event()
        yield item, arrived


def _emptied(queue: Queue[tuple[Item | None, BaseException | None]]) -> None:
    try:
        while True:
            queue.get_nowait()
    except Empty:
        return
