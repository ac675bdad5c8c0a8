"""The default engine where nothing was compiled: gather, the fastest product found on this machine, scatter. Any device, any dtype."""

import torch

from models.sparse.backends.gemm import matmul_weight
from models.sparse.backends.protocol import Epilogue, Packed
from models.sparse.backends.reference import ReferenceEngine, finish, pairs_of_taps, with_lines
from models.sparse.kernel_map import KernelMap


class TorchEngine(ReferenceEngine):
    name = "torch"

    def pack(self, weight: torch.Tensor, products: torch.dtype) -> Packed:
        taps, cin, cout = weight.shape
        return Packed(self.name, (taps, cin, cout), weight.to(products).transpose(1, 2).contiguous(), products)

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
        if isinstance(weight, Packed):
            filters = weight.data  # (K, Cout, Cin)
        else:
            filters = (weight if transpose else weight.transpose(1, 2)).to(products).contiguous()
        rows = with_lines(feats, kernel_map).to(products)
        centre = kernel_map.identity_tap
        if centre is None:
            out = feats.new_zeros(kernel_map.num_out, filters.shape[1])
        else:
            out = matmul_weight(rows, filters[centre]).to(feats.dtype)
        for tap, in_rows, out_rows in pairs_of_taps(kernel_map):
            if tap != centre:
                out.index_add_(0, out_rows.long(), matmul_weight(rows.index_select(0, in_rows), filters[tap]).to(feats.dtype))
        return finish(out, epilogue)

    def weight_grad(self, feats: torch.Tensor, grad: torch.Tensor, kernel_map: KernelMap, *, products: torch.dtype) -> torch.Tensor:
        out = grad.new_zeros(len(kernel_map.sizes), feats.shape[1], grad.shape[1])
        rows, grad = with_lines(feats, kernel_map).to(products), grad.to(products)
        for tap, in_rows, out_rows in pairs_of_taps(kernel_map):
            if tap == kernel_map.identity_tap:
                out[tap] = rows.t() @ grad
            else:
                out[tap] = rows.index_select(0, in_rows).t() @ grad.index_select(0, out_rows)
        return out
