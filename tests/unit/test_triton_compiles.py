"""The Triton kernels are compiled to machine code for devices that are not here; tests/gpu runs them."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.sparse.backends.triton_engine import CONV, GRAD, fitting

SHARED_BYTES = {75: 64 << 10, 80: 163 << 10, 90: 227 << 10}  # that a block may have


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_every_tiling_compiles_and_fits(tmp_path: Path) -> None:
    """In a process of its own: here kernels may have been made for the interpreter."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.triton_compiling"]
    found = subprocess.run(
        command, env=kept | {"TRITON_CACHE_DIR": str(tmp_path)}, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr[-2000:]
    kernels = [json.loads(line) for line in found.stdout.splitlines()]
    assert {kernel["tiling"] for kernel in kernels} == {str(tiling) for tiling in (*CONV, *GRAD)}
    for kernel in kernels:
        assert kernel["shared"] <= SHARED_BYTES[kernel["capability"]], kernel
        assert kernel["matrix_units"] == (kernel["dtype"] != "fp32" or kernel["precision"].startswith("tf32")), kernel


def test_narrow_layers_are_not_measured_on_wide_tilings() -> None:
    for tilings in (CONV, GRAD):
        narrow = fitting(tilings, 16, 32)
        assert narrow
        assert all(tiling.out <= 32 and tiling.inner <= 32 for tiling in narrow.values())
        assert set(narrow.values()) < set(tilings)
        assert tuple(fitting(tilings, 256, 256).values()) == tilings
        assert all(fitting(tilings, cin, cout) for cin in (1, 3, 33, 512) for cout in (1, 19, 40, 100))
    wide = fitting(CONV, 64, 40)
    assert max(tiling.out for tiling in wide.values()) == 64
