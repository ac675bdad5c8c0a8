"""Whole nets on a device, from coordinates and features to scores, kernel maps included; and how exact each engine is there."""

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from models.manifest import Precision
from models.rounding import rounding
from models.sparse.backends import ENGINES, PREFERRED
from models.sparse.backends.protocol import Engine
from models.sparse.backends.reference import ReferenceEngine
from tests.bench.engine import nets
from tests.bench.engine.evaluation import TIES, Subject
from tests.bench.engine.timing import row, say
from tests.bench.engine.workloads import Workload
from tests.bench.gpu.timing import medians
from tests.bench.report import Row

CUDA = torch.device("cuda")
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "fp16", "bf16")
LARGEST_ERRORS = {torch.float32: 1e-4, torch.float16: 5e-3}
CHANNELS = 64
NINE_TAPS, ALL_TAPS = 1.3, 1.0  # times as fast as torchsparse
SCAN_MS = 25.0


def engines() -> dict[str, Engine]:
    """Those that there are for CUDA."""
    return {name: ENGINES[name] for name in PREFERRED["cuda"] if ENGINES[name].unavailable() is None}


def on_device(workload: Workload) -> Workload:
    return replace(workload, coords=workload.coords.to(CUDA), feats=workload.feats.to(CUDA))


def scores(net: nn.Module, workload: Workload, engine: Engine, precision: Precision) -> Callable[[], torch.Tensor]:
    """An evaluation as the service does it."""

    @torch.inference_mode()
    def run() -> torch.Tensor:
        with rounding(CUDA, precision):
            found: torch.Tensor = net(workload.tensor(engine))
        return found.float()

    return run


def net_rows(subject: Subject, rounds: int) -> list[Row]:
    """Milliseconds of every engine in every precision, and what is to be had by nine taps, against torchsparse."""
    workload, rows = on_device(subject.workload), []
    ms: dict[tuple[str, str, str], float] = {}
    for tie in TIES:
        for precision in PRECISIONS:
            say(f"{subject.name}, {tie}, {precision}")
            nets_here = {name: nets.prepared(getattr(subject, tie)).to(CUDA) for name in engines()}
            runs = {name: scores(net, workload, engines()[name], precision) for name, net in nets_here.items()}
            for name, seconds in medians(runs, rounds).items():
                ms[name, tie, precision] = 1e3 * seconds
                rows.append(row(f"{subject.name}_{tie}_{precision}_{name}_ms", 1e3 * seconds, "ms"))
    if {"torchsparse", "triton"} <= engines().keys():  # torchsparse knows no tied filters: all taps
        theirs = ms["torchsparse", "untied", "fp16"]
        for tie, bar in (("tied", NINE_TAPS), ("untied", ALL_TAPS)):
            rows.append(row(f"{subject.name}_{tie}_fp16_triton_vs_torchsparse", theirs / ms["triton", tie, "fp16"], "x", least=bar))
    best = min(found for (_, tie, precision), found in ms.items() if (tie, precision) == ("tied", "fp16"))
    if subject.name.startswith("unet_C"):
        rows.append(row(f"{subject.name}_best_fp16_ms", best, "ms", most=SCAN_MS))
    return rows


def exactness_rows(subject: Subject) -> list[Row]:
    """Every engine against the reference in float64 on the CPU: one layer forward, back and dW; then the net's scores."""
    workload, here, rows = subject.workload, on_device(subject.workload), []
    reference, generator = ReferenceEngine(), torch.Generator().manual_seed(0)
    feats, grad = (torch.randn(len(workload.coords), CHANNELS, generator=generator) for _ in range(2))
    weight = torch.randn(27, CHANNELS, CHANNELS, generator=generator) / (27 * CHANNELS) ** 0.5
    theirs = workload.tensor(reference).sites.kernel_map(1, 3, 1)
    exact = {"products": torch.float64}
    wide = [each.double() for each in (feats, grad, weight)]
    expected = (
        reference.conv(wide[0], wide[2], theirs, **exact),
        reference.conv(wide[1], wide[2], theirs, transpose=True, **exact),
        reference.weight_grad(wide[0], wide[1], theirs, **exact),
    )
    with torch.inference_mode():
        plain = copy.deepcopy(subject.untied).double()(replace(workload, feats=workload.feats.double()).tensor(reference))
    for name, engine in engines().items():
        ours = here.tensor(engine).sites.kernel_map(1, 3, 1)
        x, g, w = (each.to(CUDA) for each in (feats, grad, weight))
        for products, bar in LARGEST_ERRORS.items():
            found = (
                engine.conv(x, w, ours, products=products),
                engine.conv(g, w, ours, products=products, transpose=True),
                engine.weight_grad(x, g, ours, products=products),
            )
            worst = max(_error(a, b) for a, b in zip(found, expected, strict=True))
            rows.append(row(f"{subject.workload.name}_layer_{name}_{str(products).removeprefix('torch.')}_error", worst, "", most=bar))
        net = nets.prepared(subject.untied).to(CUDA)
        for precision in PRECISIONS:
            error = _error(scores(net, here, engine, precision)(), plain)
            rows.append(row(f"{subject.name}_scores_{name}_{precision}_error", error, ""))
    return rows


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the largest value."""
    return float((found.double().cpu() - expected).abs().max() / expected.abs().max())
