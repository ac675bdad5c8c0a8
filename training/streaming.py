"""Batches on their way to a device: the next one is made, copied and has its kernel maps built while the last one computes."""

import functools
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from queue import Empty, Full, Queue, SimpleQueue
from typing import TypeVar

import torch

from models.sparse.backends.turns import waited_for

Item = TypeVar("Item")
Tensors = list[torch.Tensor]
AT_ONCE = 2  # batches on a device: the one that computes and the next
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

    To CUDA from pinned memory, made on a stream of their own: no batch waits for the one before. There are two of them at a time, the
    one that computes and the next: another is made when the device is done with what was asked of the one before both. Until then that
    is kept, whoever else lets go of it: its memory belongs to the other stream, which does not wait, either.
    """
    if device.type != "cuda":
        for tensors in batches:
            yield make([tensor.to(device) for tensor in tensors])
        return
    computing = torch.cuda.current_stream(device)
    used = Used()
    before: tuple[Item, torch.cuda.Event] | None = None
    try:
        with closing(ahead(_made(batches, device, make, used))) as arriving, used:
            for item, arrived in arriving:
                if before is not None:
                    used.put(before)
                    before = None  # whoever computes lets go of it in this moment, too
                computing.wait_event(arrived)
                yield item
                before = item, computing.record_event()
                del item
    finally:
        computing.synchronize()


class Used:
    """Batches that all has been asked of, in order, each with what says that it is done."""

    def __init__(self) -> None:
        self._items: SimpleQueue[tuple[object, torch.cuda.Event] | None] = SimpleQueue()

    def put(self, item: tuple[object, torch.cuda.Event]) -> None:
        self._items.put(item)

    def one_is_done(self) -> bool:
        """Wait for the next one, and let go of it; False: there will be none."""
        item = self._items.get()
        if item is None:
            return False
        item[1].synchronize()
        return True

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._items.put(None)


def _made(
    batches: Iterator[Tensors], device: torch.device, make: Callable[[Tensors], Item], used: Used
) -> Iterator[tuple[Item, torch.cuda.Event]]:
    copying = _copying(device)
    for number, tensors in enumerate(batches):
        if number >= AT_ONCE and not used.one_is_done():
            return
        with waited_for(), torch.cuda.stream(copying):  # no kernel is measured beside it
            item = make([tensor.to(device, non_blocking=True) for tensor in tensors])
            arrived = copying.record_event()
            arrived.synchronize()
        yield item, arrived
        del item


@functools.cache
def _copying(device: torch.device) -> torch.cuda.Stream:
    """One for all epochs: memory that a batch had on one stream is not given to the batches of another."""
    return torch.cuda.Stream(device)


def _emptied(queue: Queue[tuple[Item | None, BaseException | None]]) -> None:
    try:
        while True:
            queue.get_nowait()
    except Empty:
        return
