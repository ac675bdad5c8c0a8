"""How far the engines are from dense conv3d and from the reference engine, and whether they answer the same bits every time."""

from collections.abc import Callable
from functools import partial

import torch

from models.sparse.backends import engine_named
from models.sparse.conv import sparse_conv
from models.sparse.tensor import sparse_tensor
from models.sparse.tying import repeat_filter
from tests.bench.engine.evaluation import OURS, TIES, Subject
from tests.bench.engine.timing import medians, row
from tests.bench.engine.workloads import SEED
from tests.bench.report import Row

SIDE, CHANNELS = 12, 32  # of the dense grid
REPEATS = 20


def dense_rows() -> list[Row]:
    """One k3 layer on a full and on a half-empty grid, whole and tied filters, every engine, against conv3d in float64."""
    generator = torch.Generator().manual_seed(SEED)
    whole = (torch.rand(27, CHANNELS, CHANNELS, generator=generator) - 0.5) * 2 / (CHANNELS * 27) ** 0.5
    worst = dict.fromkeys((*OURS, "reference"), 0.0)
    for occupied in (1.0, 0.5):
        grid = torch.rand(SIDE, SIDE, SIDE, generator=generator) < occupied
        sites = grid.nonzero()
        coords = torch.cat([torch.zeros(len(sites), 1, dtype=torch.int64), sites], dim=1).int()
        feats = torch.randn(len(sites), CHANNELS, generator=generator)
        for tied in ("", "x", "y", "z"):
            filters = whole[:9] if tied else whole
            expected = _dense(sites, feats, repeat_filter(filters, 3, tied))
            for name in worst:
                x = sparse_tensor(coords, feats, 1, engine_named(OURS.get(name, name)))
                found = sparse_conv(feats, filters, x.sites.route(1, 3, 1, tied=tied))
                worst[name] = max(worst[name], float((found - expected).abs().max()))
    total = row("parity_max_abs_dense", max(worst.values()), "", most=1e-5)
    return [total, *(row(f"parity_max_abs_dense_{name}", error, "") for name, error in worst.items())]


def _dense(sites: torch.Tensor, feats: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The same convolution with zeros at empty cells: sites (S, 3), feats (S, Cin), weight (27, Cin, Cout) -> (S, Cout) float64."""
    x, y, z = sites.T
    volume = torch.zeros(1, feats.shape[1], SIDE, SIDE, SIDE, dtype=torch.float64)
    volume[0, :, x, y, z] = feats.T.double()
    kernel = weight.double().permute(2, 1, 0).unflatten(2, (3, 3, 3))  # (Cout, Cin, 3, 3, 3)
    return torch.nn.functional.conv3d(volume, kernel, padding=1)[0][:, x, y, z].T


def whole_net_rows(subjects: list[Subject]) -> list[Row]:
    """Scores of whole nets on real data, as the service computes them, against every layer run plainly by the reference engine."""
    torch.set_num_threads(2)
    rows = []
    for subject in subjects:
        for tie in TIES:
            expected = subject.torchmm(tie)()
            for name, engine in OURS.items():
                error = float((subject.run(tie, engine_named(engine))() - expected).abs().max())
                rows.append(row(f"parity_max_abs_reference_{subject.name}_{name}_{tie}", error, ""))
    worst = max(float(str(each["value"])) for each in rows)
    return [row("parity_max_abs_reference_real", worst, "", most=1e-4), *rows]


def determinism_rows(subject: Subject, repeats: int = REPEATS) -> list[Row]:
    """1 where as many runs on one thread and as many on two all give the same bits."""
    rows = []
    for name, engine in OURS.items():
        same = all(_same_bits(subject.run(tie, engine_named(engine)), repeats) for tie in TIES)
        rows.append(
            row("deterministic_runs" if name == "native" else f"deterministic_runs_{name}", same, "", least=1 if name == "native" else None)
        )
    return rows


def _same_bits(run: Callable[[], torch.Tensor], repeats: int) -> bool:
    torch.set_num_threads(1)
    first = run()
    same = True
    for threads in (1, 2):
        torch.set_num_threads(threads)
        same = same and all(torch.equal(run(), first) for _ in range(repeats))
    return same


def bf16_rows(subjects: list[Subject], rounds: int) -> list[Row]:
    """Whole nets with tied filters in the native engine, two threads: factors of products in bfloat16 against float32."""
    rows = []
    for subject in subjects:
        runs = {str(bf16): subject.run("tied", engine_named("native"), bf16) for bf16 in (False, True)}
        seconds = medians(runs, 2, rounds)
        exact, low = (run() for run in runs.values())
        name = f"{subject.name}_eval_2t_native_tied_bf16"
        rows += [
            row(f"{name}_vs_fp32", seconds["False"] / seconds["True"], "x"),
            row(f"{name}_relative_error", float((low - exact).norm() / exact.norm()), ""),
            row(f"{name}_same_answers", float((low.argmax(1) == exact.argmax(1)).float().mean()), ""),
        ]
    return rows


def layer_rows(subject: Subject, rounds: int) -> list[Row]:
    """One k3 layer of the workload, 64 channels, two threads: dense conv3d over the whole volume, and products of bfloat16."""
    workload, native = subject.workload, engine_named("native")
    generator = torch.Generator().manual_seed(SEED)
    weight = (torch.rand(27, 64, 64, generator=generator) - 0.5) * 2 / (64 * 27) ** 0.5
    feats = torch.randn(len(workload.coords), 64, generator=generator)
    kernel_map = workload.tensor(native).sites.kernel_map(1, 3, 1)
    packed = {dtype: native.pack(weight, dtype) for dtype in (torch.float32, torch.bfloat16)}
    runs: dict[str, Callable[[], torch.Tensor]] = {
        str(dtype): partial(native.conv, feats, each, kernel_map, products=dtype) for dtype, each in packed.items()
    }
    b, x, y, z = workload.coords.long().T
    volume = torch.zeros(workload.batch_size, 64, *(int(axis.max()) + 1 for axis in (x, y, z)))
    volume[b, :, x, y, z] = feats
    kernel = weight.permute(2, 1, 0).unflatten(2, (3, 3, 3)).contiguous()
    runs["dense"] = partial(torch.nn.functional.conv3d, volume, kernel, padding=1)
    with torch.inference_mode():
        seconds = medians(runs, 2, rounds)
        exact, low = (runs[str(dtype)]() for dtype in packed)
    fp32 = seconds[str(torch.float32)]
    name = f"layer_{workload.name}_k3_c64_2t"
    return [
        row(f"{name}_native_vs_dense_conv3d", seconds["dense"] / fp32, "x"),
        row(f"{name}_native_bf16_vs_fp32", fp32 / seconds[str(torch.bfloat16)], "x"),
        row(f"{name}_native_bf16_relative_error", float((low - exact).norm() / exact.norm()), ""),
        row(f"{name}_native_ms", 1e3 * fp32, "ms"),
        row(f"{name}_dense_conv3d_ms", 1e3 * seconds["dense"], "ms"),
    ]
