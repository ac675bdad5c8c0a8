"""The real app with an untrained model, behind a real socket; a real MLflow server."""

import importlib.metadata
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI

from models.registry import Registry
from models.registry.local import LocalRegistry
from models.registry.mlflow import MlflowRegistry
from service.app import create_app
from service.connections import Connections
from service.server import configure
from service.settings import Settings
from tests.mlflow_running import MlflowServer, mlflow_running
from tests.published import shifted
from tests.untrained_segmenter import save_segmenter

UNCHANGED = 3600.0  # seconds between looks at a registry that stays as it is
BODY_LIMIT = 32 << 20  # test_bad_input.py goes just over it

Serve = Callable[..., AbstractContextManager[httpx.Client]]
Ball = Callable[[int], bytes]
Shifted = Callable[[int], Path]  # a checkpoint whose logits are shifted by this number
Changed = Callable[..., FastAPI]  # an app with these settings changed


@contextmanager
def _serve(app: FastAPI, *, start: bool = True) -> Iterator[httpx.Client]:
    """A client of the app on a free port; `start=False` leaves the app as it is before its models are loaded."""
    context = app.state.context
    config = configure(app, Connections(context.settings, context.telemetry.registry), lifespan="on" if start else "off")
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:  # or asyncio does not set TCP_NODELAY: 40 ms an answer
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.005)
        try:
            with httpx.Client(base_url="http://{}:{}".format(*listener.getsockname()), timeout=30) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def serve() -> Serve:
    return _serve


@pytest.fixture(scope="session")
def tiny_settings(tiny_registry: Path) -> Settings:
    return Settings(registry=str(tiny_registry), model="tiny", max_body_bytes=BODY_LIMIT, lookup_seconds=UNCHANGED)


@pytest.fixture
def app(tiny_settings: Settings) -> FastAPI:
    """Not started."""
    return create_app(tiny_settings)


@pytest.fixture(scope="session")
def client(tiny_settings: Settings) -> Iterator[httpx.Client]:
    with _serve(create_app(tiny_settings)) as client:
        yield client


@pytest.fixture(scope="session")
def segment_registry(tiny_registry: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier `tiny` and untrained segmenters: `streets` fills a missing intensity, `strict` does not, `smooth` is trilinear."""
    registry = tmp_path_factory.mktemp("segmenters")
    shutil.copytree(tiny_registry / "tiny", registry / "tiny")
    save_segmenter(registry / "streets" / "1", "streets")
    save_segmenter(registry / "strict" / "1", "strict", fill=None)
    save_segmenter(registry / "smooth" / "1", "smooth", devoxelize="trilinear")
    return registry


@pytest.fixture(scope="session")
def segment_settings(segment_registry: Path) -> Settings:
    return Settings(registry=str(segment_registry), model="streets", max_body_bytes=BODY_LIMIT, lookup_seconds=UNCHANGED)


@pytest.fixture(scope="session")
def segment_client(segment_settings: Settings) -> Iterator[httpx.Client]:
    with _serve(create_app(segment_settings)) as client:
        yield client


@pytest.fixture
def jobs_folder(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


@pytest.fixture
def app_of_jobs(segment_settings: Settings, jobs_folder: Path) -> Changed:
    """An app that keeps jobs, with these settings."""
    return lambda **changed: create_app(segment_settings.model_copy(update={"jobs_dir": jobs_folder, **changed}))


@pytest.fixture(scope="session")
def scan() -> bytes:
    """A made-up scan as KITTI has them, x, y, z, intensity: 3,000 points of a ground, a wall and a post."""
    rng = np.random.default_rng(0)
    ground = rng.uniform([-15, -15, -1.8], [15, 15, -1.7], (1800, 3))
    wall = rng.uniform([-15, 6, -1.8], [15, 6.2, 2], (1000, 3))
    post = rng.uniform([3, -2, -1.8], [3.2, -1.8, 3], (200, 3))
    xyz = rng.permutation(np.concatenate([ground, wall, post]))
    return np.column_stack([xyz, rng.random(len(xyz))]).astype("<f4").tobytes()


@pytest.fixture(scope="session")
def ball() -> Callable[[int], bytes]:
    """A binary PLY of so many points."""

    def make(points: int) -> bytes:
        xyz = np.random.default_rng(points).normal(size=(points, 3)).astype("<f4")
        header = f"ply\nformat binary_little_endian 1.0\nelement vertex {points}\n"
        return (header + "property float x\nproperty float y\nproperty float z\nend_header\n").encode() + xyz.tobytes()

    return make


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """An MLflow server of our own, over SQLite."""
    try:
        importlib.metadata.version("mlflow")
    except importlib.metadata.PackageNotFoundError:
        if os.environ.get("CI") or os.environ.get("FIP_REQUIRE_DATA") == "1":
            pytest.fail("mlflow is not installed: run `make install`")
        pytest.skip("mlflow is not installed")
    with mlflow_running(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


# One suite for every backend of the registry, test_registry.py: name -> the fixture that makes one.
BACKENDS = {"local": "local_registry", "mlflow": "mlflow_registry"}


@pytest.fixture(params=list(BACKENDS.values()), ids=list(BACKENDS))
def any_registry(request: pytest.FixtureRequest) -> Registry:
    return request.getfixturevalue(request.param)


@pytest.fixture
def local_registry(tmp_path: Path) -> Registry:
    (tmp_path / "registry").mkdir()
    return LocalRegistry(tmp_path / "registry")


@pytest.fixture
def mlflow_registry(mlflow_server: MlflowServer, tmp_path: Path) -> Registry:
    return MlflowRegistry(mlflow_server.address, tmp_path / "cache")


@pytest.fixture
def version(tiny_registry: Path, tmp_path: Path) -> Shifted:
    """The checkpoint whose logits are those of `tiny` and this number."""
    return lambda number: shifted(tiny_registry / "tiny" / "1", tmp_path / "versions" / str(number), number)


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    (tmp_path / "registry").mkdir()
    return LocalRegistry(tmp_path / "registry")
