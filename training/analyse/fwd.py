"""First-Wasserstein distance between the features of a 3D net and those of the 2D net that it was inflated from, layer by layer.

Source: Image2Point, arXiv v1, A.8 and its table of distances: values of every main-path convolution, all positions and channels of a
layer together, 15,000 scalars a side. The text does not say whether "pre-activation" is before or after the batch norm: both are
measured. (ImageNet's ResNet18, inflated and not finetuned, grows up to its last layer after the norms, as the paper's FIP-IO does, while
raw outputs fall there: it was probably after.) Beyond the paper: how far two samples of the same side lie apart, which is the smallest
distance that means anything.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from training.analyse.features import HOOKS, Hook, main_path, watching
from training.analyse.reservoir import Reservoir

Floats = npt.NDArray[np.floating]
SCALARS = 15_000
Sampled = dict[tuple[str, Hook], "LayerSample"]


def wasserstein(a: Floats, b: Floats) -> float:
    """W1 of two samples (n,), (m,) of scalars: the area between their distribution functions. NaN without any."""
    if not (len(a) and len(b)):
        return math.nan
    if len(a) == len(b):
        return float(np.abs(np.sort(a).astype(np.float64) - np.sort(b)).mean())
    a, b = np.sort(a), np.sort(b)
    values = np.sort(np.concatenate([a, b]).astype(np.float64))
    gaps = np.diff(values)
    above = np.searchsorted(a, values[:-1], "right") / len(a) - np.searchsorted(b, values[:-1], "right") / len(b)
    return float((np.abs(above) * gaps).sum())


@dataclass(frozen=True)
class LayerSample:
    """Scalars of one layer. first, second: two disjoint samples of all inputs; even, odd: samples of two halves of the inputs."""

    first: Floats
    second: Floats
    even: Floats
    odd: Floats
    seen: int

    @property
    def floor(self) -> float:
        """How far apart two samples of the same inputs lie."""
        return wasserstein(self.first, self.second)

    @property
    def halves(self) -> float:
        """How far apart two halves of the inputs lie: what other clouds, or other photographs, may change."""
        return wasserstein(self.even, self.odd)

    @property
    def deviation(self) -> float:
        return float(self.first.std())


@torch.inference_mode()
def sample_layers(net: nn.Module, passes: Iterable[Callable[[], object]], size: int, seed: int) -> Sampled:
    """`size` scalars (and as many more for the floor) of every main-path convolution, before and after its norm.

    passes: each runs the net once, on inputs of one half and of the other in turn.
    """
    keys = [(name, hook) for name in main_path(net) for hook in HOOKS]
    seeds = iter(np.random.default_rng(seed).spawn(3 * len(keys)))
    kept = {key: (Reservoir(2 * size, next(seeds)), (Reservoir(size, next(seeds)), Reservoir(size, next(seeds)))) for key in keys}
    turn = 0

    def keep(name: str, hook: Hook, values: torch.Tensor) -> None:
        every, halves = kept[name, hook]
        scalars = values.float().flatten().cpu().numpy()
        every.offer(scalars)
        halves[turn % 2].offer(scalars)

    with watching(net, keep):
        for turn, run in enumerate(passes):  # noqa: B007  # `keep` reads it
            run()
    return {key: _sample(every, *halves) for key, (every, halves) in kept.items()}


def _sample(every: Reservoir, even: Reservoir, odd: Reservoir) -> LayerSample:
    both = every.sample
    middle = len(both) // 2
    return LayerSample(both[:middle], both[middle : 2 * middle], even.sample, odd.sample, every.seen)


@dataclass(frozen=True)
class Row:
    """One layer at one hook. distances: of each 3D net to the image net; deviation: of the image net's values; zeros: W1 from them to 0.

    floors, halves: (points, images), see LayerSample.
    """

    layer: str
    hook: Hook
    distances: Mapping[str, float]
    deviation: float
    zeros: float
    floors: tuple[float, float]
    halves: tuple[float, float]

    @property
    def floor(self) -> float:
        """The larger of the two sides' floors."""
        return max(self.floors)


def compare(points: Mapping[str, Sampled], images: Sampled, model: str) -> list[Row]:
    """points: samples of each 3D net, by what it is called; `model` is the one whose floors are told."""
    rows = []
    for (layer, hook), image in images.items():
        own = points[model][layer, hook]
        distances = {name: wasserstein(sampled[layer, hook].first, image.first) for name, sampled in points.items()}
        floors, halves = (own.floor, image.floor), (own.halves, image.halves)
        rows.append(Row(layer, hook, distances, image.deviation, float(np.abs(image.first).mean()), floors, halves))
    return rows


def means(rows: Iterable[Row], hook: Hook) -> Row:
    """The mean over the layers of everything, as a row."""
    chosen = [row for row in rows if row.hook == hook]

    def mean(value: Callable[[Row], float]) -> float:
        return float(np.mean([value(row) for row in chosen]))

    distances = {name: float(np.mean([row.distances[name] for row in chosen])) for name in chosen[0].distances}
    floors = (mean(lambda row: row.floors[0]), mean(lambda row: row.floors[1]))
    halves = (mean(lambda row: row.halves[0]), mean(lambda row: row.halves[1]))
    return Row("mean", hook, distances, mean(lambda row: row.deviation), mean(lambda row: row.zeros), floors, halves)
