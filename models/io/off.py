"""OFF meshes: points are drawn from the surface, as data sets of CAD models do; a file without faces is a point cloud.

V vertices, T triangles, N points. Source: Geomview's OFF; ModelNet's variant, whose counts may follow `OFF` on its line.
Vertex colours and normals (COFF, NOFF, STOFF) and face colours are passed over.
"""

import itertools
import re

import numpy as np
import numpy.typing as npt

from models.errors import BadBody, BadHeader, DegenerateCloud, NoPoints, TruncatedFile, UnsupportedFormat
from models.io.decimals import plain_decimals
from models.io.source import Source, take, text_rows
from models.pointcloud import PointCloud

SURFACE_POINTS = 16_384
SURFACE_SEED = 0  # the same file gives the same points every time

Vertices = npt.NDArray[np.float64]
Triangles = npt.NDArray[np.int64]

_MAGIC = re.compile(rb"(ST)?C?N?OFF(?![A-Za-z])")


def read_off(source: Source) -> PointCloud:
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
    if len(counts) not in (2, 3) or not all(word.isdigit() for word in counts):
        raise BadHeader("the counts of vertices and faces must follow 'OFF'", where="line 2")
    num_vertices, num_faces = int(counts[0]), int(counts[1])
    if 6 * num_vertices + 4 * num_faces > source.size:  # the shortest rows: "0 0 0", "1 0"
        raise TruncatedFile(f"the header announces {num_vertices} vertices and {num_faces} faces, the file has {source.size} bytes")
    if num_vertices == 0:
        raise NoPoints("the mesh has no vertices")
    source.admit(num_vertices)
    vertices = _vertices(take(rows, num_vertices), num_vertices)
    if num_faces == 0:
        return PointCloud(vertices)
    PointCloud(vertices).checked()
    triangles = _triangles(take(rows, num_faces), num_faces, num_vertices)
    return PointCloud(sample_surface(vertices, triangles, SURFACE_POINTS, np.random.default_rng(SURFACE_SEED)))


def sample_surface(vertices: Vertices, triangles: Triangles, count: int, rng: np.random.Generator) -> Vertices:
    """`count` points (count, 3) spread evenly over the area of triangles (T, 3) between vertices (V, 3).

    Raises: DegenerateCloud (no triangle has an area). Source: Osada et al. 2002, Shape Distributions, §4.1.
    """
    a, b, c = (vertices[triangles[:, corner]] for corner in range(3))  # (T, 3) each
    reach = np.cumsum(np.linalg.norm(np.cross(b - a, c - a), axis=1))  # (T,) twice the area, summed up
    if not (len(reach) and reach[-1] > 0 and np.isfinite(reach[-1])):
        raise DegenerateCloud("the mesh has no surface: all its faces are degenerate")
    hit = np.searchsorted(reach, rng.random(count) * reach[-1], side="right").clip(max=len(reach) - 1)  # (count,)
    root, along = np.sqrt(rng.random((count, 1))), rng.random((count, 1))
    return np.asarray((1 - root) * a[hit] + root * (1 - along) * b[hit] + root * along * c[hit], np.float64)


def _vertices(lines: list[bytes], count: int) -> Vertices:
    if len(lines) < count:
        raise TruncatedFile(f"the header announces {count} vertices, the file has {len(lines)}")
    plain = plain_decimals(b"\n".join(lines), 3)
    if plain is not None and len(plain) == count:
        return plain
    out = np.empty((count, 3))
    for row, line in enumerate(lines):
        words = line.split(None, 3)
        try:
            out[row] = float(words[0]), float(words[1]), float(words[2])
        except (ValueError, IndexError):
            raise BadBody(f"not a vertex: {line[:80].decode('latin-1')!r}", where=f"vertex {row}") from None
    return out


def _triangles(lines: list[bytes], count: int, num_vertices: int) -> Triangles:
    """Faces as triangles (T, 3): a polygon becomes a fan around its first corner."""
    if len(lines) < count:
        raise TruncatedFile(f"the header announces {count} faces, the file has {len(lines)}")
    plain = plain_decimals(b"\n".join(lines), 4)
    if plain is not None and len(plain) == count and (plain[:, 0] == 3).all():
        corners = plain[:, 1:].astype(np.int64)
        if (corners == plain[:, 1:]).all() and corners.min() >= 0 and corners.max() < num_vertices:
            return corners
    fans: list[tuple[int, int, int]] = []
    for row, line in enumerate(lines):
        words = line.split()
        try:
            polygon = [int(word) for word in words[1 : 1 + int(words[0])]]
            if len(polygon) != int(words[0]) or not all(0 <= corner < num_vertices for corner in polygon):
                raise ValueError
        except ValueError:
            raise BadBody(f"not a face of {num_vertices} vertices: {line[:80].decode('latin-1')!r}", where=f"face {row}") from None
        fans += [(polygon[0], after, last) for after, last in itertools.pairwise(polygon[1:])]
    return np.array(fans, np.int64).reshape(-1, 3)
