"""Reading and voxelizing a million points, against plyfile, numpy and spconv; and what the service adds to it.

Medians of interleaved runs, all of one thread, files in the page cache. A ratio is the peer's time over ours: above 1 we are
faster. `make bench-io` installs the peers; one that is missing is an error.
"""

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import laspy
import numpy as np
from plyfile import PlyData
from pypcd4.pypcd4 import Encoding
from pypcd4.pypcd4 import PointCloud as Pypcd4

with warnings.catch_warnings(action="ignore"):  # its build tools warn on import
    from spconv.utils import Point2VoxelCPU3d, tv

from models.io import read_cloud
from models.manifest import FeatureSpec, InputSpec
from models.pointcloud import PointCloud
from models.voxelize import prepare, voxelize
from tests.bench import report, service_overhead
from tests.bench.report import Row

POINTS = 1_000_000
RUNS = 5
VOXEL_SIZE_M = 0.05
ABOUT = (
    "Reading and voxelizing a million points on one thread against plyfile, laspy, pypcd4, numpy and spconv's voxelizer (files in the page "
    f"cache, medians of {RUNS} interleaved runs; a ratio is the peer's time over ours), and over real sockets with one client what the "
    "service adds to parsing, voxelizing and the net, and how soon it refuses bad input."
)


def row(name: str, value: float, unit: str, least: float | None = None, most: float | None = None) -> Row:
    """A line of the result; without a bar there is nothing that could not hold."""
    bar = f">= {least:g}" if least is not None else f"<= {most:g}" if most is not None else None
    holds = (least is None or value >= least) and (most is None or value <= most)
    return {"name": name, "value": round(value, 2), "unit": unit, "bar": bar, "holds": holds}


