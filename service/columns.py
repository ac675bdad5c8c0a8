"""A cloud as a browser takes it in: a head in JSON, then each column as it lies in memory, all of it aligned for typed arrays."""

import json
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from models.pointcloud import PointCloud

MEDIA_TYPE = "application/x-fip-points"
ALIGNED = 8  # bytes
MOST_EXTRA = 32  # other columns of the file: more than anybody looks at
NAME_LENGTH = 80
HELD_AS = {"b1": "u1", "f2": "f4", "i8": "f8", "u8": "f8"}  # what a browser has no arrays for
Column = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Packed:
    """head: what JSON says of the columns; columns: little-endian, one after the other."""

    head: bytes
    columns: tuple[Column, ...]


def rows_shown(count: int, most: int) -> npt.NDArray[np.uint32] | None:
    """Which of `count` points stand for all, in order: one of each of `most` equal runs, by chance with a fixed seed, for the lines of a
    scanner come back every so many points. None: all of them.
    """
    if count <= most:
        return None
    edges = np.linspace(0, count, most + 1).astype(np.int64)
    inside = np.random.default_rng(0).random(most)
    return (edges[:-1] + (inside * np.diff(edges)).astype(np.int64)).astype(np.uint32)


def packed(cloud: PointCloud, most: int) -> Packed:
    """A cloud of N points as M of them, at most `most`: xyz (M, 3) float32 from `origin` on, the middle of its box; rgb (M, 3) u8 and
    intensity (M,) f32 where the file has them; `row` (M,) u32, which of the N each is, unless they are all; and the file's other columns of
    numbers, as far as MOST_EXTRA goes.

    Raises: NonFinite.
    """
    cloud.checked()
    rows = rows_shown(len(cloud), most)
    some = slice(None) if rows is None else rows
    origin = (cloud.xyz.min(axis=0).astype(np.float64) + cloud.xyz.max(axis=0)) / 2
    own: dict[str, Column] = {"xyz": (cloud.xyz[some] - origin).astype("<f4")}
    if cloud.rgb is not None:
        own["rgb"] = cloud.rgb[some]
    if cloud.intensity is not None:
        own["intensity"] = cloud.intensity[some].astype("<f4")
    if rows is not None:
        own["row"] = rows.astype("<u4")
    extra = [(name[:NAME_LENGTH], _held(column[some])) for name, column in cloud.extra.items() if _is_number(column)][:MOST_EXTRA]
    described, at = list[dict[str, object]](), 0
    for place, (name, column) in enumerate([*own.items(), *extra]):
        width = 1 if column.ndim == 1 else column.shape[1]
        described.append({"name": name, "type": _code(column), "width": width, "offset": at, "extra": place >= len(own)})
        at += column.nbytes + -column.nbytes % ALIGNED
    head = {"num_points": len(cloud), "shown": len(own["xyz"]), "origin": origin.tolist(), "columns": described}
    return Packed(json.dumps(head).encode(), (*own.values(), *(column for _, column in extra)))


def write_packed(cloud: Packed, out: BinaryIO) -> None:
    """Length of the head (u32), the head, filled up with blanks; the columns, each filled up with zeros."""
    head = cloud.head + b" " * (-(4 + len(cloud.head)) % ALIGNED)
    out.write(len(head).to_bytes(4, "little") + head)
    for column in cloud.columns:
        out.write(np.ascontiguousarray(column).reshape(-1).view(np.uint8).data)
        out.write(bytes(-column.nbytes % ALIGNED))


def _is_number(column: Column) -> bool:
    return column.ndim == 1 and column.dtype.kind in "biuf" and column.dtype.itemsize <= 8


def _held(column: Column) -> Column:
    return column.astype(f"<{HELD_AS.get(_code(column), _code(column))}")


def _code(column: Column) -> str:
    return f"{column.dtype.kind}{column.dtype.itemsize}"
