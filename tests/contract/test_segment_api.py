"""POST /v1/segment: a class for every point of the file, in its order, in every format; each is parsed here by numpy alone."""

import csv
import io
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from models.answers import ANSWERS
from models.artefact import read_manifest
from models.io import read_cloud
from models.labels import load_label_map
from models.pointcloud import PointCloud
from models.predictor import Predictor
from models.processor import Segmentation
from service.answer_file import PIECE
from service.app import create_app
from service.routes.segment import accepted
from service.settings import Settings
from tests.sweep import sweep

Answers = Callable[..., Segmentation]
Ball = Callable[[int], bytes]
Serve = Callable[[FastAPI], AbstractContextManager[httpx.Client]]

STREETS = load_label_map("semantickitti19")
IDS = np.array([each.ids[0] for each in STREETS.classes])
COLOURS = np.array([each.colour for each in STREETS.classes])
TYPES = {"float": "f4", "double": "f8", "uchar": "u1", "ushort": "u2", "uint": "u4", "int": "i4", "char": "i1", "short": "i2"}


@pytest.fixture(scope="module")
def streets(segment_registry: Path) -> Answers:
    """What the Predictor says, asked without a service."""
    predictor = Predictor.load(segment_registry / "streets" / "1")
    return lambda cloud, **frame: predictor.segment([predictor.voxelize(cloud, **frame)])[0]


def kitti(body: bytes) -> PointCloud:
    table = np.frombuffer(body, "<f4").reshape(-1, 4)
    return PointCloud(table[:, :3], intensity=np.ascontiguousarray(table[:, 3]))


def ask(client: httpx.Client, body: bytes, name: str = "street.bin", **options: str) -> httpx.Response:
    response = client.post("/v1/segment", params=options, content=body, headers={"X-Filename": name})
    assert response.status_code == 200, response.text
    return response


def classes_of(response: httpx.Response) -> list[int]:
    """Of an answer in the format label."""
    ids = np.frombuffer(response.content, "<u4")
    return [IDS.tolist().index(each) for each in ids]


def ply_of(content: bytes) -> np.ndarray:
    """The vertices of a PLY file whose rows all are one struct."""
    head, _, body = content.partition(b"end_header\n")
    lines = head.decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    words = [line.split() for line in lines]
    rows = np.dtype([(name, "<" + TYPES[kind]) for word, kind, name in (each for each in words if each[0] == "property")])
    [count] = [int(each[2]) for each in words if each[:2] == ["element", "vertex"]]
    table = np.frombuffer(body, rows)
    assert len(table) == count
    return table


def written_ply(xyz: np.ndarray, rgb: np.ndarray | None = None) -> bytes:
    columns = {axis: xyz[:, i].astype("<f4") for i, axis in enumerate("xyz")}
    if rgb is not None:
        columns |= {name: rgb[:, i].astype("u1") for i, name in enumerate(("red", "green", "blue"))}
    table = np.empty(len(xyz), [(name, column.dtype) for name, column in columns.items()])
    for name, column in columns.items():
        table[name] = column
    kinds = "".join(f"property {'float' if column.dtype == '<f4' else 'uchar'} {name}\n" for name, column in columns.items())
    return f"ply\nformat binary_little_endian 1.0\nelement vertex {len(xyz)}\n{kinds}end_header\n".encode() + table.tobytes()


def test_json(segment_client: httpx.Client, scan: bytes, streets: Answers, segment_registry: Path) -> None:
    response = ask(segment_client, scan)
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert set(answer) == {"model", "num_points", "num_voxels", "filled", "scaled", "tiles", "halo", "timings_ms", "classes", "palette"}
    assert (answer["tiles"], answer["halo"]) == (1, None)
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
    ids = np.frombuffer(ask(segment_client, scan, format="label").content, "<u4")
    assert ids.tolist() == IDS[streets(kitti(scan)).labels].tolist()
    assert len(set(ids.tolist())) > 5  # so that a mixed-up order would be seen


