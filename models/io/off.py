"""OFF meshes: points are drawn from the surface, as data sets of CAD models do; a file without faces is a point cloud.

V vertices, T triangles, N points. Source: Geomview's OFF; ModelNet's variant, whose counts may follow `OFF` on its line.
Vertex colours and normals (COFF, NOFF, STOFF) and face colours are passed over.
"""

import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from models.errors import BadBody, BadHeader, DegenerateCloud, NoPoints, TruncatedFile, UnsupportedFormat
from models.io.decimals import plain_decimals
from models.io.records import Records, records_of_columns
from models.io.source import ROWS_AT_A_TIME, Source, parse_count, take, text_rows
from models.pointcloud import PointCloud

SURFACE_POINTS = 16_384
SURFACE_SEED = 0  # the same file gives the same points every time

Vertices = npt.NDArray[np.float64]
Triangles = npt.NDArray[np.int64]

_MAGIC = re.compile(rb"(ST)?C?N?OFF(?![A-Za-z])")


def read_off(source: Source) -> Records:
    """SURFACE_POINTS points of the surface, or the vertices themselves where there are no faces; float64.

    Raises: BadHeader, UnsupportedFormat (binary, 4D), TruncatedFile, BadBody, NoPoints, NonFinite, DegenerateCloud,
    TooManyPoints.
    """
    rows = (line for line in (row.partition(b"#")[0].strip() for row in text_rows(source, 0)) if line)
    header = next(rows, b"")
    magic = _MAGIC.match(header)
    if magic is None:
        raise BadHeader("an OFF file begins with 'OFF'", where="line 1")
    counts = header[magic.end() :].split() or next(rows, b"").split()
    if counts[:1] == [b"BINARY"]:
        raise UnsupportedFormat("binary OFF is not read; export it as text OFF or as PLY", where="line 1")
    if len(counts) not in (2, 3):
        raise BadHeader("the counts of vertices and faces must follow 'OFF'", where="line 2")
    num_vertices, num_faces, *_ = (parse_count(word.decode("latin-1"), "line 2") for word in counts)
    if 6 * num_vertices + 4 * num_faces > source.size:  # the shortest rows: "0 0 0", "1 0"
        raise TruncatedFile(f"the header announces {num_vertices} vertices and {num_faces} faces, the file has {source.size} bytes")
    if num_vertices == 0:
        raise NoPoints("the mesh has no vertices")
    source.admit(num_vertices)
    vertices = _vertices(rows, num_vertices)
    if num_faces == 0:
        return _points(vertices)
    PointCloud(vertices).checked()
    triangles = _triangles(rows, num_faces, num_vertices)
    return _points(sample_surface(vertices, triangles, SURFACE_POINTS, np.random.default_rng(SURFACE_SEED)))


def _points(xyz: Vertices) -> Records:
    return records_of_columns(dict(zip(("x", "y", "z"), xyz.T, strict=True)))


def sample_surface(vertices: Vertices, triangles: Triangles, count: int, rng: np.random.Generator) -> Vertices:
    """`count` points (count, 3) spread evenly over the area of triangles (T, 3) between vertices (V, 3), in their unit.

    Raises: DegenerateCloud (no triangle has an area). Source: Osada et al. 2002, Shape Distributions, §4.1.
    """
    areas = np.empty(len(triangles))  # (T,) twice the area of each
    for start in range(0, len(triangles), ROWS_AT_A_TIME):
        block = slice(start, start + ROWS_AT_A_TIME)
        a, b, c = (vertices[triangles[block, corner]] for corner in range(3))  # (block, 3) each
        areas[block] = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    reach = np.cumsum(areas)  # (T,)
    if not (len(reach) and reach[-1] > 0 and np.isfinite(reach[-1])):
        raise DegenerateCloud("the mesh has no surface: all its faces are degenerate")
    hit = np.searchsorted(reach, rng.random(count) * reach[-1], side="right").clip(max=len(reach) - 1)  # (count,)
    root, along = np.sqrt(rng.random((count, 1))), rng.random((count, 1))
    a, b, c = (vertices[triangles[hit, corner]] for corner in range(3))  # (count, 3) each
    return np.asarray((1 - root) * a + root * (1 - along) * b + root * along * c, np.float64)


def _blocks(rows: Iterator[bytes], count: int, what: str) -> Iterator[tuple[int, list[bytes]]]:
    """The next `count` rows, a block at a time, each with the number of its first row. Raises: TruncatedFile."""
    for start in range(0, count, ROWS_AT_A_TIME):
        wanted = min(ROWS_AT_A_TIME, count - start)
        lines = take(rows, wanted)
        if len(lines) < wanted:
            raise TruncatedFile(f"the header announces {count} {what}, the file has {start + len(lines)}")
        yield start, lines


def _vertices(rows: Iterator[bytes], count: int) -> Vertices:
    out = np.empty((count, 3))
    for start, lines in _blocks(rows, count, "vertices"):
        plain = plain_decimals(b"\n".join(lines), 3)
        if plain is not None and len(plain) == len(lines):
            out[start : start + len(lines)] = plain
            continue
        for row, line in enumerate(lines, start):
            words = line.split(None, 3)
            try:
                out[row] = float(words[0]), float(words[1]), float(words[2])
            except (ValueError, IndexError):
                raise BadBody(f"not a vertex: {line[:80].decode('latin-1')!r}", where=f"vertex {row}") from None
    return out


def _triangles(rows: Iterator[bytes], count: int, num_vertices: int) -> Triangles:
    """Faces as triangles (T, 3): a polygon becomes a fan around its first corner."""
    blocks: list[Triangles] = []
    for start, lines in _blocks(rows, count, "faces"):
        plain = plain_decimals(b"\n".join(lines), 4)
        if plain is not None and len(plain) == len(lines) and (plain[:, 0] == 3).all():
            corners = plain[:, 1:].astype(np.int64)
            if (corners == plain[:, 1:]).all() and corners.min() >= 0 and corners.max() < num_vertices:
                blocks.append(corners)
                continue
        blocks.append(_fans(lines, start, num_vertices))
    return np.concatenate(blocks)


def _fans(lines: list[bytes], start: int, num_vertices: int) -> Triangles:
    """Polygons of any number of corners as triangles (T, 3). Raises: BadBody (names the face)."""
    corners: list[int] = []
    lengths: list[int] = []
    for row, line in enumerate(lines, start):
        words = line.split()
        try:
            polygon = [int(word) for word in words[1 : 1 + int(words[0])]]
            if len(polygon) != int(words[0]) or not all(0 <= corner < num_vertices for corner in polygon):
                raise ValueError
        except ValueError:
            raise BadBody(f"not a face of {num_vertices} vertices: {line[:80].decode('latin-1')!r}", where=f"face {row}") from None
        corners += polygon
        lengths.append(len(polygon))
    size = np.array(lengths)
    first = np.cumsum(size) - size  # place of the first corner of each polygon
    fan = np.maximum(size - 2, 0)  # triangles of each
    step = np.arange(fan.sum()) - np.repeat(np.cumsum(fan) - fan, fan)  # (T,) 0, 1, ... within each fan
    apex = np.repeat(first, fan)
    places = np.stack([apex, apex + step + 1, apex + step + 2], axis=1)  # (T, 3)
    return np.array(corners, np.int64).take(places)
