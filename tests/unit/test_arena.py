"""Results of layers reuse the memory of earlier ones, and only what nothing can see any more."""

import gc
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from models.sparse.backends.arena import SMALLEST_BYTES, Arena, size_class

COUNT = 12_000_000  # 48 MB of float32: what the C library gives back at once


def test_a_freed_block_is_used_again_in_any_thread() -> None:
    arena, seen = Arena(), []

    def layer() -> None:
        seen.append(arena.empty(COUNT).fill_(1).data_ptr())

    layer()
    layer()
    worker = threading.Thread(target=layer)
    worker.start()
    worker.join()
    assert len(set(seen)) == 1
    assert seen[0] % 64 == 0
    assert arena.kept_bytes == size_class(4 * COUNT)


@pytest.mark.parametrize("how", ["view", "gradient", "numpy"])
def test_a_block_lives_as_long_as_anything_on_it(how: str) -> None:
    """Also where only PyTorch's own graph still holds it."""
    arena = Arena()
    tensor = arena.empty(1000, 1000).fill_(3)
    if how == "gradient":
        factor = torch.ones(1000, 1000, requires_grad=True)
        product = factor * tensor  # saves the tensor for backward
        del tensor
        gc.collect()
        arena.empty(1000, 1000).fill_(7)
        product.sum().backward()
        assert factor.grad is not None
        assert bool((factor.grad == 3).all())
        return
    kept = tensor[5:, 1:].t() if how == "view" else tensor.numpy()
    del tensor
    gc.collect()
    other = arena.empty(1000, 1000).fill_(7)
    assert bool((kept == 3).all())
    del kept, other
    gc.collect()
    assert arena.kept_bytes == 2 * size_class(4_000_000)


def test_what_is_kept_is_bounded() -> None:
    arena = Arena(kept_bytes=100 << 20)
    blocks = [arena.empty(COUNT) for _ in range(5)]
    assert arena.kept_bytes == 0
    del blocks
    assert 0 < arena.kept_bytes <= 100 << 20


@pytest.mark.parametrize("wanted", [SMALLEST_BYTES, SMALLEST_BYTES + 1, 12345678, (1 << 30) - 1, 1 << 33])
def test_sizes_are_rounded_up_by_an_eighth_at_most(wanted: int) -> None:
    assert wanted <= size_class(wanted) <= wanted * 9 // 8
    assert size_class(size_class(wanted)) == size_class(wanted)


def test_defaults_of_torch_do_not_matter() -> None:
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        with torch.device("meta"):
            for shape in ((3, 4), (600, 700)):
                tensor = Arena().empty(*shape)
                assert (tensor.dtype, tensor.device.type, tensor.shape) == (torch.float32, "cpu", shape)
    finally:
        torch.set_default_dtype(before)
    assert Arena().empty(0, 5).shape == (0, 5)
    assert Arena().empty(1 << 20, 2, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_what_is_kept_is_given_back_when_memory_runs_out() -> None:
    """In a process that may hold half a gigabyte: kept blocks of one size leave no room for one of another."""
    code = """
import resource
from models.sparse.backends.arena import Arena
arena = Arena()
block = arena.empty(300 << 18)
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
del block
assert arena.kept_bytes >= 300 << 20
resource.setrlimit(resource.RLIMIT_AS, (size + (50 << 20),) * 2)
other = arena.empty(200 << 18)
assert arena.kept_bytes == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
