"""Whole nets in evaluation: from coordinates and features to scores, kernel maps included, in every engine and in spconv."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from models.resnet3d import ResNet3d
from models.sparse.backends import engine_named
from models.sparse.backends.protocol import Engine
from tests.bench.engine import nets
from tests.bench.engine.timing import Machine, copies, gemms, medians, row
from tests.bench.engine.work import all_maps, gflop
from tests.bench.engine.workloads import Workload
from tests.bench.report import Row

Run = Callable[[], torch.Tensor]
OURS = {"native": "native", "pip": "torch"}  # what rows call the engines
TIES = ("tied", "untied")
LARGEST_RELATIVE_ERROR = 1e-3


@dataclass(frozen=True)
class Subject:
    """A net with tied filters, its copy with untied ones, and what they are run on."""

    name: str
    workload: Workload
    tied: nn.Module
    untied: nn.Module

    @classmethod
    def classifier(cls, data: Path, workload: Workload) -> "Subject":
        net = nets.classifier(data, workload)
        return cls(f"cls_{workload.name}", workload, net, nets.untied(net))

    @classmethod
    def unet(cls, data: Path, workload: Workload, num_classes: int) -> "Subject":
        net = nets.unet(data, workload, num_classes)
        return cls(f"unet_{workload.name}", workload, net, nets.untied(net))

    def run(self, tie: str, engine: Engine, bf16: bool = False) -> Run:
        """An evaluation as the service does it. bf16: factors of products in bfloat16."""
        net = nets.prepared(getattr(self, tie))  # a copy an engine, for each keeps filters in its own layout
        return lambda: _scores(net, self.workload, engine, bf16)

    def torchmm(self, tie: str) -> Run:
        """Our plain path: gather, torch.mm, scatter for each of all taps, then the norm, then the activation."""
        net = nets.plain(getattr(self, tie))
        return lambda: _scores(net, self.workload, engine_named("reference"))

    def ours(self) -> dict[str, Run]:
        return {f"{name} {tie}": self.run(tie, engine_named(engine)) for name, engine in OURS.items() for tie in TIES}

    def gflop(self, tie: str) -> float:
        net = nets.prepared(getattr(self, tie))
        return gflop(lambda engine: _scores(net, self.workload, engine))


@torch.inference_mode()
def _scores(net: nn.Module, workload: Workload, engine: Engine, bf16: bool = False) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        scores: torch.Tensor = net(workload.tensor(engine))
    return scores.float()


def against_spconv(subject: Subject, rounds: int) -> list[Row]:
    """One thread: both engines, spconv with norms folded and not, and the machine's best product."""
    from tests.bench.engine.spconv_peer import SpconvNet, one_thread  # whoever measures something else need not have it

    assert isinstance(subject.untied, ResNet3d)
    one_thread()
    peers = {"spconv": SpconvNet(subject.untied, subject.workload), "spconv folded": SpconvNet(subject.untied, subject.workload, fold=True)}
    peer_runs = {name: torch.inference_mode()(peer.forward) for name, peer in peers.items()}
    ours = subject.ours()
    expected = ours["native untied"]()
    for name, run in peer_runs.items():
        must_agree(name, run(), expected)
    seconds = medians({**ours, **peer_runs, **gemms(), **copies()}, 1, rounds)
    machine, spconv = Machine.of(seconds, 1), min(seconds["spconv"], seconds["spconv folded"])
    bars = {"native tied": 4.0, "native untied": 2.3, "pip tied": 3.0, "pip untied": 1.7}
    prefix = f"{subject.name}_eval_1t"
    rows = [row(f"{prefix}_{name.replace(' ', '_')}_vs_spconv", spconv / seconds[name], "x", least=bar) for name, bar in bars.items()]
    for tie in TIES:
        floor = subject.gflop(tie) / machine.gflops
        rows.append(row(f"{prefix}_{tie}_vs_spconv_at_the_floor", spconv / floor, "x"))
    rows.append(row(f"{prefix}_spconv_share_of_floor", subject.gflop("untied") / machine.gflops / spconv, ""))
    rows += [row(f"{prefix}_{name.replace(' ', '_')}_ms", 1e3 * seconds[name], "ms") for name in (*ours, *peer_runs)]
    return [*rows, row("gemm_peak_1t_gflops", machine.gflops, "GF/s")]


