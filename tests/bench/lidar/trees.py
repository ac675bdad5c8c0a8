"""What boosted trees make of a labelled scan, point by point, from hand-made features: a bar that a net has to pass.

N points, L classes, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier

from models.labels import IGNORE
from models.pointcloud import PointCloud
from tests.bench.lidar.features import point_features
from training.datasets.scenes import Scene, Scenes
from training.metrics import Confusion


@dataclass(frozen=True)
class TreeSpec:
    """How the trees are grown. The values were chosen on sequence 00 alone, trees of one half of its street against the other half:
    the mean mIoU of both ways is 35.4 %, of those tried at first (10,000 points a class, weight_power 0.5, 100 rounds of 31 leaves) 32.8 %.

    per_class: points of a class that are drawn, of all scenes together. weight_power: a class of n points weighs n ** (1 - weight_power),
    so 0 is as it occurs and 1 all alike.
    """

    intensity: bool = True
    per_class: int = 40_000
    weight_power: float = 0.0
    rounds: int = 200
    learning_rate: float = 0.1
    leaves: int = 7
    l2: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Trees:
    """A classifier of single points."""

    spec: TreeSpec
    booster: HistGradientBoostingClassifier

    def segment(self, cloud: PointCloud) -> npt.NDArray[np.int64]:
        """One class per point (N,). Raises: ValueError (no intensity, and the trees need it)."""
        _, features = point_features(cloud, intensity=self.spec.intensity)
        return np.asarray(self.booster.predict(features), np.int64)


def baseline(train: Sequence[Scene], test: Sequence[Scene], num_classes: int, spec: TreeSpec | None = None) -> list[Confusion]:
    """Grow trees on some scenes, segment others: what became of the points of each of these."""
    trees = grow(train, num_classes, spec or TreeSpec())
    return [Confusion.of(trees.segment(scene.cloud), scene.labels, num_classes) for scene in test]


def grow(scenes: Sequence[Scene], num_classes: int, spec: TreeSpec) -> Trees:
    """Trees from the labelled points of all scenes; the same for the same seed."""
    rows = _draw([scene.labels for scene in scenes], num_classes, spec)
    features = np.concatenate(
        [point_features(scene.cloud, intensity=spec.intensity)[1][taken] for scene, taken in zip(scenes, rows, strict=True)]
    )
    targets = np.concatenate([scene.labels[taken] for scene, taken in zip(scenes, rows, strict=True)])
    occurs = sum(np.bincount(scene.labels[scene.labels != IGNORE], minlength=num_classes) for scene in scenes)
    drawn = np.bincount(targets, minlength=num_classes)
    weights = np.maximum(occurs, 1) ** (1 - spec.weight_power) / np.maximum(drawn, 1)  # (L,) of a point
    booster = HistGradientBoostingClassifier(
        learning_rate=spec.learning_rate,
        max_iter=spec.rounds,
        max_leaf_nodes=spec.leaves,
        l2_regularization=spec.l2,
        early_stopping=False,
        random_state=spec.seed,
    )
    return Trees(spec, booster.fit(features, targets, sample_weight=weights[targets] / weights[targets].mean()))


def _draw(labels: Sequence[npt.NDArray[np.int64]], num_classes: int, spec: TreeSpec) -> list[npt.NDArray[np.int64]]:
    """Rows of each scene: up to per_class points of every class from all scenes together."""
    rng = np.random.default_rng(spec.seed)
    together = np.concatenate(labels)
    drawn = [rng.permutation(np.flatnonzero(together == each))[: spec.per_class] for each in range(num_classes)]
    taken = np.sort(np.concatenate(drawn))
    starts = np.cumsum([0, *map(len, labels)])
    return [taken[(taken >= start) & (taken < stop)] - start for start, stop in pairwise(starts)]


def read(scenes: Scenes) -> list[Scene]:
    return [scenes.scene(index) for index in range(len(scenes))]
