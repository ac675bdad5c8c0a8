"""One submanifold convolution of each width on real sites, in float16: our engines, with 27 taps and with nine, and the peers' layers."""

import functools
import importlib
from collections.abc import Callable

import torch

from models.sparse.tying import tied_filter
from tests.bench.engine.timing import row, say
from tests.bench.engine.workloads import Workload
from tests.bench.gpu.contenders import ALL_TAPS, CUDA, NINE_TAPS, engines, on_device
from tests.bench.gpu.peers import PEERS
from tests.bench.gpu.timing import medians
from tests.bench.report import Row

WIDTHS = (64, 128, 256)


def missing() -> dict[str, str]:
    """The packages of peers that cannot be imported, and why."""
    found = {}
    for package, _ in PEERS.values():
        try:
            importlib.import_module(package)
        except Exception as error:  # each library fails in its own way where it does not fit the machine
            found[package] = str(error) or type(error).__name__
    return found


def layer_rows(workload: Workload, rounds: int, absent: dict[str, str]) -> list[Row]:
    """absent: peers that are left out, and why; one that fails on this device is added."""
    here, rows = on_device(workload), list[Row]()
    for width in WIDTHS:
        say(f"layer {workload.name}{width}")
        feats = torch.randn(len(here.coords), width, device=CUDA)
        runs: dict[str, Callable[[], object]] = {}
        for name, engine in engines().items():
            weight = torch.randn(27, width, width, device=CUDA) / (27 * width) ** 0.5
            sites = here.tensor(engine).sites
            for kind, axes in (("all_taps", ""), ("nine_taps", "y")):
                kernel_map = sites.kernel_map(1, 3, 1, tied=axes)
                packed = engine.pack(tied_filter(weight, axes).contiguous() if axes else weight, torch.float16)
                runs[f"{name}_{kind}"] = functools.partial(engine.conv, feats, packed, kernel_map, products=torch.float16)
        for name, (package, build) in PEERS.items():
            if package in absent or name in absent:
                continue
            try:
                run = torch.no_grad()(build(here, feats.half()))
                run()
            except Exception as error:  # as above
                absent[name] = f"fails: {error}"
            else:
                runs[f"peer_{name}"] = run
        seconds = medians(runs, rounds)
        prefix = f"layer_{workload.name}{width}_fp16"
        rows += [row(f"{prefix}_{name}_us", 1e6 * found, "us") for name, found in seconds.items()] + _against_peers(prefix, seconds)
    return rows


def _against_peers(prefix: str, seconds: dict[str, float]) -> list[Row]:
    """How many times as fast as each peer that is here our kernels are."""
    return [
        row(f"{prefix}_triton_{kind}_vs_{peer.removeprefix('peer_')}", theirs / seconds[f"triton_{kind}"], "x", least=bar)
        for peer, theirs in seconds.items()
        for kind, bar in (("nine_taps", NINE_TAPS), ("all_taps", ALL_TAPS))
        if peer.startswith("peer_") and f"triton_{kind}" in seconds
    ]


def map_rows(workload: Workload, rounds: int) -> list[Row]:
    """The 27 taps of the finest level, the sites of the next one, and the map between them."""
    here = on_device(workload)

    def build(name: str) -> Callable[[], object]:
        def run() -> None:
            sites = here.tensor(engines()[name]).sites
            sites.kernel_map(1, 3, 1)
            sites.kernel_map(1, 3, 2)

        return run

    seconds = medians({name: build(name) for name in engines()}, rounds)
    return [row(f"maps_{workload.name}_{name}_ms", 1e3 * found, "ms") for name, found in seconds.items()]
