"""Points on the surfaces of simple bodies, and the numbers that give a body its form.

n points; half (3,) are half sizes along the body's own axes, of which z is the one that bodies of revolution turn about.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
Form = Mapping[str, npt.NDArray[np.float64]]
Sampler = Callable[[int, np.random.Generator, Points, Form], Points]
Drawer = Callable[[np.random.Generator], dict[str, npt.NDArray[np.float64]]]
TURN = 2 * math.pi
THINNEST = 0.02  # of radii, as a share of the largest


def _pick(weights: Points, n: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """n indices, as often as their weights say."""
    edges = np.cumsum(weights)
    return np.searchsorted(edges / edges[-1], rng.random(n), side="right").clip(max=len(weights) - 1)


def box(n: int, rng: np.random.Generator, half: Points, form: Form) -> Points:
    """faces (6,): 0 for one that is missing; in the order -x, x, -y, y, -z, z."""
    areas = np.repeat([half[1] * half[2], half[0] * half[2], half[0] * half[1]], 2) * form["faces"]
    face = _pick(areas + 1e-12, n, rng)
    points = rng.uniform(-1, 1, (n, 3))
    points[np.arange(n), face // 2] = 2 * (face % 2) - 1
    return points * half


def turned(n: int, rng: np.random.Generator, half: Points, form: Form) -> Points:
    """A body of revolution. profile (k,): radii from bottom to top; caps (2,): 1 where it is closed."""
    radii = form["profile"]
    rings = len(radii) - 1
    slant = np.hypot(2 * half[2] / rings, np.diff(radii) * half[0])
    sides = (radii[1:] + radii[:-1]) * slant * math.pi * half[0]
    caps = math.pi * half[0] ** 2 * radii[[0, -1]] ** 2 * form["caps"]
    part = _pick(np.concatenate([sides, caps]) + 1e-12, n, rng)
    along, ring = rng.random(n), np.minimum(part, rings - 1)
    side = part < rings
    radius = np.where(
        side, radii[ring] * (1 - along) + radii[ring + 1] * along, np.sqrt(along) * np.where(part == rings, radii[0], radii[-1])
    )
    z = np.where(side, -1 + 2 * (ring + along) / rings, np.where(part == rings, -1.0, 1.0))
    angle = rng.uniform(0, TURN, n)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=1) * half


def ellipsoid(n: int, rng: np.random.Generator, half: Points, form: Form) -> Points:
    """lowest: where along z, from -1 to 1, it begins; power: below 1 it comes closer to a box, above to an octahedron."""
    z, angle = rng.uniform(form["lowest"], 1, n), rng.uniform(0, TURN, n)
    radius = np.sqrt(np.maximum(0, 1 - z * z))
    unit = np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=1)
    points: Points = np.sign(unit) * np.abs(unit) ** form["power"] * half
    return points


def torus(n: int, rng: np.random.Generator, half: Points, form: Form) -> Points:
    """arc: of the ring, in radians; thick: radius of the tube as a share of the whole's."""
    around, across, thick = rng.uniform(0, form["arc"], n), rng.uniform(0, TURN, n), form["thick"]
    radius = 1 - thick + thick * np.cos(across)
    return np.stack([radius * np.cos(around), radius * np.sin(around), np.sin(across) * thick * 2], axis=1) * half


def prism(n: int, rng: np.random.Generator, half: Points, form: Form) -> Points:
    """polygon (m, 2): the corners in order, of a polygon that is seen whole from its middle."""
    corners = form["polygon"] * half[:2]
    following = np.roll(corners, -1, axis=0)
    lengths = np.linalg.norm(following - corners, axis=1)
    triangles = np.abs(corners[:, 0] * following[:, 1] - corners[:, 1] * following[:, 0]) / 2
    part, m = _pick(np.concatenate([lengths * 2 * half[2], triangles, triangles]) + 1e-12, n, rng), len(corners)
    edge, along, inward = part % m, rng.random((n, 1)), np.sqrt(rng.random((n, 1)))
    rim = corners[edge] * (1 - along) + following[edge] * along
    side = part < m
    z = np.where(side, rng.uniform(-1, 1, n), np.where(part < 2 * m, -1, 1)) * half[2]
    return np.concatenate([np.where(side[:, None], rim, rim * inward), z[:, None]], axis=1)


def sheet(n: int, rng: np.random.Generator, half: Points, form: Form) -> Points:
    """Two faces of a plate. taper: how much narrower one end is; sweep: how far it is shifted; bend, curl: how it is bowed."""
    u, v = rng.uniform(-1, 1, (2, n))
    far = (v + 1) / 2
    x = u * half[0] * (1 - form["taper"] * far) + form["sweep"] * half[1] * far
    z = form["bend"] * half[0] * (u * u - 1 / 3) + form["curl"] * half[1] * (v * v - 1 / 3) + half[2] * rng.choice([-1, 1], n)
    return np.stack([x, v * half[1], z], axis=1)