def must_agree(name: str, found: torch.Tensor, expected: torch.Tensor) -> None:
    """Raises: RuntimeError when a peer computes something else."""
    error = float((found - expected).abs().max() / expected.abs().max())
    if not error <= LARGEST_RELATIVE_ERROR:
        raise RuntimeError(f"{name} is off by {error:.2g} of the largest value; it cannot be compared with")


def classifier_rows(subject: Subject, rounds: int) -> tuple[list[Row], Machine]:
    """Two threads: how near the engines come to what the necessary products would take at the machine's best."""
    ours = subject.ours()
    maps = all_maps(nets.prepared(subject.tied), subject.workload, engine_named("native"))
    runs = {**ours, "torchmm": subject.torchmm("untied"), "maps": maps, **gemms(), **copies()}
    seconds = medians(runs, 2, rounds)
    machine = Machine.of(seconds, 2)
    rows = []
    for name, bar in (("native untied", 0.85), ("native tied", 0.75), ("pip untied", None), ("pip tied", None)):
        floor = subject.gflop(name.split()[1]) / machine.gflops
        rows.append(row(f"{subject.name}_eval_2t_{name.replace(' ', '_')}_share_of_floor", floor / seconds[name], "", least=bar))
    rows += _map_rows(subject, seconds, 0.15)
    rows += [row("gemm_peak_2t_gflops", machine.gflops, "GF/s"), row("copy_2t_gb_per_s", machine.bandwidth, "GB/s")]
    return rows + _ms_rows(subject, seconds, [*ours, "torchmm"]), machine


def unet_rows(subject: Subject, rounds: int, maps_bar: float) -> list[Row]:
    """Two threads: the engines against our plain path."""
    ours = subject.ours()
    maps = all_maps(nets.prepared(subject.tied), subject.workload, engine_named("native"))
    seconds = medians({**ours, "torchmm": subject.torchmm("untied"), "maps": maps, **gemms(), **copies()}, 2, rounds)
    rows = []
    for name, bar in (("native untied", 2.5), ("native tied", 3.3), ("pip untied", None), ("pip tied", None)):
        ratio = seconds["torchmm"] / seconds[name]
        rows.append(row(f"{subject.name}_eval_2t_{name.replace(' ', '_')}_vs_torchmm", ratio, "x", least=bar))
    for tie in TIES:
        floor = subject.gflop(tie) / Machine.of(seconds, 2).gflops
        rows.append(row(f"{subject.name}_eval_2t_{tie}_vs_torchmm_at_the_floor", seconds["torchmm"] / floor, "x"))
    return rows + _map_rows(subject, seconds, maps_bar) + _ms_rows(subject, seconds, [*ours, "torchmm"])


def _map_rows(subject: Subject, seconds: dict[str, float], bar: float) -> list[Row]:
    name = subject.workload.name
    share = seconds["maps"] / seconds["native tied"]
    return [row(f"maps_share_of_eval_{name}", share, "", most=bar), row(f"maps_{name}_2t_ms", 1e3 * seconds["maps"], "ms")]


def _ms_rows(subject: Subject, seconds: dict[str, float], names: list[str]) -> list[Row]:
    work = [row(f"{subject.name}_{tie}_gflop", subject.gflop(tie), "GFLOP") for tie in TIES]
    return work + [row(f"{subject.name}_eval_2t_{name.replace(' ', '_')}_ms", 1e3 * seconds[name], "ms") for name in names]
