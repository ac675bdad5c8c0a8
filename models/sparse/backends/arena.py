"""Memory for the results of engines on a CPU, used again by the next layer.

The C library hands a block of more than 32 MB back to the system as soon as it is freed and takes new, empty pages for the next one:
47,000 page faults for one forward pass on a LiDAR scan. Here freed blocks stay, up to a bound, whatever thread they were made in; the
user sets nothing. A block comes back when the last tensor, view or gradient on it is gone, wherever in PyTorch that was.
"""

import math
import weakref
from collections import defaultdict, deque

import numpy as np
import numpy.typing as npt
import torch

SMALLEST_BYTES = 1 << 20  # below, the C library keeps freed memory by itself
KEPT_BYTES = 1 << 30  # of free blocks; what is freed beyond goes back to the system
ALIGNMENT = 64
Block = npt.NDArray[np.uint8]


class Arena:
    """Thread-safe: a free list is a deque, whose ends are taken and added to in one step."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._most = kept_bytes
        self._free: defaultdict[int, deque[Block]] = defaultdict(deque)  # by size

    @property
    def kept_bytes(self) -> int:
        """Bytes of the blocks that wait to be used again."""
        return sum(size * len(blocks) for size, blocks in list(self._free.items()))

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """An uninitialised tensor on the CPU, whatever PyTorch's default dtype and device are."""
        count = math.prod(shape)
        wanted = count * dtype.itemsize
        if wanted < SMALLEST_BYTES:
            return torch.empty(shape, dtype=dtype, device="cpu")
        size = size_class(wanted)
        try:
            block = self._free[size].pop()
        except IndexError:
            block = self._new(size + ALIGNMENT)
        start = -block.ctypes.data % ALIGNMENT
        view = block[start : start + wanted]  # PyTorch holds this array, and drops it with the storage
        weakref.finalize(view, self._take_back, size, block).atexit = False
        return torch.from_numpy(view).view(dtype).view(shape)

    def release(self) -> None:
        """Hand all free blocks back to the system."""
        self._free.clear()

    def _new(self, size: int) -> Block:
        """Raises: MemoryError."""
        try:
            return np.empty(size, np.uint8)
        except MemoryError:  # what is kept here may be what is missing
            self.release()
            return np.empty(size, np.uint8)

    def _take_back(self, size: int, block: Block) -> None:
        self._free[size].append(block)
        while self.kept_bytes > self._most:
            largest = max((size for size, blocks in list(self._free.items()) if blocks), default=0)
            try:
                self._free[largest].popleft()
            except IndexError:  # another thread took it
                return


def size_class(wanted: int) -> int:
    """Bytes of the block for so many: at most an eighth more, so that layers of about the same size share blocks."""
    step = 1 << max(wanted.bit_length() - 4, 0)
    return -(-wanted // step) * step


ARENA = Arena()
