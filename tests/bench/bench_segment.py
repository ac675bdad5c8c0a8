"""Where the time of a segmented LiDAR scan goes: reading, voxelizing, the net, mapping back, encoding; and all of it over HTTP.

    FIP_DATA=... python -m tests.bench.bench_segment

The scan is 08/000000 of SemanticKITTI, 123,389 points, the model the bundled one, on all cores.
"""

import io
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx

from models.answers import ANSWERS, Labelled, check_answer, summary, write_answer
from models.errors import BadOption
from models.io import CloudFile, open_cloud
from models.labels import LabelMap
from models.predictor import Predictor
from models.registry import Catalogue
from tests.bench.report import Row, write
from tests.bench.service.process import serving

MODEL = "lidar19"
SCAN = Path("semantickitti/sequences/08/velodyne/000000.bin")
AROUND_MS = 60.0
RUNS, WARM_UPS = 21, 3
ABOUT = (
    f"A full LiDAR scan (SemanticKITTI 08/000000, 123,389 points) through the bundled model `{MODEL}`, all cores: medians of "
    f"{RUNS} interleaved runs in one process, then over a real socket. *Around the net* is reading, voxelizing, mapping back to points and "
    "encoding in the dearest format; shares are of the sum of all stages with `format=label`."
)


def main() -> int:
    path = Path(os.environ["FIP_DATA"]) / SCAN
    predictor = Predictor.load(Catalogue().locate(MODEL)[0])
    times = stages_ms(predictor, path)
    encoding = {name: value for name, value in times.items() if name.startswith("encode")}
    around = sum(times[name] for name in ("read", "voxelize", "map back")) + max(encoding.values())
    total = sum(times[name] for name in ("read", "voxelize", "net", "map back", "encode label"))
    rows = [row(f"{name}_ms".replace(" ", "_"), value) for name, value in times.items()]
    rows.append(row("around_the_net_ms", around, AROUND_MS))
    rows.append(row("stages_with_label_ms", total))
    rows += [
        row(f"share_{name}".replace(" ", "_"), 100 * times[name] / total, unit="%") for name in ("read", "voxelize", "net", "map back")
    ]
    rows += [row(f"http_{fmt}_p50_ms", http_ms(path, fmt)) for fmt in ("label", "json", "ply")]
    write("segment", ABOUT, rows)
    return 0 if all(each["holds"] for each in rows) else 1


def stages_ms(predictor: Predictor, path: Path) -> dict[str, float]:
    """Median milliseconds of each stage, in one process."""
    with open_cloud(path) as file:
        return _stages_ms(predictor, file)


def _stages_ms(predictor: Predictor, file: CloudFile) -> dict[str, float]:
    cloud = file.cloud(extra=False)
    voxels = predictor.voxelize(cloud)
    (found,) = predictor.segment([voxels])
    logits = predictor.forward([voxels])
    label_map = predictor.manifest.label_map
    assert label_map is not None
    answer = Labelled(file, cloud, found.labels, found.confidence, label_map)
    work: dict[str, Callable[[], object]] = {
        "read": partial(file.cloud, extra=False),
        "voxelize": partial(predictor.voxelize, cloud),
        "net": partial(predictor.forward, [voxels]),
        "map back": partial(predictor.answers_of_points, voxels, logits),
        **{f"encode {name}": partial(encode, name, answer) for name in ANSWERS if holds(name, file, label_map)},
        "encode json": partial(summary, cloud.xyz, found.labels, found.confidence, label_map),
    }
    times: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(WARM_UPS + RUNS):
        for name, run in work.items():
            began = time.perf_counter()
            run()
            if turn >= WARM_UPS:
                times[name].append(1000 * (time.perf_counter() - began))
    return {name: statistics.median(found) for name, found in times.items()}


def holds(name: str, file: CloudFile, label_map: LabelMap) -> bool:
    try:
        check_answer(name, file, label_map)
    except BadOption:
        return False
    return True


def encode(name: str, answer: Labelled) -> None:
    write_answer(name, answer, io.BytesIO())


def http_ms(path: Path, fmt: str) -> float:
    """Median milliseconds from sending the scan to having the whole answer, one client."""
    body, times = path.read_bytes(), []
    with serving(FIP_THREADS=str(os.cpu_count())) as url, httpx.Client(base_url=url, timeout=60) as client:
        for turn in range(WARM_UPS + RUNS):
            began = time.perf_counter()
            response = client.post("/v1/segment", params={"format": fmt, "input_format": "bin"}, content=body)
            response.raise_for_status()
            if turn >= WARM_UPS:
                times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def row(name: str, value: float, most: float | None = None, unit: str = "ms") -> Row:
    bar = None if most is None else f"<= {most:g}"
    return {"name": name, "value": round(value, 2), "unit": unit, "bar": bar, "holds": most is None or value <= most}


if __name__ == "__main__":
    sys.exit(main())
