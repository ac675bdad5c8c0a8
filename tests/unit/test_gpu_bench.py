"""The benchmark of a GPU as far as it goes without one: it says so at once, whatever is not installed, and its ratios have their bars."""

import os
import subprocess
import sys

from tests.bench.gpu.layers import _against_peers
from tests.bench.report import ROOT

START = """
import runpy, sys
sys.modules["spconv"] = None
sys.argv = ["bench_gpu"]
runpy.run_module("tests.bench.bench_gpu", run_name="__main__")
"""


def test_it_needs_a_gpu_and_nothing_that_is_not_installed() -> None:
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    found = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, env=hidden, cwd=ROOT, check=False)
    assert (found.returncode, found.stderr.splitlines()[-1]) == (1, "bench-gpu needs an NVIDIA GPU and a CUDA build of torch")


def test_our_kernels_have_the_same_bars_against_every_peer() -> None:
    seconds = {"triton_all_taps": 2e-3, "triton_nine_taps": 1e-3, "torch_nine_taps": 9e-3, "peer_spconv": 1.5e-3}
    rows = {row["name"]: (row["value"], row["bar"]) for row in _against_peers("layer_a", seconds)}
    assert rows["layer_a_triton_nine_taps_vs_spconv"][0] == 1.5
    assert rows["layer_a_triton_all_taps_vs_spconv"][0] == 0.75
    assert len(rows) == 2
    assert _against_peers("layer_a", {"torch_all_taps": 1.0, "peer_spconv": 1.0}) == []
