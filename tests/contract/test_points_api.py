"""POST /v1/points: the points of a file as columns that lie in memory as a browser wants them."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from models.io import read_cloud
from service.app import create_app
from service.columns import MEDIA_TYPE, rows_shown
from service.settings import Settings
from tests.contract.conftest import Serve

Columns = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def client(serve: Serve, tiny_settings: Settings) -> Iterator[httpx.Client]:
    with serve(create_app(tiny_settings)) as client:
        yield client


def look(client: httpx.Client, body: bytes, name: str, **options: str) -> tuple[dict, Columns]:
    answer = client.post("/v1/points", content=body, headers={"X-Filename": name}, params=options)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == MEDIA_TYPE
    length = int.from_bytes(answer.content[:4], "little")
    assert (4 + length) % 8 == 0
    head = json.loads(answer.content[4 : 4 + length])
    found: Columns = {}
    for each in head["columns"]:
        assert each["offset"] % 8 == 0
        size = head["shown"] * each["width"]
        values = np.frombuffer(answer.content, f"<{each['type']}", size, 4 + length + each["offset"])
        found[each["name"]] = values.reshape(head["shown"], each["width"]) if each["width"] > 1 else values
    assert len(answer.content) % 8 == 0
    return head, found


def test_a_scan(client: httpx.Client, scan: bytes) -> None:
    table = np.frombuffer(scan, "<f4").reshape(-1, 4)
    head, found = look(client, scan, "street.bin")
    assert (head["num_points"], head["shown"], set(found)) == (3000, 3000, {"xyz", "intensity"})
    np.testing.assert_allclose(found["xyz"] + head["origin"], table[:, :3], atol=1e-5)
    np.testing.assert_array_equal(found["intensity"], table[:, 3])
    np.testing.assert_allclose(found["xyz"].min(axis=0), -found["xyz"].max(axis=0), atol=1e-5)


def test_everything_that_a_file_has(client: httpx.Client, tmp_path: Path) -> None:
    """Far from the origin too, and with columns of every kind, one of which is called as ours is."""
    rng, path = np.random.default_rng(0), tmp_path / "a.npz"
    xyz = np.array([500_000.0, 5_000_000.0, 100.0]) + rng.random((50, 3))
    extra = {"row": np.arange(50, dtype="<i8"), "half": rng.random(50).astype("<f2"), "wide": rng.random((50, 2))}
    np.savez(path, xyz=xyz, rgb=rng.integers(0, 256, (50, 3), np.uint8), **extra)
    cloud = read_cloud(path)
    head, found = look(client, path.read_bytes(), "a.npz")
    np.testing.assert_allclose(found["xyz"] + head["origin"], xyz, atol=1e-6)
    np.testing.assert_array_equal(found["rgb"], cloud.rgb)
    for each in head["columns"]:
        if each["extra"]:
            np.testing.assert_array_equal(found[each["name"]], cloud.extra[each["name"]].astype(f"<{each['type']}"))
    assert {each["name"] for each in head["columns"] if each["extra"]} >= {"row", "half"}


def test_some_stand_for_all(client: httpx.Client, scan: bytes) -> None:
    whole = look(client, scan, "street.bin")[1]
    head, found = look(client, scan, "street.bin", most="100")
    assert (head["num_points"], head["shown"]) == (3000, 100)
    rows = found["row"]
    assert (np.diff(rows.astype(int)) > 0).all()
    assert ((rows // 30) == np.arange(100)).all()  # one of each run
    np.testing.assert_array_equal(found["xyz"], whole["xyz"][rows])


@pytest.mark.parametrize(("count", "most"), [(1, 1), (7, 7), (8, 7), (2_000_001, 2_000_000), (10**9, 2_000_000)])
def test_rows_shown(count: int, most: int) -> None:
    rows = rows_shown(count, most)
    if count <= most:
        assert rows is None
    else:
        assert rows is not None
        assert (len(rows), bool((np.diff(rows.astype(np.int64)) > 0).all())) == (most, True)
        assert rows[-1] < count


@pytest.mark.parametrize(
    ("body", "status", "code"), [(b"", 400, "empty_file"), (b"nothing", 415, "unsupported_format"), (b"ply\n", 400, "bad_header")]
)
def test_bad_input(client: httpx.Client, body: bytes, status: int, code: str) -> None:
    answer = client.post("/v1/points", content=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_bad_options(client: httpx.Client, scan: bytes) -> None:
    for query, where in (({"most": "0"}, "most"), ({"most": "2000001"}, "most"), ({"model": "tiny"}, "model")):
        answer = client.post("/v1/points", content=scan, params=query)
        assert (answer.status_code, answer.json()["where"]) == (422, where)
