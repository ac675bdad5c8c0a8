"""The service answers exactly what the training side would compute: the same voxels byte for byte, the same logits bit for bit."""

import asyncio
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import Request

from models.io import read_cloud
from models.predictor import Predictor
from models.voxelize import Voxels, prepare, voxelize
from service.app import create_app
from service.pool import Live
from service.routes.upload_parts import read_voxels
from service.schemas import ClassifyOptions, ModelRef
from service.settings import Settings
from service.telemetry import Telemetry, Timings
from service.uploads import Spool, Upload

RNG = np.random.default_rng(7)


def binary_ply(xyz: np.ndarray) -> bytes:
    kind = {"f4": "float", "f8": "double"}[xyz.dtype.str[1:]]
    properties = "".join(f"property {kind} {axis}\n" for axis in "xyz")
    return f"ply\nformat binary_little_endian 1.0\nelement vertex {len(xyz)}\n{properties}end_header\n".encode() + xyz.tobytes()


CLOUDS = {
    "few points": RNG.normal(size=(40, 3)).astype("<f4"),
    "more points than the budget": RNG.normal(size=(5000, 3)).astype("<f4"),
    "double, far from the origin": RNG.normal(size=(1500, 3)).astype("<f8") + 4e6,
    "duplicates": np.repeat(RNG.normal(size=(50, 3)), 30, axis=0).astype("<f4"),
    "flat": (RNG.normal(size=(900, 3)) * [1, 1, 0]).astype("<f4"),
}


@pytest.fixture(scope="module")
def predictor(tiny_registry: Path) -> Predictor:
    return Predictor.load(tiny_registry / "tiny" / "1")


def as_training_does(path: Path, predictor: Predictor) -> Voxels:
    spec = predictor.manifest.input
    return voxelize(prepare(read_cloud(path), spec), spec)


@pytest.mark.parametrize("xyz", CLOUDS.values(), ids=CLOUDS)
def test_the_same_bytes_give_the_same_voxels(xyz: np.ndarray, predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "cloud.ply"
    path.write_bytes(binary_ply(xyz))
    trained = as_training_does(path, predictor)
    spool = Spool(tmp_path)
    spool.write(path.read_bytes())
    model = Live(ModelRef(name="tiny", version="1", digest="", alias=None), predictor, "tiny", predictor.engine.name)
    request = Request({"type": "http", "headers": [(b"content-type", b"application/octet-stream")]})
    served = read_voxels(Upload(spool, request), model, ClassifyOptions(), Timings(Telemetry()), max_points=10_000).voxels
    for name in ("coords", "feats", "inverse"):
        ours, theirs = getattr(served, name), getattr(trained, name)
        assert ours.dtype == theirs.dtype
        assert ours.tobytes() == theirs.tobytes(), name
    assert served.filled == trained.filled


def test_logits_over_http_equal_the_predictor_bit_for_bit(predictor: Predictor, tiny_registry: Path, tmp_path: Path) -> None:
    bodies = {name: binary_ply(xyz) for name, xyz in CLOUDS.items()}
    served = asyncio.run(post_all(create_app(Settings(registry=str(tiny_registry), model="tiny")), list(bodies.values())))
    for (name, body), answer in zip(bodies.items(), served, strict=True):
        path = tmp_path / "cloud.ply"
        path.write_bytes(body)
        [expected] = predictor.classify([as_training_does(path, predictor)])
        assert np.array(answer["logits"], np.float32).tobytes() == expected.logits.tobytes(), name
        assert [entry["index"] for entry in answer["predictions"]] == expected.ranking.tolist()
        assert [np.float32(entry["score"]) for entry in answer["predictions"]] == [expected.scores[i] for i in expected.ranking]


async def post_all(app, bodies: list[bytes]) -> list[dict]:
    """Answers of the app, started and stopped as a server would."""
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client,
    ):
        responses = [await client.post("/v1/classify?logits=true", content=body) for body in bodies]
    return [response.raise_for_status().json() for response in responses]