def medians_ms(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Every function once to warm up, then RUNS rounds of all of them in turn."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(RUNS + 1):
        for name, function in runs.items():
            started = time.perf_counter()
            function()
            if turn:
                times[name].append((time.perf_counter() - started) * 1000)
    return {name: statistics.median(found) for name, found in times.items()}


def room(rng: np.random.Generator) -> np.ndarray:
    """(POINTS, 3) float32, metres: the surfaces of a room of 6 x 6.5 x 3 m and of 40 boxes in it, with 1 cm of noise."""
    boxes = [(np.zeros(3), np.array([6.0, 6.5, 3.0]))]
    boxes += [(rng.uniform(0, [5, 5.5, 1], 3), rng.uniform(0.2, 1.5, 3)) for _ in range(40)]
    low, extent = (np.array(column) for column in zip(*boxes, strict=True))
    area = extent[:, [1, 2, 0]] * extent[:, [2, 0, 1]]  # (boxes, axis) of the two sides across each axis
    side = rng.choice(area.size, POINTS, p=(area / area.sum()).ravel())
    at = rng.random((POINTS, 3))
    at[np.arange(POINTS), side % 3] = rng.integers(0, 2, POINTS)
    points = low[side // 3] + at * extent[side // 3] + rng.normal(0, 0.01, (POINTS, 3))
    return points.astype(np.float32)


def write_ply(path: Path, xyz: np.ndarray, rgb: np.ndarray | None, form: str) -> int:
    """A PLY as scanners write them; returns the number of header lines."""
    kinds = [*(("float", axis) for axis in "xyz"), *(("uchar", name) for name in ("red", "green", "blue") if rgb is not None)]
    lines = ["ply", f"format {form} 1.0", f"element vertex {len(xyz)}", *(f"property {kind} {name}" for kind, name in kinds), "end_header"]
    with path.open("wb") as file:
        file.write(("\n".join(lines) + "\n").encode())
        if form == "ascii":
            columns = xyz if rgb is None else np.hstack([xyz, rgb])
            np.savetxt(file, columns, fmt=["%.6f"] * 3 + ["%d"] * (columns.shape[1] - 3))
        else:
            table = np.empty(len(xyz), [(name, "<f4" if kind == "float" else "u1") for kind, name in kinds])
            for i, (_, name) in enumerate(kinds):
                table[name] = xyz[:, i] if i < 3 or rgb is None else rgb[:, i - 3]
            table.tofile(file)
    return len(lines)


def plyfile_arrays(path: Path) -> list[np.ndarray]:
    """The same arrays through plyfile, which maps the file: nothing is read until the columns are taken."""
    vertex = PlyData.read(str(path))["vertex"]
    triples = [("x", "y", "z"), ("red", "green", "blue")]
    return [np.stack([vertex[name] for name in triple], axis=1) for triple in triples if triple[0] in vertex.data.dtype.names]


def reading_rows(folder: Path, xyz: np.ndarray, rgb: np.ndarray) -> list[Row]:
    binary, plain, coloured = (folder / f"{name}.ply" for name in ("binary", "plain", "coloured"))
    write_ply(binary, xyz, rgb, "binary_little_endian")
    header_lines = write_ply(plain, xyz, None, "ascii")
    write_ply(coloured, xyz, rgb, "ascii")
    for path in (binary, plain, coloured):
        np.testing.assert_array_equal(read_cloud(path).xyz, plyfile_arrays(path)[0])
    ms = medians_ms(
        {
            "binary": lambda: read_cloud(binary),
            "binary plyfile": lambda: plyfile_arrays(binary),
            "plain": lambda: read_cloud(plain),
            "plain plyfile": lambda: plyfile_arrays(plain),
            "plain loadtxt": lambda: np.loadtxt(plain, skiprows=header_lines),
            "coloured": lambda: read_cloud(coloured),
            "coloured plyfile": lambda: plyfile_arrays(coloured),
        }
    )
    return [
        row("ply_binary_1m_parse_ms", ms["binary"], "ms", most=20),
        row("ply_binary_1m_vs_plyfile", ms["binary plyfile"] / ms["binary"], "x"),
        row("ply_ascii_1m_parse_ms", ms["plain"], "ms"),
        row("ply_ascii_1m_vs_plyfile", ms["plain plyfile"] / ms["plain"], "x", least=5),
        row("ply_ascii_1m_vs_loadtxt", ms["plain loadtxt"] / ms["plain"], "x"),
        row("ply_ascii_rgb_1m_vs_plyfile", ms["coloured plyfile"] / ms["coloured"], "x", least=5),
    ]


def text_rows(folder: Path, xyz: np.ndarray, rgb: np.ndarray) -> list[Row]:
    """XYZ text against numpy's reader, as scanners, np.savetxt and map coordinates have it."""
    utm = xyz + np.array([500_000.0, 5_400_000.0, 300.0])
    tables = {
        "xyz_text_1m": (xyz, ["%.6f"] * 3),
        "xyz_text_1m_coloured": (np.hstack([xyz, rgb]), ["%.6f"] * 3 + ["%d"] * 3),
        "xyz_text_1m_17_digits": (utm, ["%.10f"] * 3),
        "xyz_text_1m_exponents": (utm, ["%.18e"] * 3),
    }
    runs: dict[str, Callable[[], object]] = {}
    for name, (table, forms) in tables.items():
        path = folder / f"{name}.xyz"
        np.savetxt(path, table, fmt=forms)
        np.testing.assert_array_equal(read_cloud(path).xyz, np.loadtxt(path)[:, :3])
        runs[name] = partial(read_cloud, path)
        runs[f"{name} loadtxt"] = partial(np.loadtxt, path)
    ms = medians_ms(runs)
    least = {"xyz_text_1m": 3, "xyz_text_1m_coloured": 3}  # the others must only not be slower
    rows = [row(f"{name}_vs_loadtxt", ms[f"{name} loadtxt"] / ms[name], "x", least=least.get(name, 1)) for name in tables]
    return [row("xyz_text_1m_ms", ms["xyz_text_1m"], "ms"), *rows]


def survey_rows(folder: Path, xyz: np.ndarray, rgb: np.ndarray) -> list[Row]:
    """LAS, LAZ and PCD, as the service reads them: what a model may need of every point."""
    las, laz, pcd, packed = (folder / f"scan.{name}" for name in ("las", "laz", "pcd", "packed.pcd"))
    scan = laspy.create(point_format=3, file_version="1.2")
    scan.header.scales, scan.header.offsets = [0.001] * 3, [500_000.0, 5_400_000.0, 0.0]
    scan.x, scan.y, scan.z = (xyz + np.array([500_000.0, 5_400_000.0, 0.0])).T
    scan.red, scan.green, scan.blue = 257 * rgb.T.astype(np.uint16)
    scan.write(las)
    scan.write(laz)
    cloud = Pypcd4.from_xyzi_points(np.column_stack([xyz, rgb[:, 0].astype(np.float32)]))
    cloud.save(pcd, Encoding.BINARY)
    cloud.save(packed, Encoding.BINARY_COMPRESSED)
    for path in (las, laz):
        np.testing.assert_array_equal(read_cloud(path).xyz, laspy.read(path).xyz)
    for path in (pcd, packed):
        np.testing.assert_array_equal(read_cloud(path).xyz, Pypcd4.from_path(path).numpy(("x", "y", "z")))

    def points_of(path: Path) -> object:
        return laspy.read(path).xyz if path in (las, laz) else Pypcd4.from_path(path).numpy()

    paths = {"las_1m": las, "laz_1m": laz, "pcd_binary_1m": pcd, "pcd_compressed_1m": packed}
    runs: dict[str, Callable[[], object]] = {name: partial(read_cloud, path, extra=False) for name, path in paths.items()}
    ms = medians_ms(runs | {f"{name} peer": partial(points_of, path) for name, path in paths.items()})
    most = {"las_1m": 150, "pcd_binary_1m": 30}
    rows = [row(f"{name}_ms", ms[name], "ms", most=most.get(name)) for name in paths]
    return rows + [row(f"{name}_vs_{'laspy' if 'la' in name else 'pypcd4'}", ms[f"{name} peer"] / ms[name], "x") for name in paths]


def unique_voxels(xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The textbook version: np.unique over rows, then the mean of the points of each."""
    cells = np.floor((xyz - xyz.min(axis=0)) / np.float32(VOXEL_SIZE_M)).astype(np.int32)
    coords, inverse, counts = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(inverse, weights=column) for column in xyz.T], axis=1)
    return coords, (sums / counts[:, None]).astype(np.float32), inverse


def voxelizing_rows(xyz: np.ndarray, rng: np.random.Generator) -> list[Row]:
    spec = InputSpec(features=tuple(FeatureSpec(name=axis) for axis in ("x", "y", "z")), voxel_size=VOXEL_SIZE_M)
    sphere = spec.model_copy(update={"normalise": "unit_sphere"})
    cloud = PointCloud(xyz)
    scattered = PointCloud(rng.normal(0, 1000, (POINTS, 3)).astype(np.float32))
    low, high = xyz.min(axis=0), xyz.max(axis=0) + VOXEL_SIZE_M
    # five points a voxel, as in spconv's own example; it returns no voxel of each point, so it has less to do
    peer = Point2VoxelCPU3d([VOXEL_SIZE_M] * 3, [*low.tolist(), *high.tolist()], 3, 1_000_000, 5)
    tensor = tv.from_numpy(xyz)

    voxels, (coords, feats, inverse) = voxelize(cloud, spec), unique_voxels(xyz)
    for found, expected in zip((voxels.coords, voxels.feats, voxels.inverse), (coords, feats, inverse), strict=True):
        np.testing.assert_array_equal(found, expected)
    theirs = len(peer.point_to_voxel(tensor)[0].numpy())
    if abs(theirs - len(voxels)) > 0.001 * len(voxels):  # points on a border may round to either side
        raise RuntimeError(f"spconv found {theirs} voxels, we {len(voxels)}")
    ms = medians_ms(
        {
            "ours": lambda: voxelize(cloud, spec),
            "unique": lambda: unique_voxels(xyz),
            "spconv": lambda: peer.point_to_voxel(tensor),
            "scattered": lambda: voxelize(scattered, spec),
            "prepare": lambda: prepare(cloud, sphere),
        }
    )
    return [
        row("voxelize_1m_ms", ms["ours"], "ms", most=150),
        row("voxelize_1m_vs_numpy_unique", ms["unique"] / ms["ours"], "x"),
        row("voxelize_1m_vs_spconv", ms["spconv"] / ms["ours"], "x"),
        row("voxelize_1m_scattered_ms", ms["scattered"], "ms"),  # every point in a cell of its own
        row("prepare_1m_unit_sphere_ms", ms["prepare"], "ms"),
    ]


def main() -> None:
    rng = np.random.default_rng(0)
    xyz, rgb = room(rng), rng.integers(0, 256, (POINTS, 3), np.uint8)
    rows = voxelizing_rows(xyz, rng)
    with tempfile.TemporaryDirectory() as folder:
        rows += reading_rows(Path(folder), xyz, rgb)
        rows += text_rows(Path(folder), xyz, rgb)
        rows += survey_rows(Path(folder), xyz, rgb)
    rows += service_overhead.rows()
    report.write("io", ABOUT, rows)


if __name__ == "__main__":
    main()
