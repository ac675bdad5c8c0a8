"""Time a voxel as inputs grow, and the memory that an evaluation takes."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from models.sparse.backends import engine_named
from models.sparse.backends.protocol import Engine
from models.sparse.nn import SparseConv3d
from models.sparse.tensor import SparseTensor
from tests.bench.engine import workloads
from tests.bench.engine.evaluation import OURS, Subject
from tests.bench.engine.timing import medians, row
from tests.bench.report import Row

CHANNELS = 32
LAYER_SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
NET_SIZES = (10_000, 100_000, 1_000_000)
BAR = 1.6
Curve = dict[int, float]  # seconds a voxel by number of voxels
Runs = dict[tuple[str, int], Callable[[], object]]  # by name and number of voxels


def layer_growth(rounds: int, sizes: tuple[int, ...]) -> tuple[list[Row], dict[str, Curve]]:
    """One k3 layer of 32 channels, maps included, two threads. The largest size is left to the native engine."""
    torch.manual_seed(workloads.SEED)
    layer = SparseConv3d(CHANNELS, CHANNELS).requires_grad_(False)
    runs: Runs = {}
    for size in sizes:
        sheet = workloads.wavy_sheet(size, CHANNELS)
        for name, engine in OURS.items():
            if name == "native" or size < LAYER_SIZES[-1]:
                runs[f"one layer, {name}", len(sheet.coords)] = partial(_layer, layer, sheet, engine_named(engine))
    with torch.inference_mode():
        curves = _curves(runs, rounds)
    return [_growth("time_per_voxel_growth", sizes[1], sizes[-1], curves["one layer, native"])], curves


def _layer(layer: SparseConv3d, sheet: workloads.Workload, engine: Engine) -> SparseTensor:
    out: SparseTensor = layer(sheet.tensor(engine))
    return out


def net_growth(rounds: int, subject: Subject, sizes: tuple[int, ...]) -> tuple[list[Row], dict[str, Curve]]:
    """The classification net with tied filters, maps included, two threads, native engine."""
    runs: Runs = {}
    for size in sizes:
        sheet = workloads.wavy_sheet(size, 3)
        runs["ResNet18 tied, native", len(sheet.coords)] = replace(subject, workload=sheet).run("tied", engine_named("native"))
    curves = _curves(runs, rounds)
    return [_growth("net_growth", sizes[0], sizes[-1], curves["ResNet18 tied, native"])], curves


def _curves(runs: Runs, rounds: int) -> dict[str, Curve]:
    """All sizes in turn, so that a slow minute of the machine does not look like growth."""
    names = {f"{name} {voxels}": (name, voxels) for name, voxels in runs}
    seconds = medians({each: runs[key] for each, key in names.items()}, 2, rounds)
    curves: dict[str, Curve] = {}
    for each, (name, voxels) in names.items():
        curves.setdefault(name, {})[voxels] = seconds[each] / voxels
    return curves


def _growth(name: str, small: int, large: int, curve: Curve) -> Row:
    def at(size: int) -> float:
        return curve[min(curve, key=lambda voxels: abs(voxels - size))]

    short = [f"{size:.0e}".replace("+0", "") for size in (small, large)]
    return row(f"{name}_{short[0]}_to_{short[1]}", at(large) / at(small), "x", most=BAR)


def memory_rows() -> list[Row]:
    """Peak memory of one evaluation in a process of its own, above what the process held before it."""
    return [
        row(f"{name}_eval_2t_{tie}_peak_mb", _peak_mb(name, tie), "MB") for name in SUBJECTS for tie in ("native_tied", "native_untied")
    ]


def _peak_mb(subject: str, engine_and_tie: str) -> float:
    command = [sys.executable, "-m", "tests.bench.engine.growth", subject, *engine_and_tie.split("_")]
    found = subprocess.run(command, check=True, capture_output=True, text=True, env=dict(os.environ))
    return float(found.stdout)


SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    "cls_A": lambda data: Subject.classifier(data, workloads.objects(data)),
    "unet_B": lambda data: Subject.unet(data, workloads.room(data), 13),
    "unet_C": lambda data: Subject.unet(data, workloads.scan(data), 19),
}


def _memory_mb(kind: str) -> float:
    """VmRSS or VmHWM of this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(kind))


def _measure_memory(subject: str, engine: str, tie: str) -> None:
    torch.set_num_threads(2)
    run = SUBJECTS[subject](workloads.data_dir()).run(tie, engine_named(engine))
    ctypes.CDLL(None).malloc_trim(0)  # what earlier work left in the heap would be used again, unseen
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts anew from here
    before = _memory_mb("VmRSS")
    run()
    sys.stdout.write(f"{_memory_mb('VmHWM') - before:.1f}\n")


if __name__ == "__main__":
    _measure_memory(*sys.argv[1:])
