"""What a forward pass holds on a device, counted on the CPU: every tensor that is alive, with maps laid out as the Triton engine has them.

What an allocator adds, and what is on a device but in no tensor, is not counted.
"""

from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.sparse import tying
from models.sparse.backends.protocol import Epilogue, Packed, SiteIndexLike
from models.sparse.backends.torch_engine import TorchEngine, with_lines
from models.sparse.kernel_map import KernelMap
from models.sparse.search import SiteIndex, all_at_once


class LaidOut(TorchEngine):
    """It computes nothing, and has all that the Triton engine has while it does."""

    def kernel_map(self, index: SiteIndexLike, out_coords: torch.Tensor, kernel_size: int, stride: int) -> KernelMap:
        assert isinstance(index, SiteIndex)
        centre = kernel_size**3 // 2 if stride == 1 and kernel_size % 2 else None
        return all_at_once(index, index.keys(out_coords, stride), kernel_size, centre)

    def conv(
        self,
        feats: torch.Tensor,
        weight: torch.Tensor | Packed,
        kernel_map: KernelMap,
        *,
        products: torch.dtype,
        transpose: bool = False,
        epilogue: Epilogue | None = None,
    ) -> torch.Tensor:
        rows, _ = with_lines(feats, kernel_map, products).contiguous(), kernel_map.sources_by_likeness
        assert len(rows) >= kernel_map.num_in
        return feats.new_zeros(kernel_map.num_out, weight.shape[1 if transpose else 2])


def laid_out_as_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps of tied filters, too."""
    monkeypatch.setattr(tying, "_cached", lambda _: False)


class Live(TorchDispatchMode):
    """peak: the most bytes that what was made since was alive with."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., object], types: Sequence[type], args: Sequence[object] = (), kwargs: Mapping[str, object] | None = None
    ) -> object:
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                self._live.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self._live = {key: (ref, size) for key, (ref, size) in self._live.items() if not ref.expired()}
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return found
