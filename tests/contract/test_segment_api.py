"""POST /v1/segment: a class for every point of the file, in its order, in every format; each is parsed here by numpy alone."""

import io
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from models.artefact import read_manifest
from models.io import read_cloud
from models.labels import load_label_map
from models.pointcloud import PointCloud
from models.predictor import Predictor, Segmentation

STREETS = load_label_map("semantickitti19")
KITTI = {"input_format": "bin"}

Answers = Callable[[PointCloud], Segmentation]


@pytest.fixture(scope="module")
def streets(segment_registry: Path) -> Answers:
    """What the Predictor says, asked without a service."""
    predictor = Predictor.load(segment_registry / "streets" / "1")
    return lambda cloud: predictor.segment([predictor.voxelize(cloud)])[0]


def kitti(body: bytes) -> PointCloud:
    table = np.frombuffer(body, "<f4").reshape(-1, 4)
    return PointCloud(table[:, :3], intensity=np.ascontiguousarray(table[:, 3]))


def ids_of(response: httpx.Response) -> np.ndarray:
    """The ids of an answer in the format label."""
    assert response.status_code == 200, response.text
    return np.frombuffer(response.content, "<u4")


def test_json(segment_client: httpx.Client, scan: bytes, streets: Answers, segment_registry: Path) -> None:
    response = segment_client.post("/v1/segment", params=KITTI, content=scan)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert set(answer) == {"model", "num_points", "num_voxels", "filled", "timings_ms", "classes", "palette"}
    digest = read_manifest(segment_registry / "streets" / "1")[1]
    assert answer["model"] == {"name": "streets", "version": "1", "digest": digest, "alias": None}
    found, cloud = streets(kitti(scan)), kitti(scan)
    assert (answer["num_points"], answer["num_voxels"], answer["filled"]) == (3000, found.num_voxels, [])
    assert [entry["index"] for entry in answer["classes"]] == np.unique(found.labels).tolist()
    for entry in answer["classes"]:
        mine = found.labels == entry["index"]
        each = STREETS.classes[entry["index"]]
        assert (entry["name"], entry["id"], tuple(entry["colour"])) == (each.name, each.ids[0], each.colour)
        assert (entry["points"], entry["share"]) == (mine.sum(), pytest.approx(mine.mean()))
        assert entry["bounds"] == {"min": cloud.xyz[mine].min(axis=0).tolist(), "max": cloud.xyz[mine].max(axis=0).tolist()}
        assert entry["confidence"] == pytest.approx(found.confidence[mine].mean(dtype=np.float64), abs=1e-6)
    assert sum(entry["points"] for entry in answer["classes"]) == 3000
    assert answer["palette"] == [
        {"name": each.name, "index": index, "id": each.ids[0], "colour": list(each.colour)} for index, each in enumerate(STREETS.classes)
    ]
    assert set(answer["timings_ms"]) == {"read", "parse", "voxelize", "queue", "forward"}


def test_label(segment_client: httpx.Client, scan: bytes, streets: Answers) -> None:
    response = segment_client.post("/v1/segment", params=KITTI | {"format": "label"}, content=scan)
    expected = [STREETS.classes[index].ids[0] for index in streets(kitti(scan)).labels]
    assert ids_of(response).tolist() == expected
    assert len(set(expected)) > 5  # so that a mixed-up order would be seen
    assert response.headers["content-type"] == "application/octet-stream"