def test_as_curl_sends_it(segment_client: httpx.Client) -> None:
    """`curl --data-binary @street.bin '.../v1/segment?format=label'`: no file name, and a content type that says nothing."""
    said = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "*/*"}
    scan = sweep(4).tobytes()
    response = segment_client.post("/v1/segment?format=label", content=scan, headers=said)
    assert len(response.content) == 4 * 2000
    assert response.content == ask(segment_client, scan, format="label").content


def test_npz(segment_client: httpx.Client, scan: bytes, streets: Answers) -> None:
    arrays = np.load(io.BytesIO(ask(segment_client, scan, format="npz").content), allow_pickle=False)
    found = streets(kitti(scan))
    assert set(arrays) == {"labels", "ids", "confidence", "names"}
    assert arrays["labels"].tolist() == found.labels.tolist()
    assert arrays["ids"].tolist() == IDS[found.labels].tolist()
    assert arrays["confidence"].tobytes() == found.confidence.tobytes()
    assert arrays["names"].tolist() == list(STREETS.names)


def test_raw(segment_client: httpx.Client, scan: bytes, streets: Answers) -> None:
    content, found = ask(segment_client, scan, format="raw").content, streets(kitti(scan))
    assert len(content) == 3 * 3000
    assert np.frombuffer(content, "u1", 3000).tolist() == found.labels.tolist()
    np.testing.assert_allclose(np.frombuffer(content, "<f2", 3000, offset=3000), found.confidence, atol=2.5e-4)


def test_ply(segment_client: httpx.Client, scan: bytes, streets: Answers) -> None:
    table, found, cloud = ply_of(ask(segment_client, scan, format="ply").content), streets(kitti(scan)), kitti(scan)
    assert table.dtype.names == ("x", "y", "z", "intensity", "label", "confidence", "label_red", "label_green", "label_blue")
    assert np.stack([table[axis] for axis in "xyz"], axis=1).tobytes() == cloud.xyz.tobytes()
    assert table["intensity"].tobytes() == np.asarray(cloud.intensity).tobytes()
    assert table["label"].tolist() == found.labels.tolist()
    assert table["confidence"].tobytes() == found.confidence.tobytes()
    colours = np.stack([table[f"label_{name}"] for name in ("red", "green", "blue")], axis=1)
    assert colours.tolist() == COLOURS[found.labels].tolist()


@pytest.mark.parametrize(
    ("fmt", "media_type"),
    [
        ("json", "application/json"),
        ("label", "application/octet-stream"),
        ("npz", "application/x-npz"),
        ("raw", "application/octet-stream"),
        ("ply", "application/ply"),
    ],
)
def test_headers(segment_client: httpx.Client, scan: bytes, fmt: str, media_type: str) -> None:
    headers = ask(segment_client, scan, format=fmt).headers
    assert headers["Content-Type"] == media_type
    assert (headers["X-Model"], headers["X-Num-Points"]) == ("streets:1", "3000")
    assert headers["Content-Disposition"] == f'attachment; filename="street.{fmt}"'
    stages = [part.split(";")[0] for part in headers["Server-Timing"].split(", ")]
    assert stages == ["read", "parse", "voxelize", "queue", "forward", "encode"]
    assert "X-Filled" not in headers


@pytest.mark.parametrize("fmt", ["json", "label", "npz", "raw", "ply"])
def test_multipart_gives_the_same_answer(segment_client: httpx.Client, scan: bytes, fmt: str) -> None:
    form = segment_client.post("/v1/segment", params={"format": fmt}, files={"file": ("a/b/street.bin", scan)})
    raw = ask(segment_client, scan, format=fmt)
    assert form.headers["Content-Disposition"] == raw.headers["Content-Disposition"]
    if fmt == "json":
        assert {**form.json(), "timings_ms": 0} == {**raw.json(), "timings_ms": 0}
    else:
        assert form.content == raw.content


def test_permuted_points_give_permuted_labels(segment_client: httpx.Client, scan: bytes) -> None:
    order = np.random.default_rng(1).permutation(3000)
    permuted = np.frombuffer(scan, "<f4").reshape(-1, 4)[order].tobytes()
    straight, other = (np.frombuffer(ask(segment_client, body, format="label").content, "<u4") for body in (scan, permuted))
    assert other.tolist() == straight[order].tolist()
    assert other.tolist() != straight.tolist()


