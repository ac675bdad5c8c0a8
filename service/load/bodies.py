"""What is sent: real files, and made-up clouds of a given number of points."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from models.errors import BadOption
from service.load.plan import Body

ROW = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4")])
MAX_POINTS = 50_000_000


def made_up(points: int, task: str, seed: int) -> bytes:
    """A binary PLY of so many points: x, y, z (metres) and intensity.

    For `classify` the surface of a box one metre wide; for `segment` a street 100 m long: ground, two rows of walls, posts.
    """
    rng = np.random.default_rng((seed, points))
    rows = np.empty(points, ROW)
    rows["x"], rows["y"], rows["z"] = (_street if task == "segment" else _box)(points, rng).T
    rows["intensity"] = rng.random(points, np.float32)
    properties = "".join(f"property float {name}\n" for name in ROW.names or ())
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {points}\n{properties}end_header\n"
    return header.encode() + rows.tobytes()


def _box(points: int, rng: np.random.Generator) -> np.ndarray:
    """(N, 3): each point in a cube, moved to one of its six faces."""
    xyz = rng.uniform(-0.5, 0.5, (points, 3))
    xyz[np.arange(points), rng.integers(0, 3, points)] = rng.choice((-0.5, 0.5), points)
    return xyz


def _street(points: int, rng: np.random.Generator) -> np.ndarray:
    """(N, 3): more of them near the middle, as a scanner there sees it."""
    along = np.clip(rng.normal(0, 20, points), -50, 50)
    across = rng.uniform(-8, 8, points)
    height = rng.normal(-1.7, 0.02, points)
    kind = rng.random(points)
    wall, post = kind > 0.6, kind > 0.95
    across = np.where(wall, np.sign(across) * 8, across)
    height = np.where(wall, rng.uniform(-1.7, 6, points), height)
    along = np.where(post, np.round(along / 10) * 10 + rng.normal(0, 0.05, points), along)
    across = np.where(post, np.sign(across) * 5, across)
    return np.column_stack([along, across, height])


def parse_points(text: str) -> Mapping[int, float]:
    """`1000:0.7,20000:0.25` as weights by points; without a weight it is 1. Raises: BadOption."""
    weights: dict[int, float] = {}
    for part in text.split(","):
        points, _, weight = part.partition(":")
        try:
            weights[int(points)] = float(weight or 1)
        except ValueError:
            raise BadOption(f"{part!r} is not POINTS or POINTS:WEIGHT", where="--points") from None
        if not 1 <= int(points) <= MAX_POINTS:
            raise BadOption(f"{points} is not between 1 and {MAX_POINTS:,} points", where="--points")
    return weights


def gather(files: Iterable[Path], points: Mapping[int, float], task: str, seed: int) -> tuple[Body, ...]:
    """Files with weight 1 each, then made-up clouds."""
    real = tuple(Body(path.name, path.read_bytes()) for path in files)
    return real + tuple(Body(f"made-up-{count}.ply", made_up(count, task, seed), weight) for count, weight in points.items())
