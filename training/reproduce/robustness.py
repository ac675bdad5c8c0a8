"""`fip reproduce robustness`: what a classifier still knows of clouds that are thinned, noisy, cut, uneven or turned.

n points of a cloud in its unit sphere (centred on the mean, farthest point at 1), D test clouds. Every draw follows from the cloud's row
and the kind of damage, so that all models see the same clouds.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.artefact import read_manifest
from models.errors import BadDataset
from models.manifest import Axis, InputSpec
from models.pointcloud import PointCloud
from models.predictor import Predictor
from models.voxelize import prepare
from training.augment import UP, direction, rotation
from training.card_clouds import seen
from training.datasets import Clouds, read_split
from training.evaluate import BATCH
from training.progress import progress
from training.publish import code_version
from training.recipe import load_recipe
from training.reproduce.plots import plot_levels
from training.runstate import write_text
from training.train import RECIPE

Xyz = npt.NDArray[np.float64]
FEWEST_POINTS = 8


def thin(xyz: Xyz, share: float, up: int, rng: np.random.Generator) -> Xyz:
    """Without a share of the points."""
    return xyz[np.sort(rng.permutation(len(xyz))[: _left(len(xyz), share)])]


def jitter(xyz: Xyz, sigma: float, up: int, rng: np.random.Generator) -> Xyz:
    """Every coordinate off by a normal deviate."""
    return xyz + rng.normal(0, sigma, xyz.shape)


def occlude(xyz: Xyz, share: float, up: int, rng: np.random.Generator) -> Xyz:
    """Without the share of the points that lie farthest towards one side."""
    along = xyz @ direction(rng)
    return xyz[np.sort(np.argsort(along)[: _left(len(xyz), share)])]


def thin_unevenly(xyz: Xyz, strength: float, up: int, rng: np.random.Generator) -> Xyz:
    """Points are left out the more often the farther they lie towards one side: there by `strength`, at the other never."""
    rank = np.argsort(np.argsort(xyz @ direction(rng))) / (len(xyz) - 1)
    kept = rng.random(len(xyz)) >= strength * rank
    kept[np.argsort(rank)[:FEWEST_POINTS]] = True
    return xyz[kept]


def scatter(xyz: Xyz, share: float, up: int, rng: np.random.Generator) -> Xyz:
    """A share of the points is anywhere in the unit ball instead."""
    strays = rng.permutation(len(xyz))[: round(share * len(xyz))]
    found = xyz.copy()
    found[strays] = [direction(rng) * rng.random() ** (1 / 3) for _ in strays]
    return found


def stray_far(xyz: Xyz, radii: float, up: int, rng: np.random.Generator) -> Xyz:
    """A single point lies so far from the middle instead, outside the ball that holds the others."""
    found = xyz.copy()
    found[rng.integers(len(found))] = radii * direction(rng)
    return found


def on_a_floor(xyz: Xyz, share: float, up: int, rng: np.random.Generator) -> Xyz:
    """With more points, a share of those there are, on a square of floor under the object, two radii wide."""
    floor = rng.uniform(-1, 1, (round(share * len(xyz)), 3))
    floor[:, up] = xyz[:, up].min()
    return np.concatenate([xyz, floor])


def turn_upright(xyz: Xyz, degrees: float, up: int, rng: np.random.Generator) -> Xyz:
    """Turned about the up axis, to either side."""
    return xyz @ rotation(np.eye(3)[up], degrees * rng.choice([-1, 1])).T


def turn(xyz: Xyz, degrees: float, up: int, rng: np.random.Generator) -> Xyz:
    """Turned about any axis."""
    return xyz @ rotation(direction(rng), degrees).T


@dataclass(frozen=True)
class Damage:
    """levels: what `apply` gets; the first leaves the cloud as it is."""

    title: str
    unit: str
    levels: tuple[float, ...]
    apply: Callable[[Xyz, float, int, np.random.Generator], Xyz]


DAMAGES = {
    "thinned": Damage("points left out at random", "share", (0, 0.5, 0.75, 0.875, 0.9375), thin),
    "uneven": Damage("points left out towards one side", "share there", (0, 0.25, 0.5, 0.75, 1), thin_unevenly),
    "jitter": Damage("jitter of every point", "std, radii", (0, 0.01, 0.02, 0.03, 0.05), jitter),
    "outliers": Damage("points anywhere instead", "share", (0, 0.01, 0.02, 0.05, 0.1), scatter),
    "occluded": Damage("one side cut off", "share of points", (0, 0.1, 0.2, 0.3, 0.5), occlude),
    "upright": Damage("turned about the up axis", "degrees", (0, 15, 30, 45, 90, 180), turn_upright),
    "turned": Damage("turned about any axis", "degrees", (0, 15, 30, 45, 90, 180), turn),
    "far": Damage("one point far outside", "radii from the middle", (0, 1.5, 2, 3, 5), stray_far),
    "floor": Damage("floor under the object", "points, share of its own", (0, 0.1, 0.2, 0.5, 1), on_a_floor),
}


@dataclass(frozen=True)
class Found:
    """accuracy: by damage, a share for each of its levels. learnt: how the objects looked that it learnt from, if known."""

    model: str
    digest: str
    data: str
    clouds: int
    code: str
    accuracy: dict[str, list[float]]
    learnt: str = ""


def robustness(folder: Path, name: str, data: Path, out: Path, device: str = "cpu") -> Path:
    """Judge a checkpoint, unless it was, and write `out`/robustness.md of all that were judged. Raises: BadDataset, BadCheckpoint."""
    digest = read_manifest(folder)[1]
    path = out / "robustness" / f"{name.replace(':', '-')}.json"
    clouds = read_split("modelnet40", data, "test")
    known = _read(path)
    if known is None or (known.digest, known.data) != (digest, clouds.digest):
        predictor, learnt = Predictor.load(folder, device), _learnt(folder)
        if clouds.names != predictor.manifest.labels:
            raise BadDataset(f"{name} knows other classes than ModelNet40: {predictor.manifest.labels[:3]}…", where=str(data))
        accuracy = {kind: [_accuracy(predictor, clouds, kind, level) for level in damage.levels] for kind, damage in DAMAGES.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        found = Found(name, digest, clouds.digest, len(clouds), code_version(), accuracy, learnt)
        write_text(path, json.dumps(asdict(found), indent=1) + "\n")
    records = [record for each in sorted(path.parent.glob("*.json")) if (record := _read(each)) is not None]
    page = out / "robustness.md"
    write_text(page, page_of(records, out))
    return page


def _learnt(folder: Path) -> str:
    """How its training objects looked; nothing of a checkpoint without its recipe."""
    recipe = folder / RECIPE
    return seen(load_recipe(str(recipe)).augment) if recipe.is_file() else ""


def damaged(cloud: PointCloud, kind: str, level: float, up: Axis, row: int) -> PointCloud:
    """A prepared cloud with this damage; the same for the same row."""
    rng = np.random.default_rng((list(DAMAGES).index(kind), row))
    xyz = DAMAGES[kind].apply(cloud.xyz.astype(np.float64), level, UP[up], rng) if level else cloud.xyz
    return PointCloud(xyz.astype(np.float32))


def _accuracy(predictor: Predictor, clouds: Clouds, kind: str, level: float) -> float:
    spec = predictor.manifest.input
    frame = InputSpec(features=(), voxel_size=1.0, normalise="unit_sphere", up=spec.up)
    right = 0
    starts = range(0, len(clouds), BATCH)
    for start in progress(starts, f"{DAMAGES[kind].title} {level:g}, batches of {BATCH}", len(starts)):
        rows = range(start, min(start + BATCH, len(clouds)))
        batch = [predictor.voxelize(damaged(prepare(clouds.cloud(row), frame), kind, level, spec.up, row)) for row in rows]
        found = [answer.index for answer in predictor.classify(batch)]
        right += int((np.array(found) == clouds.targets[rows.start : rows.stop]).sum())
    return right / len(clouds)


def _left(count: int, share: float) -> int:
    return max(FEWEST_POINTS, round((1 - share) * count))


def _read(path: Path) -> Found | None:
    """A record; None where there is none, or one of other damages."""
    try:
        found = Found(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    sizes = {kind: len(values) for kind, values in found.accuracy.items()}
    return found if sizes == {kind: len(damage.levels) for kind, damage in DAMAGES.items()} else None


def page_of(records: list[Found], out: Path) -> str:
    """The page, in Markdown; its plot is written below `out`."""
    curves = {
        damage.title: (damage.unit, damage.levels, {record.model: [100 * each for each in record.accuracy[kind]] for record in records})
        for kind, damage in DAMAGES.items()
    }
    plot_levels(curves, out / "robustness" / "curves.svg")
    lines = [
        "# robustness: what a classifier still knows of damaged clouds",
        "",
        f"Accuracy in % on the {records[0].clouds:,} test clouds of ModelNet40 (1,024 points, unit sphere), as served, each cloud damaged "
        "in one way alone; a model normalises what is left as it normalises any file. The draws are the same for all models, one a cloud; "
        "by chance alone such a figure is off by up to 1.2 points in 95 of 100 cases where it is near 90, by 2.0 where it is near 50. "
        "A model whose training clouds were damaged in a like way is good at that damage; it says little of others.",
        "",
        "![Accuracy by kind and strength of damage](robustness/curves.svg)",
        "",
    ]
    for kind, damage in DAMAGES.items():
        lines += [f"| {damage.title}, {damage.unit} | " + " | ".join(f"{level:g}" for level in damage.levels) + " |"]
        lines += ["|---|" + "---|" * len(damage.levels)]
        lines += [f"| {record.model} | " + " | ".join(f"{100 * each:.1f}" for each in record.accuracy[kind]) + " |" for record in records]
        lines.append("")
    if learnt := [f"- {record.model} learnt from objects {record.learnt}." for record in records if record.learnt]:
        lines += [*learnt, ""]
    made = "; ".join(f"{record.model} (sha256 {record.digest[:12]}…) by {record.code}" for record in records)
    return "\n".join([*lines, f"{made}. Again with: `fip reproduce robustness --data MODELNET40_HDF5 [--model NAME]`.", ""])