def tube(n: int, rng: np.random.Generator, half: Points, form: Form) -> Points:
    """curve (k, 3): corners of the line that it follows; radius: as a share of its largest half size."""
    corners = form["curve"] * half
    at = rng.random(n) * (len(corners) - 1)
    piece, along = at.astype(np.int64), (at % 1)[:, None]
    away = rng.normal(size=(n, 3))
    away /= np.linalg.norm(away, axis=1, keepdims=True) + 1e-9
    points: Points = corners[piece] * (1 - along) + corners[piece + 1] * along + away * form["radius"] * half.max()
    return points


def _box_form(rng: np.random.Generator) -> dict[str, Points]:
    faces = np.ones(6)
    if rng.random() < 0.4:
        faces[rng.integers(6)] = 0
    if rng.random() < 0.1:
        faces = np.isin(np.arange(6), rng.choice(6, 3, replace=False)).astype(float)
    return {"faces": faces}


def _turned_form(rng: np.random.Generator) -> dict[str, Points]:
    count, style = int(rng.integers(2, 7)), rng.random()
    if style < 0.35:
        radii = np.ones(count)
    elif style < 0.6:
        radii = np.linspace(1, rng.uniform(0, 0.9), count)
    else:
        radii = np.maximum(np.cumsum(rng.normal(0, 0.35, count)) + 0.7, 0.08)
    radii = radii[:: rng.choice([-1, 1])] / radii.max()
    return {"profile": radii, "caps": (rng.random(2) < 0.6).astype(float)}


def _ellipsoid_form(rng: np.random.Generator) -> dict[str, Points]:
    return {"lowest": rng.choice([-1.0, -1.0, 0.0, -0.5]), "power": rng.choice([1.0, 1.0, 0.6, 0.4, 1.5])}


def _torus_form(rng: np.random.Generator) -> dict[str, Points]:
    return {"arc": rng.choice([TURN, TURN / 2, TURN / 2, 0.75 * TURN]), "thick": np.asarray(rng.uniform(0.05, 0.35))}


def _prism_form(rng: np.random.Generator) -> dict[str, Points]:
    corners = int(rng.integers(3, 11))
    angles = np.arange(corners) * TURN / corners + rng.uniform(0, 1)
    if rng.random() < 0.3:
        drawn = np.sort(rng.uniform(0, TURN, corners))
        angles = drawn if np.diff(drawn, append=drawn[0] + TURN).max() < 2.8 else angles  # its middle stays inside
    radii = rng.uniform(0.3, 1, corners) if rng.random() < 0.5 else np.ones(corners)
    if rng.random() < 0.3 and corners % 2 == 0:
        radii = np.where(np.arange(corners) % 2, rng.uniform(0.3, 0.8), 1.0)  # a star
    polygon = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]
    return {"polygon": polygon / np.abs(polygon).max(axis=0)}


def _sheet_form(rng: np.random.Generator) -> dict[str, Points]:
    def often(share: float, low: float, high: float) -> Points:
        return np.asarray(rng.uniform(low, high) if rng.random() < share else 0.0)

    return {"taper": often(0.5, 0, 1), "sweep": often(0.5, -1, 1), "bend": often(0.5, -0.8, 0.8), "curl": often(1 / 3, -0.8, 0.8)}


def _tube_form(rng: np.random.Generator) -> dict[str, Points]:
    corners = int(rng.integers(3, 7))
    curve = np.concatenate([np.cumsum(rng.normal(0, 0.35, (corners, 2)), axis=0), np.linspace(-1, 1, corners)[:, None]], axis=1)
    curve -= curve.mean(axis=0)
    return {"curve": curve / np.abs(curve).max(axis=0), "radius": np.asarray(rng.uniform(0.02, 0.15))}


BODIES: dict[str, tuple[float, Sampler, Drawer]] = {  # how often there is one, its points, its form
    "box": (0.30, box, _box_form),
    "turned": (0.22, turned, _turned_form),
    "ellipsoid": (0.12, ellipsoid, _ellipsoid_form),
    "torus": (0.06, torus, _torus_form),
    "prism": (0.10, prism, _prism_form),
    "sheet": (0.12, sheet, _sheet_form),
    "tube": (0.08, tube, _tube_form),
}
_KEPT = ("faces", "caps", "arc")  # what makes a body what it is


def varied(form: Form, spread: float, rng: np.random.Generator) -> dict[str, Points]:
    """The form of another body of the same kind; spread: standard deviation of most changes, as a share."""
    return {key: _varied(key, value, spread, rng) for key, value in form.items()}


def _varied(key: str, value: Points, spread: float, rng: np.random.Generator) -> Points:
    if key in _KEPT:
        return value
    found = value * math.exp(spread * rng.normal())
    if key == "profile":
        found = np.maximum(value * np.exp(0.5 * spread * rng.normal(size=value.shape)), THINNEST)
    elif key == "polygon":
        found = value * np.exp(0.3 * spread * rng.normal(size=(len(value), 1)))  # along its rays: it stays whole
    elif key == "curve":
        found = value + 0.4 * spread * rng.normal(size=value.shape)
    elif key == "lowest":
        found = np.clip(value + spread * rng.normal() * (value > -1), -1, 0.6)
    elif key not in ("power", "thick", "radius"):
        found = found + 0.2 * spread * rng.normal() * (value != 0)
    return found
