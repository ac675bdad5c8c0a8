"""The samples of the page, made up here so that anybody may have them: a street as a scanner sees it, and a chair. `make ui` runs it.

python -m tests.page_samples DIR
"""

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]  # (n, 3), or (n, 4) with intensity
ROAD_Z, KERB = -1.73, 5.5  # metres: the sensor's height above the road, half the road's width

PLY_HEAD = """ply
format binary_little_endian 1.0
comment a made-up chair
element vertex {count}
property float x
property float y
property float z
end_header
"""


def box(rng: np.random.Generator, middle: tuple[float, float, float], size: tuple[float, float, float], count: int) -> Points:
    """Points on the sides and the top of a box."""
    place, side = rng.uniform(-0.5, 0.5, (count, 3)), rng.integers(0, 5, count)
    for number, (axis, value) in enumerate(((0, -0.5), (0, 0.5), (1, -0.5), (1, 0.5), (2, 0.5))):
        place[side == number, axis] = value
    return np.array(middle) + place * np.array(size)


def post(rng: np.random.Generator, x: float, y: float, radius: float, top: float, count: int) -> Points:
    return np.stack([rng.normal(x, radius, count), rng.normal(y, radius, count), rng.uniform(-1.6, top, count)], axis=1)


def crown(rng: np.random.Generator, x: float, y: float) -> Points:
    way = rng.normal(size=(1000, 3))
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    return np.array([x, y, 3.2]) + way * rng.random((1000, 1)) ** 0.4 * np.array([2.0, 1.6, 1.6])


def street(rng: np.random.Generator) -> Points:
    """80 m of it: road, pavements, walls, poles, trees and parked cars."""
    parts: list[tuple[Points, float, float]] = []  # points, mean and spread of their intensity
    x, y = rng.uniform(-40, 40, 11_000), rng.normal(0, 6, 11_000).clip(-14, 14)
    ground = np.stack([x, y, ROAD_Z + np.where(np.abs(y) > KERB, 0.14, 0) + rng.normal(0, 0.012, len(x))], axis=1)
    on_road = np.abs(y) <= KERB
    parts += [(ground[on_road], 0.22, 0.04), (ground[~on_road], 0.32, 0.04)]
    for side in (-1, 1):
        wall = np.stack([rng.uniform(-40, 40, 5_000), rng.normal(side * 13.5, 0.03, 5_000), rng.uniform(-1.6, 6, 5_000)], axis=1)
        parts.append((wall, 0.3, 0.05))
        for at in range(-34, 36, 17):
            parts.append((post(rng, at, side * 7.5, 0.05, 4.5, 250), 0.25, 0.05))
            parts.append((post(rng, at + 8, side * 9, 0.12, 2.2, 200), 0.22, 0.05))
            parts.append((crown(rng, at + 8, side * 9), 0.28, 0.1))
        for at in (-26, -12, 4, 21):
            parts.append((box(rng, (at, side * 4.2, -1.1), (4.2, 1.75, 1.0), 800), 0.2, 0.15))
            parts.append((box(rng, (at - 0.2, side * 4.2, -0.35), (2.2, 1.5, 0.6), 400), 0.1, 0.02))
    return in_order(np.concatenate([np.c_[points, rng.normal(mean, spread, len(points)).clip(0, 1)] for points, mean, spread in parts]))


def in_order(points: Points) -> Points:
    """As a scanner of 64 lasers writes them: laser by laser, around."""
    up = np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1]))
    laser = np.digitize(up, np.linspace(up.min(), up.max(), 65)[1:-1])
    return points[np.lexsort((np.arctan2(points[:, 1], points[:, 0]), -laser))]


def chair(rng: np.random.Generator) -> Points:
    legs = [box(rng, (x, y, 0.22), (0.05, 0.05, 0.45), 200) for x in (-0.2, 0.2) for y in (-0.2, 0.2)]
    return np.concatenate([box(rng, (0, 0, 0.45), (0.45, 0.45, 0.05), 900), box(rng, (0, 0.21, 0.75), (0.45, 0.04, 0.6), 900), *legs])


def main(folder: Path) -> None:
    rng = np.random.default_rng(7)
    (folder / "street.bin").write_bytes(street(rng).astype("<f4").tobytes())
    points = chair(rng).astype("<f4")
    (folder / "chair.ply").write_bytes(PLY_HEAD.format(count=len(points)).encode() + points.tobytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
