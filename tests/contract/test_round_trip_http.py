"""POST /v1/segment?format=same: files of other programs come back over HTTP with the answer, read by those programs' libraries."""

import io
from pathlib import Path

import httpx
import numpy as np
import pytest

from models.labels import load_label_map
from tests.round_trip import Answer, check_same
from tests.third_party import columns_of, in_metres, las, open3d_ply, pcd_of, text_of

WRITERS = {
    "tower.laz": lambda path: las(path, 7, 4, 3000),
    "street.pcd": lambda path: pcd_of(path, in_metres(columns_of(3000)), "binary_compressed"),
    "room.ply": lambda path: open3d_ply(path, in_metres(columns_of(3000))),
    "table.csv": lambda path: text_of(path, in_metres(columns_of(3000)), "%.9g", ",", ",".join(columns_of(1)) + "\n", "\r\n"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_file_comes_back(segment_client: httpx.Client, tmp_path: Path, name: str) -> None:
    before = WRITERS[name](tmp_path / name)

    def ask(fmt: str) -> httpx.Response:
        response = segment_client.post("/v1/segment", params={"format": fmt}, content=before.read_bytes(), headers={"X-Filename": name})
        assert response.status_code == 200, response.text
        return response

    after = tmp_path / f"after{before.suffix}"
    after.write_bytes(ask("same").content)
    with np.load(io.BytesIO(ask("npz").content)) as plain:
        fmt = "las" if before.suffix == ".laz" else before.suffix[1:]
        answer = Answer(after, fmt, plain["labels"], plain["confidence"], load_label_map("semantickitti19"))
    assert len(answer.labels) == 3000
    assert len(set(answer.labels.tolist())) > 1
    check_same(before, answer)
