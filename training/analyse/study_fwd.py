"""fwd: how far the features of a model are from those of the image net that it came from, and the page that says so."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from models.resnet3d import SHAPES, ResNet3d
from training.analyse.asked import Asked, command, show
from training.analyse.features import HOOKS, Hook
from training.analyse.fwd import Row, compare, means, sample_layers
from training.analyse.image_net import image_net
from training.analyse.images import CIFAR, IMAGENET, Photographs, View, find_photographs, read_image
from training.analyse.pages import Analysis, short, table
from training.analyse.plots import distances
from training.analyse.subject import BATCH, Subject
from training.datasets import Clouds
from training.image_weights import ImageWeights, load_image_weights

OWN, INFLATED, FRESH = "this model", "inflated, not finetuned", "untrained net"
TITLES = {"convolution": "At the output of the convolution", "norm": "After its batch norm"}


def fwd_study(subject: Subject, asked: Asked, weights: str, folders: Sequence[Path], scalars: int, about: str | None = None) -> Analysis:
    """Distances of every main-path convolution, beside two controls and the noise. Raises: BadWeights, InflationError, BadDataset."""
    image = load_image_weights(weights)
    flat = image_net(subject.manifest.network.name, image)
    view = CIFAR if SHAPES[subject.manifest.network.name].shortcut == "mean_pad" else IMAGENET
    photographs = find_photographs(folders)
    shown = show(subject, asked)
    clouds = shown.clouds.take(np.random.default_rng(asked.seed).permutation(len(shown.clouds)))  # halves of the same classes
    nets = {OWN: subject.net, INFLATED: subject.inflated(image, asked.seed), FRESH: subject.untrained(asked.seed)}
    points = {name: sample_layers(net, cloud_passes(net, subject, clouds), scalars, asked.seed) for name, net in nets.items()}
    pixels = sample_layers(flat, image_passes(flat, photographs, view), scalars, asked.seed + 1)
    rows = compare(points, pixels, OWN)
    fewest = min(len(sample.first) for sample in (*pixels.values(), *points[OWN].values()))
    summed = {hook: means(rows, hook) for hook in HOOKS}
    lines = [
        f"First-Wasserstein distance (W1) between the values that the {len(rows) // len(HOOKS)} main-path 3×3 convolutions take on point "
        f"clouds in the 3D net and on photographs in the 2D net that its filters come from: {fewest:,} scalars a layer and side, drawn "
        f"from all positions (occupied voxels alone) and channels together. Source: Image2Point, arXiv v1, A.8.",
        f"Shown: {shown}; {_said_of(photographs, view, about)}. {_origin(subject, image)}",
        f"*{INFLATED}*: the same 2D filters copied into 3D as finetuning found them, with the image net's batch norms and a fresh stem. "
        f"*{FRESH}*: fresh weights, batch norms that never saw data. Both are one draw. *zeros*: a net whose every value "
        "is 0; what is no nearer than that has not come near. *Noise*: W1 of two disjoint samples of the same "
        "values, points and images; nothing below it means anything. *Halves*: W1 between two halves of the clouds, or of the photographs: "
        "what others of their kind might have changed (too small where both have pictures of one scene). "
        "*σ*: standard deviation of the image net's values.",
        *(part for hook in HOOKS for part in _section(hook, rows, summed[hook])),
        "A small distance alone is no evidence that anything was transferred: in the paper a net trained from scratch is nearer to the "
        "image net (0.15) than one with frozen filters (0.27).",
    ]
    inputs = {
        "seed": asked.seed,
        "settings": {"scalars": scalars, "resize": view.resize, "crop": view.crop},
        "weights_2d": {"name": image.name, "sha256": image.sha256},
        "images": {
            "photographs": {path.name: digest for path, digest in zip(photographs.paths, photographs.sha256, strict=True)},
            "sha256": photographs.digest,
            "left_out": photographs.left_out,
            "about": about,
        },
        "data": [shown.facts],
    }
    results: dict[str, object] = {
        hook: [_facts(row) for row in (*(row for row in rows if row.hook == hook), summed[hook])] for hook in HOOKS
    }
    said_about = [f"--about {shlex.quote(about)}"] if about else []
    said = command("fwd", subject, asked, f"--weights {image.name} --images PHOTOGRAPHS --scalars {scalars}", *said_about)
    title = f"fwd: how far is {subject.manifest.name} from its image net?"
    alt = "W1 of every layer for the model, the inflated and the untrained net, over the noise"
    return Analysis(f"fwd-{subject.manifest.name}", title, said, inputs, results, lines, distances(rows, OWN), alt)


def cloud_passes(net: ResNet3d, subject: Subject, clouds: Clouds) -> Iterator[Callable[[], object]]:
    """The net on every cloud, in batches: at least eight, so that both halves have some."""
    for batch in subject.batches(clouds, min(BATCH, -(-len(clouds) // 8))):
        yield partial(net.features, batch)


def image_passes(net: torch.nn.Module, photographs: Photographs, view: View) -> Iterator[Callable[[], object]]:
    for path in photographs.paths:
        yield partial(net, read_image(path, view)[None])


def _table(rows: Sequence[Row], mean: Row) -> str:
    names = list(mean.distances)
    head = [
        "layer",
        *(f"W1, {name}" for name in names),
        "W1, zeros",
        "noise: points, images",
        "halves: points, images",
        "σ",
        "W1/σ, this model",
    ]
    return table(head, [_cells(row) for row in (*rows, mean)])


def _section(hook: Hook, rows: Sequence[Row], mean: Row) -> list[str]:
    share = 1 - mean.distances[OWN] / mean.zeros
    how = f"{share:.0%} nearer to the image net than zeros are" if share > 0 else f"{-share:.0%} farther from the image net than zeros are"
    found = f"In the mean over layers this model is {how}."
    return [f"## {TITLES[hook]}", _table([row for row in rows if row.hook == hook], mean), found]


def _cells(row: Row) -> list[str]:
    pairs = [", ".join(short(value) for value in both) for both in (row.floors, row.halves)]
    values = [short(value) for value in row.distances.values()]
    values[0] = f"**{values[0]}**"
    return [row.layer, *values, short(row.zeros), *pairs, short(row.deviation), short(row.distances[OWN] / row.deviation)]


def _facts(row: Row) -> dict[str, object]:
    noise = {"noise_points": row.floors[0], "noise_images": row.floors[1], "halves_points": row.halves[0], "halves_images": row.halves[1]}
    return {"layer": row.layer, "w1": dict(row.distances), "zeros": row.zeros, **noise, "image_deviation": row.deviation}


def _said_of(photographs: Photographs, view: View, about: str | None) -> str:
    kinds = f": {about}" if about else ""
    few = ", few for the values of a whole image net: the column of halves says what that costs" if len(photographs) < 1000 else ""
    return (
        f"{len(photographs):,} photographs{kinds} (sha256 of all `{photographs.digest[:16]}`), shorter side scaled to {view.resize}, "
        f"the middle {view.crop} × {view.crop}{few}"
    )


def _origin(subject: Subject, image: ImageWeights) -> str:
    made = subject.manifest.provenance
    if made.weights_2d_sha256 == image.sha256:
        return f"The 2D net is `{image.name}`, the very file that this model was inflated from."
    start = f"was inflated from `{made.weights_2d}`" if made.weights_2d else f"did not start from an image net (init {made.init})"
    return f"**The 2D net is `{image.name}`, but this model {start}.**"