def test_trilinear(segment_client: httpx.Client, scan: bytes, segment_registry: Path) -> None:
    predictor = Predictor.load(segment_registry / "smooth" / "1")
    [found] = predictor.segment([predictor.voxelize(kitti(scan))])
    answer = ask(segment_client, scan, model="smooth", format="label")
    assert answer.headers["X-Model"] == "smooth:1"
    assert classes_of(answer) == found.labels.tolist()


def test_up_axis_and_unit_are_for_the_net_alone(segment_client: httpx.Client, scan: bytes, streets: Answers) -> None:
    """The answer stays in the frame of the file."""
    cloud = kitti(scan)
    millimetres = (np.frombuffer(scan, "<f4").reshape(-1, 4) * np.array([1000, 1000, 1000, 1], np.float32)).tobytes()
    table = ply_of(ask(segment_client, millimetres, format="ply", unit="mm", up="y").content)
    found = streets(kitti(millimetres), unit="mm", up="y")
    assert table["label"].tolist() == found.labels.tolist()
    assert table["z"].tobytes() == kitti(millimetres).xyz[:, 2].tobytes()
    assert found.labels.tolist() != streets(cloud).labels.tolist()
    answer = ask(segment_client, millimetres, unit="mm").json()
    assert min(entry["bounds"]["min"][0] for entry in answer["classes"]) == kitti(millimetres).xyz[:, 0].min()


@pytest.mark.parametrize("fmt", ["json", "label", "npz", "raw", "ply"])
def test_a_filled_feature_is_said(segment_client: httpx.Client, ball: Ball, fmt: str) -> None:
    response = ask(segment_client, ball(500), "ball.ply", format=fmt)
    assert response.headers["X-Filled"] == "intensity"
    if fmt == "json":
        assert response.json()["filled"] == ["intensity"]


@pytest.mark.parametrize(
    ("accept", "fmt"),
    [
        ("application/ply", "ply"),
        ("application/x-npz", "npz"),
        ("application/octet-stream", "label"),
        ("application/json", "json"),
        ("*/*", "json"),
        ("", "json"),
        ("text/html, application/xhtml+xml, */*;q=0.8", "json"),
        ("application/json;q=0.5, application/PLY ; q=0.9", "ply"),
        ("application/ply;q=0, application/x-npz;q=0.1", "npz"),
        ("application/ply;q=x, ;;, q", "json"),
    ],
)
def test_accept(segment_client: httpx.Client, scan: bytes, accept: str, fmt: str) -> None:
    assert accepted(accept) == fmt
    response = segment_client.post("/v1/segment", params={"input_format": "bin"}, content=scan, headers={"Accept": accept})
    assert response.headers["Content-Disposition"] == f'attachment; filename="points.{fmt}"'


def test_format_wins_over_accept(segment_client: httpx.Client, scan: bytes) -> None:
    options = {"input_format": "bin", "format": "raw"}
    response = segment_client.post("/v1/segment", params=options, content=scan, headers={"Accept": "application/ply"})
    assert len(response.content) == 3 * 3000


def test_strange_file_names_over_http(segment_client: httpx.Client, scan: bytes) -> None:
    form = segment_client.post("/v1/segment", params={"format": "raw"}, files={"file": ('ein "Straßen"-scan;.bin', scan)})
    named = r"attachment; filename=\"[A-Za-z0-9._-]+\.raw\"; filename\*=UTF-8''[A-Za-z0-9._%-]+\.raw"
    assert re.fullmatch(named, form.headers["Content-Disposition"])


@pytest.mark.parametrize(
    ("sent", "safe", "whole"),
    [
        ("Straße am Fluß.bin".encode(), "Stra_e_am_Flu_.raw", "Stra%C3%9Fe%20am%20Flu%C3%9F.raw"),
        ("Straße.bin".encode("latin-1"), "Stra_e.raw", "Stra%C3%9Fe.raw"),
        ("点云.bin".encode(), "_.raw", "%E7%82%B9%E4%BA%91.raw"),
    ],
)
def test_a_name_in_any_letters_comes_back(segment_client: httpx.Client, scan: bytes, sent: bytes, safe: str, whole: str) -> None:
    answer = segment_client.post("/v1/segment", params={"format": "raw"}, content=scan, headers={b"X-Filename": sent})
    assert answer.headers["Content-Disposition"] == f"attachment; filename=\"{safe}\"; filename*=UTF-8''{whole}"


