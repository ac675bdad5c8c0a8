"""What each engine does on this machine: does it run, is it right, how fast is it. The choice of an engine rests on this.

Right means: every tap meets its offset (an impulse through each of the 27), and forward, both gradients and the tied filter agree
with the reference engine in float64; on CUDA, where each precision has kernels of its own, in those that are to be used. There each kernel
is run in the first way that works, and not measured against others: compiling them all takes minutes.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from models.manifest import Precision
from models.rounding import AUTOCAST, rounding
from models.sparse.backends.apart import why_not
from models.sparse.backends.protocol import Engine
from models.sparse.backends.reference import ReferenceEngine
from models.sparse.backends.turns import untuned
from models.sparse.kernel_map import KernelMap, kernel_offsets
from models.sparse.tying import tied_filter

Precisions = tuple[Precision, ...]

LARGEST_ERRORS: dict[Precision, float] = {"fp32": 1e-4, "tf32": 5e-3, "fp16": 5e-3, "bf16": 4e-2}  # relative to the largest value
FULL: Precisions = ("fp32",)
RAGGED = (3, 19)  # channels that fill no block
FOREIGN = ("torchsparse",)  # native code that is not ours
SIDE, CHANNELS, ROUNDS = 24, 64, 7
MARGIN = 1.5  # times faster than the engine that is preferred; less may be noise, and would change the last bits from run to run


@dataclass(frozen=True)
class EngineReport:
    """forward_ms: one 3×3×3 convolution, 64 to 64 channels, of the probe's surface, in fp32; the quickest of a few, maps not counted.

    max_rel_error: largest difference from float64 over the largest value, forward, gradients and tied filter, in the first precision
    that it was judged by. taps_right: of 27.
    """

    name: str
    works: bool
    reason: str
    detail: str = ""
    forward_ms: float | None = None
    max_rel_error: float | None = None
    taps_right: int | None = None


def judged(device: torch.device, precisions: Precisions) -> Precisions:
    """What an engine is judged by: on CUDA the precisions in use. On a CPU float32, whatever is: there it is mostly a choice by time."""
    return precisions if device.type == "cuda" else FULL


def probe_engines(engines: Mapping[str, Engine], device: torch.device, precisions: Precisions = FULL) -> dict[str, EngineReport]:
    """Look at each engine on a small surface. One that fails says how in its report. precisions: those that it is to be used in.

    They are timed in turns, and the quickest run of each counts, so that a machine busy with something else favours none.
    """
    with untuned():
        reports = {name: _checked(engine, device, judged(device, precisions)) for name, engine in engines.items()}
        runs = {name: _forward(engines[name], device) for name, report in reports.items() if report.works}
        times: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(ROUNDS + 1):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                if turn:
                    times[name].append((time.perf_counter() - start) * 1e3)
    return {name: replace(report, forward_ms=min(times[name])) if name in times else report for name, report in reports.items()}


def probe_engine(engine: Engine, device: torch.device, precisions: Precisions = FULL) -> EngineReport:
    """The report of one."""
    return probe_engines({engine.name: engine}, device, precisions)[engine.name]


def _checked(engine: Engine, device: torch.device, precisions: Precisions) -> EngineReport:
    """A report without a time."""
    if engine.name in FOREIGN and device.type == "cuda" and engine.runs(device, torch.float32):
        versions = f"{engine.detail()} torch-{torch.__version__} {torch.cuda.get_device_name(device)} {' '.join(precisions)}"
        reason = why_not(engine.name, device, versions, precisions)
        if reason is not None:
            return EngineReport(engine.name, False, reason, engine.detail())
    return checked(engine, device, precisions)


def checked(engine: Engine, device: torch.device, precisions: Precisions) -> EngineReport:
    """A report without a time, from this process."""
    if not engine.runs(device, torch.float32):
        return EngineReport(engine.name, False, engine.unavailable() or f"does not run on {device.type}")
    detail = ""
    try:
        with untuned():
            detail = engine.detail()
            taps = _taps_right(engine, device)
            errors = {precision: _largest_error(engine, device, precision) for precision in precisions}
    except Exception as failure:  # a library or a compiler of kernels has errors of its own
        return EngineReport(engine.name, False, f"failed on the probe: {failure}", detail)
    wrong = [f"{taps} of 27 taps"] if taps < 27 else []
    for precision, error in errors.items():
        if not error <= LARGEST_ERRORS[precision]:  # nor NaN
            wrong.append(f"error {error:.2g} in {precision}, at most {LARGEST_ERRORS[precision]:g} is allowed")
    reason = f"wrong here: {', '.join(wrong)}" if wrong else "right"
    return EngineReport(engine.name, not wrong, reason, detail, None, errors[precisions[0]], taps)


def fastest(reports: Mapping[str, EngineReport], preferred: tuple[str, ...]) -> tuple[str, str]:
    """The first working engine of `preferred`, unless another is faster by a margin; and why. Raises: RuntimeError (none works)."""
    first, best, gain = _first_and_best(reports, preferred)
    if gain >= MARGIN:
        return best, f"{gain:.1f}x as fast as {first} here"
    others = [report.forward_ms for name, report in reports.items() if name != first and report.forward_ms]
    if not others:
        return first, "right; the others that may be chosen do not work"
    return first, f"right, and {min(others) / (reports[first].forward_ms or 1.0):.1f}x as fast as the next"


def first_right(reports: Mapping[str, EngineReport], preferred: tuple[str, ...]) -> tuple[str, str]:
    """The first working engine of `preferred`, and why; it says so where another is faster. Raises: RuntimeError (none works)."""
    first, best, gain = _first_and_best(reports, preferred)
    if best == first:
        return fastest(reports, preferred)
    return first, f"right, and preferred; {best} is {gain:.1f}x as fast on the probe: --engine {best} takes it"


def _first_and_best(reports: Mapping[str, EngineReport], preferred: tuple[str, ...]) -> tuple[str, str, float]:
    """The first that works, the fastest one, and how many times as fast it is."""
    working = [name for name in preferred if reports[name].works]
    if not working:
        raise RuntimeError(f"no engine works here: {'; '.join(report.reason for report in reports.values())}")
    first, best = working[0], min(working, key=lambda name: reports[name].forward_ms or 0.0)
    return first, best, (reports[first].forward_ms or 0.0) / (reports[best].forward_ms or 1.0)


def _surface(device: torch.device) -> torch.Tensor:
    """Sites (S, 4) of two wavy sheets in a box of SIDE³ cells, ascending."""
    grid = torch.cartesian_prod(torch.arange(2), *[torch.arange(SIDE)] * 3)
    height = (grid[:, 1] / 4).sin() * 3 + (grid[:, 2] / 5).cos() * 3 + SIDE / 2 + grid[:, 0]
    return grid[(grid[:, 3] - height).abs() < 1].int().to(device)


def _map(engine: Engine, coords: torch.Tensor, tied: str = "") -> KernelMap:
    whole = engine.kernel_map(engine.index(coords), coords, 3, 1)
    return engine.tie(whole, tied) if tied else whole


def _taps_right(engine: Engine, device: torch.device) -> int:
    """An impulse in the middle of a full cube, through one tap after the other: how many come out where their offset says."""
    cube = torch.cartesian_prod(torch.arange(1), *[torch.arange(5)] * 3).int().to(device)
    impulse = (cube[:, 1:] == 2).all(1, keepdim=True).float()
    kernel_map = _map(engine, cube)
    right = 0
    for tap, offset in enumerate(kernel_offsets(3)):
        weight = torch.zeros(27, 1, 1, device=device)
        weight[tap] = 1
        out = engine.conv(impulse, weight, kernel_map, products=torch.float32)
        right += cube[out[:, 0] != 0, 1:].tolist() == [[2 - step for step in offset]]
    return right


def _largest_error(engine: Engine, device: torch.device, precision: Precision) -> float:
    """Of full blocks, and of some that are not. NaN where anything is."""
    return float(torch.stack([_error(engine, device, precision, *channels) for channels in ((CHANNELS, CHANNELS), RAGGED)]).max())


def _error(engine: Engine, device: torch.device, precision: Precision, cin: int, cout: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coords, reference = _surface(device), ReferenceEngine()
    feats, grad = (torch.randn(len(coords), channels, generator=generator).to(device) for channels in (cin, cout))
    weight = torch.randn(27, cin, cout, generator=generator).to(device)
    errors = []
    for tied in ("", "y"):
        filters = (tied_filter(weight, tied) if tied else weight).contiguous()
        ours, theirs = _map(engine, coords, tied), _map(reference, coords, tied)
        for run in _three_ways(feats, filters, grad):
            with rounding(device, precision):
                found = run(engine, ours, torch.float32, AUTOCAST.get(precision, torch.float32))
            expected = run(reference, theirs, torch.float64, torch.float64)
            errors.append((found.double() - expected).abs().max() / expected.abs().max())
    return torch.stack(errors).max()


Run = Callable[[Engine, KernelMap, torch.dtype, torch.dtype], torch.Tensor]  # by an engine, of features of a dtype, products in another


def _three_ways(feats: torch.Tensor, filters: torch.Tensor, grad: torch.Tensor) -> tuple[Run, Run, Run]:
    """Forward, gradient of the input (on the same map: sites are the same) and gradient of the weight."""
    return (
        lambda engine, kernel_map, dtype, products: engine.conv(feats.to(dtype), filters.to(dtype), kernel_map, products=products),
        lambda engine, kernel_map, dtype, products: engine.conv(
            grad.to(dtype), filters.to(dtype), kernel_map, products=products, transpose=True
        ),
        lambda engine, kernel_map, dtype, products: engine.weight_grad(feats.to(dtype), grad.to(dtype), kernel_map, products=products),
    )


def _forward(engine: Engine, device: torch.device) -> Callable[[], None]:
    """What is timed."""
    coords = _surface(device)
    kernel_map = _map(engine, coords)
    feats = torch.randn(len(coords), CHANNELS, generator=torch.Generator().manual_seed(0)).to(device)
    packed = engine.pack(torch.full((27, CHANNELS, CHANNELS), 0.01, device=device), torch.float32)

    def run() -> None:
        engine.conv(feats, packed, kernel_map, products=torch.float32)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run
