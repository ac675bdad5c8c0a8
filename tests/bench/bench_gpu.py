"""The engines on an NVIDIA GPU: against torchsparse, and spconv and WarpConvNet where they are installed; and the service there.

    FIP_DATA=... python -m tests.bench.bench_gpu [--quick] [--only nets,layers,exactness,training,service]

Writes docs/performance-gpu.md; with --quick or --only, build/bench/gpu-part.md. Without a device it is an error.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import packages_distributions, version

import torch

from models.sparse.backends import choose
from tests.bench import report
from tests.bench.engine import workloads
from tests.bench.engine.evaluation import Subject
from tests.bench.engine.timing import row, say
from tests.bench.gpu import contenders, layers, serving, training
from tests.bench.report import Row

PAGE = report.ROOT / "docs" / "performance-gpu.md"
PARTS = ("nets", "layers", "exactness", "training", "service")
ROUNDS = 20
PACKAGES = ("torch", "triton", "torchsparse", "spconv", "warpconvnet")


def main() -> None:
    parser = argparse.ArgumentParser(description="the engines on a GPU against their peers")
    parser.add_argument("--quick", action="store_true", help="three rounds, results in build/bench only")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    arguments = parser.parse_args()
    parts, rounds = arguments.only.split(","), 3 if arguments.quick else ROUNDS
    if set(parts) - set(PARTS):
        parser.error(f"--only takes some of {','.join(PARTS)}")
    if not torch.cuda.is_available():
        sys.exit("bench-gpu needs an NVIDIA GPU and a CUDA build of torch")
    data = workloads.data_dir()
    say("which engine")
    choice = choose("cuda")
    rows = [
        row(f"probe_{name}_ms", found.forward_ms, "ms")
        for name, found in choice.reports.items()
        if found.works and found.forward_ms is not None
    ]
    say("workloads and nets")
    objects, scan = workloads.objects(data), workloads.scan(data)
    classifier, unet = Subject.classifier(data, objects), Subject.unet(data, scan, 19)
    absent = layers.missing()
    made: dict[str, Callable[[], list[Row]]] = {
        "nets": lambda: contenders.net_rows(classifier, rounds) + contenders.net_rows(unet, rounds),
        "layers": lambda: [
            each for load in (objects, scan) for each in layers.layer_rows(load, rounds, absent) + layers.map_rows(load, rounds)
        ],
        "exactness": lambda: contenders.exactness_rows(classifier) + contenders.exactness_rows(unet),
        "training": lambda: training.rows(classifier, rounds),
        "service": lambda: serving.rows(data),
    }
    for part in parts:
        say(part)
        rows += made[part]()
    rows.sort(key=lambda each: each["bar"] is None)
    whole = not arguments.quick and set(parts) == set(PARTS)
    name, page = ("gpu", PAGE) if whole else ("gpu-part", report.ROOT / "build" / "bench" / "gpu-part.md")
    about = (
        f"Engine chosen on this device: {choice.name} ({choice.reason}).\n\n{description([objects, scan], rounds, absent)}\n\n{device()}"
    )
    report.write(name, about, rows, page=page)


def description(measured: list[workloads.Workload], rounds: int, absent: dict[str, str]) -> str:
    left_out = "; ".join(f"{package}: {why.splitlines()[0]}" for package, why in absent.items())
    loads = "\n".join(f"- {each.name}: {each.about}" for each in measured)
    return (
        "Sparse convolution on a GPU, from coordinates and features on the device to scores: kernel maps are built anew in every run. "
        f"Medians of {rounds} interleaved runs after a warm-up, each until the device is done. `tied` nets have inflated filters, which "
        "repeat themselves along an axis and take nine taps; in `untied` ones all 27 differ. `cls` is ResNet18, `unet` has it as its "
        "encoder. `torchsparse` is its hash table and its products under our layers, with norms folded into them, which its own layers do "
        "not do; `peer_torchsparse` is its own layer. Layers are timed with maps made before. Errors are the largest difference from "
        f"float64 on a CPU over the largest value.\n\n{loads}\n\nPeers that are not here: {left_out or 'none'}."
    )


def device() -> str:
    """Device, driver and versions."""
    found = torch.cuda.get_device_properties(0)
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "-i", "0"]
    driver = ""
    with suppress(OSError):  # a container may lack it
        driver = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    versions = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    memory = f"{found.total_memory / (1 << 30):.0f} GiB, compute capability {found.major}.{found.minor}"
    return f"Device: {found.name}, {memory}, driver {driver or 'unknown'}, CUDA {torch.version.cuda}; {versions}."


def _version(package: str) -> str:
    """Of whichever distribution brings the package: spconv has one for each CUDA."""
    names = packages_distributions().get(package, [])
    return ", ".join(f"{version(name)} ({name})" if name != package else version(name) for name in names) or "not installed"


if __name__ == "__main__":
    main()
