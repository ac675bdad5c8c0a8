"""Triton's kernels through its compiler to machine code for devices that are not here: python -m tests.triton_compiling.

Prints a line of JSON a kernel: device, dtype, tiling, bytes of shared memory, and whether matrix units multiply.
"""

import json
import sys
import warnings
from collections.abc import Iterator

from models.sparse.backends.triton_engine import CONV, GRAD, Tiling

POINTERS = {"fp32": "*fp32", "fp16": "*fp16", "bf16": "*bf16"}
TYPES = {
    "conv": {"sources": "*i32", "order": "*i64", "bias": "*fp32", "residual": "*fp32", "out": "*fp32"},
    "grad": {"in_rows": "*i32", "out_rows": "*i32", "starts": "*i64", "out": "*fp32"},
}


def cases() -> Iterator[tuple[int, str, str, str, Tiling]]:
    """Compute capability, dtype of the factors, precision, kernel, tiling: all tilings once, other dtypes with the first of each."""
    for kind, tilings in (("conv", CONV), ("grad", GRAD)):
        for tiling in tilings:
            yield 90, "fp16", "ieee", kind, tiling
        for capability, dtype, precision in (
            (80, "fp16", "ieee"),
            (90, "bf16", "ieee"),
            (90, "fp32", "tf32"),
            (80, "fp32", "tf32x3"),
            (90, "fp32", "tf32x3"),
            (75, "fp32", "ieee"),
        ):
            yield capability, dtype, precision, kind, tilings[0]


def main() -> None:
    from triton import compile as compiled
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from models.sparse.backends import triton_kernels

    for capability, dtype, precision, kind, tiling in cases():
        kernel = triton_kernels.conv_kernel if kind == "conv" else triton_kernels.weight_grad_kernel
        sizes = {"block_in": tiling.inner, "block_out": tiling.out, "block_rows": tiling.rows, "block_pairs": tiling.rows}
        constants = {name: value for name, value in {**sizes, "precision": precision}.items() if name in kernel.arg_names}
        types = dict.fromkeys(kernel.arg_names, "i32") | TYPES[kind] | dict.fromkeys(constants, "constexpr")
        types |= {name: POINTERS[dtype] for name in ("rows", "weight", "grads") if name in types}
        places = {name: (place,) for place, name in enumerate(kernel.arg_names)}
        aligned = [name for name in types if types[name].startswith("*") or name in ("cin", "cout", "tap_stride", "in_stride")]
        source = ASTSource(
            kernel,
            types,
            {places[name]: value for name, value in constants.items()},
            {places[name]: [["tt.divisibility", 16]] for name in aligned},
        )
        found = compiled(source, target=GPUTarget("cuda", capability, 32), options=tiling.options)
        assert found.asm["cubin"]
        said = {"capability": capability, "dtype": dtype, "precision": precision, "kernel": kind, "tiling": str(tiling)}
        matrix_units = any(name in found.asm["ptx"] for name in ("mma.sync", "wgmma"))
        sys.stdout.write(json.dumps({**said, "shared": found.metadata.shared, "matrix_units": matrix_units}) + "\n")


if __name__ == "__main__":
    warnings.simplefilter("error")
    main()
