"""Weights of the MinkowskiEngine net Res16UNet34C, as PointContrast trained it: 3D kernels, copied into our `res16unet34c`.

Two things differ: names, and the order of taps. MinkowskiEngine has two orders, and a file does not say which is its own:
`cube`, x fastest; `hybrid`, the centre first, then what each axis adds to the taps so far. PointContrast's blocks are
hybrid, their 2×2×2 convolutions cube; MinkowskiEngine 0.5 and what was ported to it have cubes only, under the same names.
The public code of Image2Point (chenfengxu714/image2point) copies a file's taps as if they were torchsparse's: `reference` does as it does.

Sources: facebookresearch/PointContrast, pretrain/pointcontrast/model/res16unet.py (names), model/modules/common.py (hybrid blocks);
NVIDIA/MinkowskiEngine v0.4.3, src/region.cpp (cube), MinkowskiEngine/Common.py, convert_region_type (hybrid);
mit-han-lab/torchsparse v1.2.0 (reference: x fastest in kernels of odd size, z fastest in those of even size).
K = k³ taps, Cin and Cout channels.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Literal

import torch

from models.sparse.kernel_map import kernel_offsets

Taps = Literal["hybrid", "cube", "reference"]
Offset = tuple[int, int, int]
_BLOCK = re.compile(r"block([1-4])\.(\d+)\.(conv\d|norm\d|downsample\.[01])(?:\.bn)?\.(\w+)")
_DOWN = re.compile(r"conv([234])p\ds2\.kernel")
_DOWN_NORM = re.compile(r"bn([234])\.bn\.(\w+)")


def is_minkowski(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether these are the weights of a net of MinkowskiEngine, which calls the weight of a convolution `kernel`."""
    return any(name.endswith(".kernel") for name in tensors)


def from_minkowski(tensors: Mapping[str, torch.Tensor], taps: Taps) -> dict[str, torch.Tensor]:
    """The same weights by our names and in our order of taps: kernels (K, Cin, Cout), of one tap too.

    taps: the order of the blocks' kernels and, if `reference`, of all. Stem, decoder and head keep their names; no net here has them.
    """
    return dict(_ours(name, tensor, taps) for name, tensor in tensors.items())


def offsets(kernel_size: int, taps: Taps) -> list[Offset]:
    """Offsets (dx, dy, dz) of the k³ taps in one of the orders. Kernels of even size reach forward only."""
    steps = sorted({dx for dx, _, _ in kernel_offsets(kernel_size)})
    if taps == "reference" and kernel_size % 2 == 0:
        return kernel_offsets(kernel_size)
    if taps in ("cube", "reference"):
        return [(dx, dy, dz) for dz in steps for dy in steps for dx in steps]
    found = [[0, 0, 0]]
    for axis in range(3):
        found += [[*tap[:axis], step, *tap[axis + 1 :]] for tap in found for step in steps if step]
    return [(dx, dy, dz) for dx, dy, dz in found]


def heaviest_at_centre(kernels: Iterable[torch.Tensor]) -> tuple[int, int]:
    """Of the 3×3×3 ones (27, Cin, Cout), in our order, how many are heaviest at their centre, and how many there are.

    The centre is the one tap that always meets a voxel, so training should leave it the heaviest mostly; if it is so in few, the order
    was probably another one.
    """
    cubes = [kernel for kernel in kernels if len(kernel) == 27]
    return sum(int(cube.flatten(1).norm(dim=1).argmax()) == 13 for cube in cubes), len(cubes)


def _ours(name: str, tensor: torch.Tensor, taps: Taps) -> tuple[str, torch.Tensor]:
    if block := _BLOCK.fullmatch(name):
        stage, number, part, leaf = block.groups()
        leaf = "weight" if leaf == "kernel" else leaf
        return f"layer{stage}.{number}.{part.replace('norm', 'bn')}.{leaf}", _reordered(name, tensor, taps)
    if down := _DOWN.fullmatch(name):
        return f"ds{int(down[1]) - 1}.0.weight", _reordered(name, tensor, "cube" if taps == "hybrid" else taps)
    if norm := _DOWN_NORM.fullmatch(name):
        return f"ds{int(norm[1]) - 1}.1.{norm[2]}", tensor
    return name, tensor


def _reordered(name: str, tensor: torch.Tensor, taps: Taps) -> torch.Tensor:
    """(K, Cin, Cout) with taps in our order; (Cin, Cout), a kernel of one tap, becomes (1, Cin, Cout)."""
    if not name.endswith(".kernel"):
        return tensor
    if tensor.dim() == 2:
        return tensor.unsqueeze(0)
    kernel_size = round(len(tensor) ** (1 / 3))
    if tensor.dim() != 3 or kernel_size**3 != len(tensor):
        return tensor  # what is no cube fits nowhere, and is refused as such
    theirs = offsets(kernel_size, taps)
    return tensor[[theirs.index(offset) for offset in kernel_offsets(kernel_size)]]
