"""What an engine does: kernel maps, and convolutions through them. One file beside this one for each engine.

S input rows, T output rows, K taps (or groups of tied taps), C channels. A weight is (K, Cin, Cout); taps in `kernel_offsets()`
order. Engines keep no state between calls: what they prepare from a weight lives in the `Packed` that the caller holds.
"""

from dataclasses import dataclass
from typing import Protocol

import torch

from models.sparse.backends.norms import Norms
from models.sparse.kernel_map import KernelMap


@dataclass(frozen=True)
class Epilogue:
    """What happens to the sums of a convolution before they are written: + bias (Cout,), + residual (T, Cout), ReLU."""

    bias: torch.Tensor | None = None
    residual: torch.Tensor | None = None
    relu: bool = False


@dataclass(frozen=True)
class Packed:
    """A weight in an engine's own layout: a snapshot that does not follow the tensor it was made from.

    shape: (K, Cin, Cout) as the convolution sees it. products: what the factors were rounded to.
    """

    engine: str
    shape: tuple[int, int, int]
    data: torch.Tensor
    products: torch.dtype


class SiteIndexLike(Protocol):
    """Sites of one level, ready to be searched. coords (S, 4) int32 [b, x, y, z]."""

    coords: torch.Tensor


class Engine(Protocol):
    """Every method is a pure function of its arguments, on the device of the tensors it is given."""

    name: str

    @property
    def norms(self) -> Norms:
        """How it normalises."""

    def unavailable(self) -> str | None:
        """Why this installation cannot use the engine at all; None where it can."""

    def detail(self) -> str:
        """What it found to run on, such as an instruction set or a product, for `fip doctor`."""

    def runs(self, device: torch.device, dtype: torch.dtype) -> bool:
        """Whether the engine takes features of this kind on this device."""

    def downsample(self, coords: torch.Tensor, stride: int) -> tuple[torch.Tensor, torch.Tensor]:
        """unique(floor(c / stride)), ascending, and the output row of every input row: (S, 4) -> (T, 4), (S,) int64."""

    def index(self, coords: torch.Tensor) -> SiteIndexLike:
        """Raises: ExtentTooLarge, ValueError (duplicate sites)."""

    def kernel_map(self, index: SiteIndexLike, out_coords: torch.Tensor, kernel_size: int, stride: int) -> KernelMap:
        """Pairs of a convolution from the indexed sites to `out_coords` (T, 4), which at stride 1 are those sites."""

    def tie(self, kernel_map: KernelMap, axes: str) -> KernelMap:
        """The map of a filter that is tied along these axes (see models.sparse.tying)."""

    def pack(self, weight: torch.Tensor, products: torch.dtype) -> Packed:
        """A snapshot of a weight for any number of calls of `conv`."""

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
        """out[o] = Σ over pairs (i, o) of tap k of feats[i] @ weight[k]: (S, Cin) -> (T, Cout), in the dtype of feats.

        products: the dtype that factors are rounded to; sums keep that of feats. transpose: use weight[k]ᵀ, of a weight
        (K, Cout, Cin). Shapes have been checked.
        """

    def weight_grad(self, feats: torch.Tensor, grad: torch.Tensor, kernel_map: KernelMap, *, products: torch.dtype) -> torch.Tensor:
        """dW[k] = Σ over pairs (i, o) of tap k of feats[i]ᵀ grad[o]: (S, Cin), (T, Cout) -> (K, Cin, Cout)."""