def test_a_large_answer_arrives_whole(segment_client: httpx.Client, streets: Answers) -> None:
    xyz = np.random.default_rng(3).uniform(-20, 20, (150_000, 3)).astype("<f4")
    response = ask(segment_client, written_ply(xyz), "large.ply", format="ply")
    assert len(response.content) == int(response.headers["Content-Length"]) > 2 * PIECE
    table = ply_of(response.content)
    assert table["x"].tobytes() == xyz[:, 0].tobytes()
    assert table["label"].tolist() == streets(PointCloud(xyz)).labels.tolist()


@pytest.mark.parametrize(("as_it_is", "options"), [("npy", {}), ("npz", {}), ("nuscenes", {"input_format": "nuscenes"}), ("off", {})])
def test_every_reader(segment_client: httpx.Client, streets: Answers, as_it_is: str, options: dict[str, str], tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    table = np.concatenate([rng.uniform(-4, 4, (700, 3)), rng.random((700, 2))], axis=1).astype("<f4")
    buffer = io.BytesIO()
    if as_it_is == "npy":
        np.save(buffer, table[:, :3])
    elif as_it_is == "npz":
        np.savez(buffer, xyz=table[:, :3], intensity=table[:, 3])
    elif as_it_is == "nuscenes":
        buffer.write(table.tobytes())
    else:
        buffer.write(b"OFF\n700 0 0\n" + b"\n".join(b"%f %f %f" % tuple(row) for row in table[:, :3]))
    path = tmp_path / f"cloud.{as_it_is}"
    path.write_bytes(buffer.getvalue())
    answer = ask(segment_client, buffer.getvalue(), "cloud", format="label", **options)
    assert classes_of(answer) == streets(read_cloud(path, options.get("input_format"))).labels.tolist()
    assert answer.headers["X-Num-Points"] == "700"
    assert ("X-Filled" in answer.headers) == (as_it_is in ("npy", "off"))


def test_models_show_their_task_and_their_label_map(segment_client: httpx.Client) -> None:
    shown = segment_client.get("/v1/models/streets").json()
    assert (shown["task"], shown["default"]) == ("segment", True)
    assert [each["name"] for each in shown["label_map"]["classes"]] == shown["labels"] == list(STREETS.names)
    assert [each["colour"] for each in shown["label_map"]["classes"]] == COLOURS.tolist()
    assert [each["ids"][0] for each in shown["label_map"]["classes"]] == IDS.tolist()
    listed = {model["name"]: model for model in segment_client.get("/v1/models").json()["models"]}
    assert listed["streets"]["label_map"] == shown["label_map"]
    assert listed["tiny"]["label_map"] is None
    assert {name for name, model in listed.items() if model["default"]} == {"modelnet40", "streets"}


def test_openapi_describes_the_answers(segment_client: httpx.Client) -> None:
    document = segment_client.get("/openapi.json").json()
    operation = document["paths"]["/v1/segment"]["post"]
    answers = operation["responses"]["200"]
    assert set(answers["content"]) == {"application/json", *(each.media_type for each in ANSWERS.values())}
    assert answers["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/SegmentAnswer"}
    for media_type in set(answers["content"]) - {"application/json"}:
        assert answers["content"][media_type]["schema"] == {"type": "string", "format": "binary"}
    assert set(answers["headers"]) == {
        *("X-Model", "X-Num-Points", "X-Filled", "X-Scaled", "X-Tiles", "X-Halo", "Server-Timing", "Content-Disposition")
    }
    assert {each["name"] for each in operation["parameters"]} == {
        "model",
        "format",
        "up",
        "unit",
        "input_format",
        "X-Filename",
        "X-Request-Timeout",
    }
    [formats] = [each for each in operation["parameters"] if each["name"] == "format"]
    assert formats["schema"]["enum"] == ["json", "same", *ANSWERS]
    assert set(operation["responses"]) == {"200", "400", "404", "408", "413", "415", "422", "429", "500", "503", "504", "507"}
    problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
    for status, described in operation["responses"].items():
        assert int(status) < 400 or described["content"] == {"application/problem+json": problem}, status
    assert "multipart/form-data" in operation["requestBody"]["content"]


def test_what_is_counted(segment_settings: Settings, serve: Serve, scan: bytes) -> None:
    with serve(create_app(segment_settings)) as client:
        ask(client, scan, format="npz")
        lines = client.get("/metrics").text.splitlines()
    for stage in ("read", "parse", "voxelize", "queue", "forward", "encode"):
        assert f'fip_stage_duration_seconds_count{{stage="{stage}"}} 1.0' in lines
    assert "fip_batch_points_sum 3000.0" in lines
    assert any(line.startswith('fip_model_info{digest="') and 'name="streets",task="segment",' in line for line in lines)
    [count] = [line for line in lines if line.startswith("fip_request_duration_seconds_count") and "/v1/segment" in line]
    assert count == 'fip_request_duration_seconds_count{code="200",model="streets",route="/v1/segment",version="1"} 1.0'


def check(client: httpx.Client, streets: Answers, body: bytes, name: str, cloud: PointCloud, **options: str) -> None:
    answer = ask(client, body, name, format="label", **options)
    assert answer.headers["X-Num-Points"] == str(len(cloud)), name
    assert len(answer.content) == 4 * len(cloud), name
    frame = {key: value for key, value in options.items() if key in ("up", "unit")}
    assert classes_of(answer) == streets(cloud, **frame).labels.tolist(), name


@pytest.mark.data
def test_the_ply_zoo(segment_client: httpx.Client, streets: Answers, data_dir: Path) -> None:
    with (data_dir / "ply-zoo" / "expected.csv").open(newline="") as file:
        readable = {row["file"]: int(row["expected"]) for row in csv.DictReader(file) if row["expected"] != "refuse"}
    large = [name for name, points in readable.items() if points >= 100]
    assert len(large) == 12
    for name in large:
        path = data_dir / "ply-zoo" / name
        check(segment_client, streets, path.read_bytes(), name, read_cloud(path))


@pytest.mark.data
def test_scans_of_kitti_and_nuscenes(segment_client: httpx.Client, streets: Answers, data_dir: Path) -> None:
    scans = [*sorted(data_dir.glob("semantickitti/sequences/*/velodyne/*.bin")), *sorted(data_dir.glob("lidar_camera/*.bin"))]
    points = {path.name: len(read_cloud(path)) for path in scans}
    assert len(scans) == 6
    assert {"kitti_000008.bin": 17_238, "nuscenes_n015.pcd.bin": 34_688, "000002.bin": 124_478}.items() <= points.items()
    for path in scans:
        check(segment_client, streets, path.read_bytes(), path.name, read_cloud(path))


@pytest.mark.data
def test_rooms_of_s3dis_and_scannet(segment_client: httpx.Client, streets: Answers, data_dir: Path) -> None:
    crop, scene = np.load(data_dir / "s3dis/crop_labelled_xyzrgb.npz"), np.load(data_dir / "scannet/scene0000_00_unlabelled.npz")
    for arrays, points in ((crop, 41_568), (scene, 40_684)):
        assert len(arrays["xyz"]) == points
        check(segment_client, streets, written_ply(arrays["xyz"], arrays["rgb"]), "room.ply", PointCloud(arrays["xyz"], arrays["rgb"]))
    for path, options in ((data_dir / "s3dis/crop_labelled_xyzrgb.npz", {}), (data_dir / "s3dis/room_labelled_xyz.npz", {"unit": "mm"})):
        check(segment_client, streets, path.read_bytes(), path.name, read_cloud(path), **options)
    for path in sorted(data_dir.glob("tiny_fixtures/s*/points/*.bin")):
        table = np.frombuffer(path.read_bytes(), "<f4").reshape(-1, 6)
        cloud = PointCloud(np.ascontiguousarray(table[:, :3]), table[:, 3:].astype(np.uint8))
        check(segment_client, streets, written_ply(table[:, :3], table[:, 3:]), "fixture.ply", cloud)
