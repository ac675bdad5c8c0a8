"""A city of 20 million points, built from real scans, through `fip predict`: tiles against one piece, points in another order, memory.

    FIP_DATA=... python -m tests.bench.bench_tiling

The scans are turned and set side by side, 70 m apart, so that streets run into each other. Memory is the largest resident size of the
whole command, reading and writing included, as the system reports it at its end.
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.io import read_cloud
from models.pointcloud import PointCloud
from models.predictor import Predictor
from models.registry import Catalogue
from models.segmenting import InTiles, segmenting
from models.tiling import TILE, TileSize
from tests.bench.report import Row, write

MODEL = "lidar19"
SCANS = "semantickitti/sequences"
SPACING_M = 70.0
CITY_SCANS = 162  # 20 million points
DISTRICT_SCANS = 24  # 3 million, whose logits in one piece and in tiles fit side by side
TILED = 200_000  # voxels of a tile of the district
WHOLE = 1 << 40  # never reached: one piece
SAME_LABELS = 0.99999
BYTES_PER_POINT = 64
ABOUT = (
    f"Full SemanticKITTI scans turned and set side by side {SPACING_M:.0f} m apart, through the bundled model `{MODEL}`. The district "
    f"({DISTRICT_SCANS} scans) in tiles of {TILED:,} voxels against one forward pass, in one process. The city ({CITY_SCANS} scans), as "
    f"binary PLY, through `fip predict --format same`: with the default tile of {TILE.voxels:,} voxels, in one piece, and with its points "
    "shuffled. The tile budget is the largest resident size of the same command on a cloud that is one whole tile, less "
    f"{BYTES_PER_POINT} bytes for each of its points."
)


def main() -> int:
    scans = [read_cloud(path, extra=False) for path in sorted((Path(os.environ["FIP_DATA"]) / SCANS).rglob("*.bin"))]
    rows = district_rows(side_by_side(scans, DISTRICT_SCANS))
    with tempfile.TemporaryDirectory() as folder:
        rows += city_rows(Path(folder), scans)
    write("tiling", ABOUT, rows, values="found")
    return 0 if all(each["holds"] for each in rows) else 1


def side_by_side(scans: list[PointCloud], count: int) -> PointCloud:
    """A square of scans, each turned about its scanner by an angle of its own."""
    rng = np.random.default_rng(0)
    side = int(np.ceil(np.sqrt(count)))
    xyz, intensity = [], []
    for number in range(count):
        scan, angle = scans[number % len(scans)], rng.uniform(0, 2 * np.pi)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
        there = scan.xyz.copy()
        there[:, :2] = there[:, :2] @ turn.T + np.float32(SPACING_M) * np.array([number % side, number // side], np.float32)
        xyz.append(there)
        intensity.append(np.asarray(scan.intensity))
    return PointCloud(np.concatenate(xyz), intensity=np.concatenate(intensity))


def district_rows(cloud: PointCloud) -> list[Row]:
    """Logits and labels of tiles against those of one forward pass."""
    predictor = Predictor.load(Catalogue().locate(MODEL)[0])
    voxels = predictor.voxelize(cloud)
    logits = predictor.logits(voxels)
    whole = predictor.answers_of_points(voxels, logits)
    work = segmenting(predictor, cloud, tile=TileSize(TILED))
    spec = predictor.manifest.input
    assert isinstance(work, InTiles)
    starts = {tuple(cell): row for row, cell in enumerate(voxels.coords.tolist())}
    largest, compared = 0.0, 0
    for part, tile in enumerate(work.tiled.tiles):
        mine = work.voxelize(part)
        found = predictor.logits(mine)
        work.take(part, mine, found)
        core = np.unique(np.concatenate([inverse for _, _, inverse in work.tiled.points(tile, mine)]))
        same = [starts[tuple(cell)] for cell in (mine.coords[core] + tile.base).tolist()]
        largest = max(largest, float((found[core] - logits[same]).abs().max()))
        compared += len(core)
    tiled = work.result()
    assert compared == len(voxels)
    assert spec.devoxelize == "trilinear"
    return [
        row("district_points", len(cloud), ""),
        row("district_tiles", work.parts, ""),
        row("tiled_vs_untiled_logits_largest_difference", largest, "", most=1e-4),
        row("tiled_vs_untiled_same_labels", float((tiled.labels == whole.labels).mean()), "", least=SAME_LABELS),
    ]


@dataclass(frozen=True)
class Run:
    """A command that ended well. labels (N,); its largest resident size in bytes; wall time in seconds."""

    labels: np.ndarray
    peak: int
    seconds: float


def city_rows(folder: Path, scans: list[PointCloud]) -> list[Row]:
    city = side_by_side(scans, CITY_SCANS)
    order = np.random.default_rng(1).permutation(len(city))
    one = side_by_side(scans, one_tile(scans))
    tile, tiled = predict(folder, one), predict(folder, city)
    whole, shuffled = predict(folder, city, WHOLE), predict(folder, city.take(order))
    more = len(city) - len(one)
    budget = tile.peak - BYTES_PER_POINT * len(one)
    return [
        row("city_points", len(city), ""),
        row("city_tiled_vs_untiled_same_labels", float((tiled.labels == whole.labels).mean()), "", least=SAME_LABELS),
        row("city_shuffled_same_labels", float((tiled.labels[order] == shuffled.labels).mean()), "", least=SAME_LABELS),
        row("city_peak_mib", tiled.peak / 2**20, "MiB", most=(budget + BYTES_PER_POINT * len(city)) / 2**20),
        row("city_shuffled_peak_mib", shuffled.peak / 2**20, "MiB", most=(budget + BYTES_PER_POINT * len(city)) / 2**20),
        row("city_bytes_a_point_over_one_tile", (tiled.peak - tile.peak) / more, "B", most=BYTES_PER_POINT),
        row("one_tile_points", len(one), ""),
        row("one_tile_peak_mib", tile.peak / 2**20, "MiB"),
        row("city_untiled_peak_mib", whole.peak / 2**20, "MiB"),
        row("city_seconds", tiled.seconds, "s"),
        row("city_untiled_seconds", whole.seconds, "s"),
    ]


def one_tile(scans: list[PointCloud]) -> int:
    """How many scans side by side are as many voxels as a tile holds, or little less."""
    predictor = Predictor.load(Catalogue().locate(MODEL)[0])
    count = DISTRICT_SCANS
    each = len(predictor.voxelize(side_by_side(scans, count))) / count
    return int(TILE.voxels / each)


def predict(folder: Path, cloud: PointCloud, tile_voxels: int = TILE.voxels) -> Run:
    """`fip predict` on a binary PLY, in a process of its own."""
    path, out = folder / "city.ply", folder / "labelled.ply"
    names = ("x", "y", "z", "intensity")
    table = np.rec.fromarrays([*cloud.xyz.T, np.asarray(cloud.intensity)], dtype=[(name, "<f4") for name in names])
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(cloud)}\n"
    with path.open("wb") as file:
        file.write((header + "".join(f"property float {name}\n" for name in names) + "end_header\n").encode())
        table.tofile(file)
    del table
    command = [
        sys.executable,
        "-c",
        "from models.cli import main; main()",
        "predict",
        str(path),
        "--model",
        MODEL,
        "--format",
        "same",
        "--force",
    ]
    started = time.perf_counter()
    child = subprocess.Popen([*command, "--out", str(out), "--tile-voxels", str(tile_voxels)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {child.returncode}")
    seconds = time.perf_counter() - started
    answer = read_cloud(out)
    assert np.array_equal(answer.xyz, cloud.xyz)
    return Run(np.asarray(answer.extra["label"]), usage.ru_maxrss * 1024, seconds)


def row(name: str, value: float, unit: str, least: float | None = None, most: float | None = None) -> Row:
    """A line of the result."""
    bar = f">= {least:g}" if least is not None else f"<= {most:g}" if most is not None else None
    holds = (least is None or value >= least) and (most is None or value <= most)
    return {"name": name, "value": value if value < 1 else round(value, 1), "unit": unit, "bar": bar, "holds": holds}


if __name__ == "__main__":
    sys.exit(main())
