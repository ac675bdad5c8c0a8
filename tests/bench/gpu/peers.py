"""Layers of other libraries on a device, as fast as their own documentation has them: one submanifold convolution, maps made before.

A peer that is not installed is left out, and the page says so. S sites, C channels.
"""

from collections.abc import Callable, Mapping

import torch

from tests.bench.engine.workloads import Workload

Layer = Callable[[], torch.Tensor]  # one forward pass: (S, C)
Build = Callable[[Workload, torch.Tensor], Layer]  # of a workload on the device and features (S, C) in the dtype to compute in


def torchsparse_layer(workload: Workload, feats: torch.Tensor, *, ordered: bool = False) -> Layer:
    """ordered: rows by what they read, as its other modes have them."""
    import torchsparse
    from torchsparse import nn
    from torchsparse.nn import functional

    shared = functional.conv_config.get_default_conv_config()
    config = type(shared)(dict(shared) | {"ifsort": ordered})  # the default is one object for all
    coords = workload.coords.clone()
    coords[:, 1:] -= coords[:, 1:].amin(0)
    layer = nn.Conv3d(feats.shape[1], feats.shape[1], 3, config=config).to(feats.device, feats.dtype).eval()
    x = torchsparse.SparseTensor(feats, coords)

    def run() -> torch.Tensor:
        out: torch.Tensor = layer(x).feats
        return out

    return run


def torchsparse_sorted_layer(workload: Workload, feats: torch.Tensor) -> Layer:
    return torchsparse_layer(workload, feats, ordered=True)


def spconv_layer(workload: Workload, feats: torch.Tensor) -> Layer:
    import spconv.pytorch as spconv

    coords = workload.coords.clone()
    coords[:, 1:] -= coords[:, 1:].amin(0)
    shape = [int(size) + 1 for size in coords[:, 1:].amax(0)]
    layer = spconv.SubMConv3d(feats.shape[1], feats.shape[1], 3, bias=False, indice_key="sites").to(feats.device, feats.dtype).eval()
    x = spconv.SparseConvTensor(feats, coords.contiguous(), shape, workload.batch_size)
    indices = layer(x).indice_dict

    def run() -> torch.Tensor:
        again = spconv.SparseConvTensor(feats, x.indices, shape, workload.batch_size, indice_dict=indices)
        out: torch.Tensor = layer(again).features
        return out

    return run


def warpconvnet_layer(workload: Workload, feats: torch.Tensor) -> Layer:
    from warpconvnet.geometry.types.voxels import Voxels
    from warpconvnet.nn.modules.sparse_conv import SparseConv3d

    counts = torch.bincount(workload.coords[:, 0].cpu(), minlength=workload.batch_size)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    layer = SparseConv3d(feats.shape[1], feats.shape[1], 3, bias=False).to(feats.device, feats.dtype).eval()
    x = Voxels(workload.coords[:, 1:].contiguous(), feats, offsets=offsets)

    def run() -> torch.Tensor:
        out: torch.Tensor = layer(x).feature_tensor
        return out

    return run


PEERS: Mapping[str, tuple[str, Build]] = {
    "torchsparse": ("torchsparse", torchsparse_layer),
    "torchsparse_sorted": ("torchsparse", torchsparse_sorted_layer),
    "spconv": ("spconv", spconv_layer),
    "warpconvnet": ("warpconvnet", warpconvnet_layer),
}
