"""What the shapes of a class have in common, and one of them: a core, and groups of bodies in patterns around it.

n points, K copies of a body. z is up; x is the axis that pairs are mirrored along. Sizes are in units of about the size of the core.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from training.shapes.primitives import BODIES, TURN, Form, Points, varied

Pattern = Literal["one", "pair", "corners", "ring", "row", "stack", "heap"]
PATTERNS: tuple[Pattern, ...] = get_args(Pattern)
_ODDS = (0.22, 0.22, 0.18, 0.12, 0.12, 0.08, 0.06)  # of the patterns
_SCALES = {
    "one": (0.3, 1),
    "pair": (0.2, 0.8),
    "corners": (0.15, 0.5),
    "ring": (0.15, 0.6),
    "row": (0.15, 0.7),
    "stack": (0.4, 1),
    "heap": (0.1, 0.4),
}
_GROUPS = (0.08, 0.22, 0.28, 0.22, 0.12, 0.08)  # how often a core has 0, 1, 2, … groups around it
_LYING = [np.eye(3)[list(order)] for order in ((0, 1, 2), (2, 1, 0), (0, 2, 1))]  # a body's z along z, x, y
DROPPED = 0.08  # how often a group is missing in one of the shapes
OVERLAP = 0.97  # bodies touch


@dataclass(frozen=True)
class Part:
    """A body: its kind, half sizes (3,) along its own axes, what they are turned by, and a rotation vector (3,) on top of it."""

    kind: str
    half: Points
    form: Form
    lying: int
    tilt: Points


@dataclass(frozen=True)
class Group:
    """Copies of a part. anchor (3,): where on the core's box, from -1 to 1; axis, sign: towards which side it grows from there.

    count: copies of rings, rows, stacks and heaps; along: the axis of rows; inside: it grows into the core instead; tumbled: the
    copies of a heap are turned every way.
    """

    pattern: Pattern
    part: Part
    anchor: Points
    axis: int
    sign: int
    count: int
    along: int
    inside: bool
    tumbled: bool


@dataclass(frozen=True)
class Program:
    """A class of shapes. shown: whether the core itself is there, or only what is around it."""

    core: Part
    groups: tuple[Group, ...]
    shown: bool


@dataclass(frozen=True)
class _Piece:
    """A part of one shape with its pose, and what each of its copies is moved (K, 3) and turned (K, 3, 3) by."""

    part: Part
    pose: Points
    moves: Points
    turns: Points | None = None

    @property
    def area(self) -> float:
        x, y, z = self.part.half
        return float(8 * (x * y + y * z + x * z) * len(self.moves))

    def points(self, n: int, rng: np.random.Generator) -> Points:
        copy = rng.integers(len(self.moves), size=n)
        points: Points = BODIES[self.part.kind][1](n, rng, self.part.half, self.part.form) @ self.pose.T
        if self.turns is not None:
            points = np.einsum("nij,nj->ni", self.turns[copy], points)
        return points + self.moves[copy]


def program(rng: np.random.Generator) -> Program:
    """Draw a class of shapes."""
    core = replace(_part(1.0, rng), tilt=np.zeros(3))
    groups = tuple(_group(rng) for _ in range(int(rng.choice(len(_GROUPS), p=_GROUPS))))
    return Program(core, groups, shown=not groups or rng.random() > DROPPED)


def shape(program: Program, n: int, rng: np.random.Generator, spread: tuple[float, float]) -> npt.NDArray[np.float32]:
    """n points (n, 3) on one of the shapes of a class, evenly but for the bodies' own forms.

    spread: between which the standard deviation of all its sizes lies, as a share.
    """
    much = rng.uniform(*spread)
    core, pose = _drawn(program.core, much, rng)
    box = np.abs(pose) @ core.half
    pieces = [_Piece(core, pose, np.zeros((1, 3)))] if program.shown else []
    for group in program.groups:
        if rng.random() >= DROPPED or not pieces:
            pieces.append(_placed(group, box, much, rng))
    areas = np.array([piece.area for piece in pieces]) ** 0.8  # small parts get a few more
    counts = rng.multinomial(n, areas / areas.sum())
    points = np.concatenate([piece.points(int(count), rng) for piece, count in zip(pieces, counts, strict=True)])
    return (points * np.exp(0.5 * much * rng.normal(size=3))).astype(np.float32)


def _part(scale: float, rng: np.random.Generator) -> Part:
    kind = str(rng.choice(list(BODIES), p=[odds for odds, *_ in BODIES.values()]))
    half = _half(rng) * scale
    if kind == "sheet":
        half[2] *= rng.choice([0.0, 0.05])
    if kind in ("turned", "torus") and rng.random() < 0.8:
        half[1] = half[0]
    lying = 0 if rng.random() < 0.6 else int(rng.integers(3))
    tilt = rng.normal(0, 0.35, 3) if rng.random() < 0.2 else np.zeros(3)
    return Part(kind, half, BODIES[kind][2](rng), lying, tilt)


def _half(rng: np.random.Generator) -> Points:
    """Half sizes of a body that is compact, flat, long or round."""
    style = rng.choice(4, p=[0.25, 0.35, 0.2, 0.2])
    half: Points = np.exp(rng.uniform(-1.2, 0.3, 3))
    if style == 1:
        half[rng.integers(3)] *= rng.uniform(0.03, 0.25)
    if style == 2:
        long = int(rng.integers(3))
        half *= rng.uniform(0.06, 0.25)
        half[long] = np.exp(rng.uniform(-0.8, 0.3))
    if style == 3:
        half[:2] = half[0]
    return half


def _leg(rng: np.random.Generator) -> Part:
    kind = str(rng.choice(["box", "turned", "turned"]))
    half = np.array([1.0, rng.uniform(0.5, 2), 1.0]) * rng.uniform(0.03, 0.12)
    half[2] = rng.uniform(0.2, 1)
    return Part(kind, half, BODIES[kind][2](rng), 0, np.zeros(3))


def _group(rng: np.random.Generator) -> Group:
    pattern = PATTERNS[rng.choice(len(PATTERNS), p=_ODDS)]
    part = _part(rng.uniform(*_SCALES[pattern]), rng)
    axis, sign = int(rng.integers(3)), int(rng.choice([-1, 1]))
    if pattern == "pair":
        axis = int(rng.choice([0, 0, 1, 2]))
    if pattern == "corners":
        part = _leg(rng) if rng.random() < 0.7 else part
        axis, sign = 2, -1 if rng.random() < 0.8 else 1
    anchor = rng.uniform(-1, 1, 3) * (rng.random(3) < 0.6)
    if pattern == "corners":
        anchor[:2] = rng.uniform(0.6, 1, 2)
    if pattern == "pair" and axis:
        anchor[0] = rng.uniform(0.3, 1)
    anchor[axis] = sign
    count, along = int(rng.integers(3, 9)), int(rng.integers(3))
    return Group(pattern, part, anchor, axis, sign, count, along, inside=rng.random() < 0.2, tumbled=rng.random() < 0.5)


def _drawn(part: Part, much: float, rng: np.random.Generator) -> tuple[Part, Points]:
    """A part as one shape has it, and its pose (3, 3)."""
    tilt = part.tilt + 0.25 * much * rng.normal(size=3) * (rng.random() < 0.5)
    half = part.half * np.exp(much * rng.normal(size=3))
    return replace(part, half=half, form=varied(part.form, much, rng)), _rotation(tilt) @ _LYING[part.lying].T


def _placed(group: Group, box: Points, much: float, rng: np.random.Generator) -> _Piece:
    """The copies of a group around a core whose box has the half sizes (3,)."""
    part, pose = _drawn(group.part, much, rng)
    own = np.abs(pose) @ part.half
    anchor = group.anchor + 0.4 * much * rng.normal(size=3) * (group.anchor != 0)
    anchor[group.axis] = group.sign
    at = anchor * box
    at[group.axis] += group.sign * own[group.axis] * OVERLAP * (-1 if group.inside else 1)
    count = max(2, group.count + int(rng.integers(-1, 2)))
    moves, turns = _copies(group, at, own, box, count, rng)
    return _Piece(part, pose, moves, turns)


def _copies(group: Group, at: Points, own: Points, box: Points, count: int, rng: np.random.Generator) -> tuple[Points, Points | None]:
    """What the copies are moved and turned by, of a part with half sizes own (3,) that lies at (3,)."""
    match group.pattern:
        case "one":
            return at[None], None
        case "pair":
            mirrors = np.array([[1.0, 1, 1], [-1, 1, 1]])
            return at * mirrors, _diagonals(mirrors)
        case "corners":
            mirrors = np.array([[i, j, 1.0] for i in (-1, 1) for j in (-1, 1)])
            corner = np.array([*np.maximum(np.abs(at[:2]) - own[:2], 0), at[2]])
            return corner * mirrors, _diagonals(mirrors)
        case "ring":
            turns = np.stack([_rotation(np.array([0, 0, angle])) for angle in np.arange(count) * TURN / count])
            return turns @ at, turns
        case "row":
            moves = np.repeat(at[None], count, axis=0)
            moves[:, group.along] = np.linspace(-1, 1, count) * box[group.along] * 0.95
            return moves, None
        case "stack":
            moves = np.repeat(at[None], count // 2 + 1, axis=0)
            moves[:, group.axis] += np.arange(len(moves)) * 2.2 * own[group.axis] * group.sign
            return moves, None
        case "heap":
            turns = np.stack([_rotation(turn) for turn in rng.normal(size=(2 * count, 3))])
            return at + rng.normal(size=(2 * count, 3)) * 0.6 * box.mean(), turns if group.tumbled else None


def _diagonals(mirrors: Points) -> Points:
    """(K, 3) -> (K, 3, 3)."""
    return mirrors[:, :, None] * np.eye(3)


def _rotation(vector: Points) -> Points:
    """(3, 3) about the axis of a rotation vector (3,), by its length in radians. Source: Rodrigues' formula."""
    angle = math.sqrt(float(vector @ vector))
    if angle < 1e-9:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turned: Points = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * (cross @ cross)
    return turned
