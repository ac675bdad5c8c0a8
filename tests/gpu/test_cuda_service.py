"""The service with its nets on a device: the same answers as on the CPU, and what it does when the device has no memory left or fails.

The failures are real: memory that the driver refuses, an assertion of a kernel. Only when they come is decided here.
"""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.bench.service.clouds import ball, kitti, ply, street
from tests.bench.service.process import ROOT, Service, service
from tests.fire import until

pytestmark = [pytest.mark.gpu, pytest.mark.e2e]
FIRST_START_S = 240.0  # kernels are compiled and measured

# Runs first in every process of the service, and does something only in the worker, where there is a device.
BEFORE_A_PASS = """
import os, pathlib

from models.predictor import Predictor

forward = Predictor.forward

def prepared(self, batch):
    import torch
    {before}
    return forward(self, batch)

prepared.bound = None
Predictor.forward = prepared
"""
FAILING = """
    try:
        pathlib.Path(os.environ["FAILS"]).unlink()
    except FileNotFoundError:
        return forward(self, batch)
    torch.ones(2, device="cuda")[torch.tensor([7], device="cuda")].cpu()  # out of range: the kernel asserts
"""
# The bound is one for the process, in which short passes run beside long ones: it stands as long as the file does.
SHORT_OF_MEMORY = """
    free = pathlib.Path(os.environ["FREE_BYTES"])
    if not free.exists():
        prepared.bound = None
        torch.cuda.set_per_process_memory_fraction(1.0)
        return forward(self, batch)
    if prepared.bound is None:
        torch.cuda.empty_cache()
        prepared.bound = torch.cuda.memory_reserved() + int(free.read_text())
    torch.cuda.set_per_process_memory_fraction(prepared.bound / torch.cuda.get_device_properties(0).total_memory)
    try:
        return forward(self, batch)
    except torch.OutOfMemoryError:
        pathlib.Path(os.environ["REFUSED"]).touch()
        raise
"""


@contextmanager
def on_device(tmp_path: Path, before: str = "", **environment: str) -> Iterator[tuple[Service, httpx.Client]]:
    path = str(ROOT)
    if before:
        (tmp_path / "sitecustomize.py").write_text(BEFORE_A_PASS.format(before=before.strip()))
        path = os.pathsep.join([str(tmp_path), path])
    with service(wait=False, PYTHONPATH=path, FIP_DEVICE="cuda", **environment) as running:
        deadline = time.monotonic() + FIRST_START_S
        with httpx.Client(base_url=running.url, timeout=120) as client:
            while not ready(client):
                assert running.process.poll() is None
                assert time.monotonic() < deadline, "it is not ready"
                time.sleep(0.1)
            yield running, client


def ready(client: httpx.Client) -> bool:
    try:
        return client.get("/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def labels(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [each["label"] for each in answer.json()["predictions"]]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_it_answers_as_on_the_cpu(precision: str, tmp_path: Path) -> None:
    clouds = [ply(ball(points, seed)) for seed, points in enumerate((300, 2000, 20_000))]
    with service(FIP_DEVICE="cpu") as running, httpx.Client(base_url=running.url, timeout=60) as client:
        expected = [client.post("/v1/classify", content=cloud).json()["predictions"][0] for cloud in clouds]
    with on_device(tmp_path, FIP_PRECISION=precision) as (_, client):
        found = [client.post("/v1/classify", content=cloud).json()["predictions"][0] for cloud in clouds]
    for one, other in zip(found, expected, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-3 if precision == "fp32" else 2e-2)
        assert one["label"] == other["label"] or other["score"] < 0.5


def test_without_memory_on_the_device_one_request_fails_or_is_tiled_and_no_other(tmp_path: Path) -> None:
    free, refused = tmp_path / "free", tmp_path / "refused"
    environment = {"FREE_BYTES": str(free), "REFUSED": str(refused)}
    small, large = ply(ball(500)), kitti(street(400_000, half_m=60))
    with on_device(tmp_path, SHORT_OF_MEMORY, **environment) as (running, client), ThreadPoolExecutor(4) as threads:
        alone, pid = labels(client.post("/v1/classify", content=small)), running.worker_pid()
        free.write_text(str(64 << 20))
        parameters = {"input_format": "bin", "model": "lidar19", "format": "label"}
        segmented = threads.submit(client.post, "/v1/segment", params=parameters, content=large)
        others = [threads.submit(client.post, "/v1/classify", content=small) for _ in range(3)]
        answer = segmented.result()
        assert refused.exists(), "nothing was refused: the bound is too high for this device"
        assert answer.status_code == 200 or (answer.status_code, answer.json()["code"]) == (507, "out_of_memory")
        assert [labels(each.result()) for each in others] == [alone] * 3
        free.unlink()
        assert labels(client.post("/v1/classify", content=small)) == alone
        again = client.post("/v1/segment", params=parameters, content=large)
        assert again.status_code == 200
        assert len(again.content) == 4 * 400_000
        assert running.worker_pid() == pid


def test_a_device_that_fails_for_good_loses_a_worker_and_no_request(tmp_path: Path) -> None:
    fails, cloud = tmp_path / "fails", ply(ball(500))
    with on_device(tmp_path, FAILING, FAILS=str(fails)) as (running, client), ThreadPoolExecutor(12) as threads:
        alone, pid = labels(client.post("/v1/classify", content=cloud)), running.worker_pid()
        fails.touch()
        answers = [threads.submit(client.post, "/v1/classify", content=cloud) for _ in range(12)]
        until(lambda: running.events("worker lost") != [], "the worker is missed")
        assert [labels(each.result()) for each in answers] == [alone] * 12
        [lost] = running.events("worker lost")
        assert lost["pid"] == pid
        assert str(lost["why"]).startswith("the device failed: ")
        assert running.worker_pid() != pid
