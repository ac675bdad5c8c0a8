"""Batches on their way to a device: the next one is made and copied while the last one computes."""

import threading
from collections.abc import Generator, Iterator
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


def on_device(batches: Iterator[Tensors], device: torch.device) -> Generator[Tensors, None, None]:
    """The tensors of each batch on the device. To CUDA from pinned memory, on a stream of their own: no batch waits for the one before."""
    if device.type != "cuda":
        for tensors in batches:
            yield [tensor.to(device) for tensor in tensors]
        return
    with closing(ahead(_copied(batches, device))) as copies:
        for tensors, arrived in copies:
            computing = torch.cuda.current_stream(device)
            computing.wait_event(arrived)
            for tensor in tensors:
                tensor.record_stream(computing)  # its memory is not given away before that stream is done with it
            yield tensors


def _copied(batches: Iterator[Tensors], device: torch.device) -> Iterator[tuple[Tensors, torch.cuda.Event]]:
    copying = torch.cuda.Stream(device)
    for tensors in batches:
        with torch.cuda.stream(copying):
            moved = [tensor.to(device, non_blocking=True) for tensor in tensors]
            arrived = torch.cuda.Event()
            arrived.record(copying)
        yield moved, arrived


def _emptied(queue: Queue[tuple[Item | None, BaseException | None]]) -> None:
    try:
        while True:
            queue.get_nowait()
    except Empty:
        return
