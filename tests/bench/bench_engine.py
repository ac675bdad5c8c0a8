"""Sparse convolution on a CPU: the engines against spconv, dense conv3d, our plain path and what the machine can do at most.

    FIP_DATA=... python -m tests.bench.bench_engine [--quick]

`--quick` runs everything once, leaves out the largest inputs and writes to build/bench only: it shows that the script works, not
how fast the engines are. `make bench-engine` installs the peers; one that is missing is an error, as is a native engine that
cannot be compiled.
"""

import argparse
import os
from pathlib import Path

import torch

from models.errors import BadOption
from models.sparse.backends import engine_named
from tests.bench import report
from tests.bench.engine import evaluation, exactness, growth, roofline, training_step, workloads
from tests.bench.engine.evaluation import OURS, Subject
from tests.bench.engine.timing import Machine, say
from tests.bench.report import Row

ROUNDS = 5
PAGE = report.ROOT / "docs" / "performance.md"


def main() -> None:
    parser = argparse.ArgumentParser(description="the engines against their peers")
    parser.add_argument("--quick", action="store_true", help="one round, no large inputs, results in build/bench only")
    quick = parser.parse_args().quick
    rounds = 1 if quick else ROUNDS
    load = os.getloadavg()[0]
    data = workloads.data_dir()
    engines_must_run()

    say("workloads and nets")
    objects, room, scan = workloads.objects(data), workloads.room(data), workloads.scan(data)
    classifier = Subject.classifier(data, objects)
    unets = [(Subject.unet(data, scan, 19), 0.08), (Subject.unet(data, room, 13), 0.05)]

    rows, machine = timed_rows(classifier, unets, rounds)
    say("exactness")
    rows += exactness.dense_rows() + exactness.whole_net_rows([classifier, unets[0][0]])
    rows += exactness.determinism_rows(classifier, 1 if quick else exactness.REPEATS)
    rows += exactness.bf16_rows([classifier, unets[0][0]], rounds) + exactness.layer_rows(classifier, rounds)
    points = roofline.layer_points(objects, rounds)
    say("growth")
    grown, curves = growth.layer_growth(rounds, growth.LAYER_SIZES[:3] if quick else growth.LAYER_SIZES)
    net_grown, net_curves = growth.net_growth(rounds, classifier, growth.NET_SIZES[:2] if quick else growth.NET_SIZES)
    rows += grown + net_grown
    say("memory")
    rows += growth.memory_rows()

    name, page = ("engine-quick", report.ROOT / "build" / "bench" / "engine-quick.md") if quick else ("engine", PAGE)
    pictures = page.parent / page.stem
    roofline.plot_roofline(points, machine, pictures / "roofline.svg")
    roofline.plot_growth(curves | net_curves, pictures / "growth.svg")
    rows.sort(key=lambda each: each["bar"] is None)  # those with a bar first
    report.write(name, about(rounds, [objects, room, scan], load), rows, page=page, after=after(pictures.name, points))


def engines_must_run() -> None:
    """Raises: BadOption (unknown engine, or one that does not run here)."""
    for name in OURS.values():
        if not engine_named(name).runs(torch.device("cpu"), torch.float32):
            raise BadOption(f"the engine {name!r} does not run here, so there is nothing to compare; see `fip doctor`", where="engine")


def timed_rows(classifier: Subject, unets: list[tuple[Subject, float]], rounds: int) -> tuple[list[Row], Machine]:
    """unets: with the bar on the time of their kernel maps."""
    say("A against spconv, one thread")
    rows = evaluation.against_spconv(classifier, rounds)
    say("A, two threads")
    found, machine = evaluation.classifier_rows(classifier, rounds)
    rows += found
    for subject, bar in unets:
        say(f"{subject.name}, two threads")
        rows += evaluation.unet_rows(subject, rounds, bar)
    say("training steps, one thread")
    return rows + training_step.rows(classifier, rounds), machine


def about(rounds: int, measured: list[workloads.Workload], load: float) -> str:
    parts = [
        "Sparse convolution on a CPU, in float32, from coordinates and features to scores: kernel maps are built anew in every run.",
        f"Medians of {rounds} interleaved runs after a warm-up; `1t`, `2t`: threads. `vs` is the peer's time over ours: above 1 we are "
        "faster. `native` is the engine in C, `pip` the one that needs no compiler. `tied` nets have inflated filters, which repeat "
        "themselves along an axis; in `untied` ones all 27 taps differ. `cls` is ResNet18 with image weights, 64 to 512 wide; `unet` "
        "has it as its encoder. `share_of_floor` is the time that the necessary products would take at the speed of the machine's best "
        "large product (`gemm_peak`: MKL or oneDNN, 2048³) over the time of everything; `at_the_floor` is the ratio that an "
        "engine would have at just that speed. spconv runs on one thread, because its sums are wrong with more; it is given the maps "
        "of strided 3×3×3 convolutions for nothing and counts with its norms folded or not, whichever is faster; in training with "
        "frozen filters it leaves their gradients out, though its own backward does not (`with_dW`). `torchmm` gathers, multiplies "
        "by torch.mm and scatters tap by tap.",
        "\n".join(f"- {each.name}: {each.about}" for each in measured),
        f"Load before the run: {load:.1f}. {processor()}",
    ]
    return "\n\n".join(parts)


def processor() -> str:
    """What tells one processor from another where its name does not."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    known = [f"{name} {fields[name]}" for name in ("model name", "cpu family", "model", "cpu MHz", "cache size") if name in fields]
    return f"Processor: {', '.join(known)}; torch uses {torch.backends.cpu.get_cpu_capability()}."


def after(pictures: str, points: list[roofline.Point]) -> str:
    """Plots, and the layers of the roofline in figures."""
    layers = {point.layer: {(each.engine, each.tied): each for each in points if each.layer == point.layer} for point in points}
    kinds = [(name, tied) for name in OURS for tied in (False, True)]
    head = "| layer | " + " | ".join(f"{name}, {'tied' if tied else 'all taps'}" for name, tied in kinds) + " |"
    body = [f"| {layer} | " + " | ".join(f"{found[kind].gflops:.0f}" for kind in kinds) + " |" for layer, found in layers.items()]
    table = "\n".join([head, "|---" * (len(kinds) + 1) + "|", *body])
    return (
        f"![Layers under the roofline]({pictures}/roofline.svg)\n\n![Time a voxel]({pictures}/growth.svg)\n\n"
        f"Layers of A, necessary GF/s on two threads, maps built beforehand:\n\n{table}\n\n"
    )


if __name__ == "__main__":
    main()
