"""Implicit matrix products in Triton: rows are gathered tap by tap while they are multiplied, and sums stay in registers.

T output rows, K taps, C channels, P pairs. Sums are float32; factors are of the dtype of the rows. Imported only where Triton is.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_out", "taps", "has_bias", "has_residual", "relu"])
def conv_kernel(
    rows,
    weight,
    sources,
    order,
    bias,
    residual,
    out,
    num_out,
    cin,
    cout,
    tap_stride,
    in_stride,
    out_stride,
    taps,
    has_bias,
    has_residual,
    relu,
    precision: tl.constexpr,
    block_rows: tl.constexpr,
    block_out: tl.constexpr,
    block_in: tl.constexpr,
):
    """out[order[m]] = Σ_k rows[sources[k, m]] @ weight[k], + bias, + residual, ReLU; a source of -1 adds nothing.

    A tap that no row of the block reads is passed over: `order` puts rows that read the same taps side by side. What is not a
    constant is not compiled anew for each layer.
    """
    m = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    n = tl.program_id(1) * block_out + tl.arange(0, block_out)
    inside, in_columns = m < num_out, n < cout
    sums = tl.zeros((block_rows, block_out), dtype=tl.float32)
    for _ in range(taps):
        source = tl.load(sources + m, mask=inside, other=-1)
        there = source >= 0
        if tl.max(source, axis=0) >= 0:
            start = source.to(tl.int64) * cin
            for first in range(0, cin, block_in):
                k = first + tl.arange(0, block_in)
                left = tl.load(rows + start[:, None] + k[None, :], mask=there[:, None] & (k < cin)[None, :], other=0.0)
                where = weight + k[:, None] * in_stride + n[None, :] * out_stride
                right = tl.load(where, mask=(k < cin)[:, None] & in_columns[None, :], other=0.0)
                sums = tl.dot(left, right, sums, input_precision=precision)
        sources += num_out  # pointers have 64 bits: the tables of 80 million rows have more than 2³¹ elements
        weight += tap_stride
    row = tl.load(order + m, mask=inside, other=0).to(tl.int64)
    place = row[:, None] * cout + n[None, :]
    kept = inside[:, None] & in_columns[None, :]
    if has_bias != 0:
        sums += tl.load(bias + n, mask=in_columns, other=0.0)[None, :]
    if has_residual != 0:
        sums += tl.load(residual + place, mask=kept, other=0.0)
    if relu != 0:
        sums = tl.where(sums < 0, 0.0, sums)  # NaN stays
    tl.store(out + place, sums, mask=kept)


@triton.jit(do_not_specialize=["taps", "splits"])
def weight_grad_kernel(
    rows,
    grads,
    in_rows,
    out_rows,
    starts,
    out,
    cin,
    cout,
    taps,
    splits,
    precision: tl.constexpr,
    block_in: tl.constexpr,
    block_out: tl.constexpr,
    block_pairs: tl.constexpr,
):
    """out[split, tap] = Σ over its share of the tap's pairs of rows[i]ᵀ grads[o]: (splits, K, Cin, Cout)."""
    tap, split = tl.program_id(0) // splits, tl.program_id(0) % splits
    i = tl.program_id(1) * block_in + tl.arange(0, block_in)
    o = tl.program_id(2) * block_out + tl.arange(0, block_out)
    start, stop = tl.load(starts + tap), tl.load(starts + tap + 1)
    share = tl.cdiv(tl.cdiv(stop - start, splits), block_pairs) * block_pairs
    first = start + split * share
    last = tl.minimum(first + share, stop)
    sums = tl.zeros((block_in, block_out), dtype=tl.float32)
    for pair in range(first, last, block_pairs):
        p = pair + tl.arange(0, block_pairs)
        inside = p < last
        source = tl.load(in_rows + p, mask=inside, other=0).to(tl.int64)
        target = tl.load(out_rows + p, mask=inside, other=0).to(tl.int64)
        left = tl.load(rows + source[None, :] * cin + i[:, None], mask=inside[None, :] & (i < cin)[:, None], other=0.0)
        right = tl.load(grads + target[:, None] * cout + o[None, :], mask=inside[:, None] & (o < cout)[None, :], other=0.0)
        sums = tl.dot(left, right, sums, input_precision=precision)
    place = out + ((split * taps + tap).to(tl.int64) * cin + i[:, None]) * cout + o[None, :]
    tl.store(place, sums, mask=(i < cin)[:, None] & (o < cout)[None, :])
