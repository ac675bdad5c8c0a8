"""A device that is there and does not compute: the service runs on the CPU, within the memory of a worker there, and says why."""

import os
from pathlib import Path

import httpx
import pytest

from tests.bench.service.clouds import ball, ply
from tests.bench.service.process import ROOT, service

pytestmark = pytest.mark.e2e

# Runs first in every process of the service. Whoever asks the device has its addresses, as of a driver, until the process ends.
OF_NO_USE = """
import mmap

import torch

ones, held = torch.ones, []

def refused(*args, device=None, **options):
    if device == "cuda":
        held.append(mmap.mmap(-1, 64 << 30, flags=mmap.MAP_PRIVATE, prot=0))
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")
    return ones(*args, device=device, **options)

torch.ones, torch.cuda.is_available, torch.cuda.device_count = refused, lambda: True, lambda: 1
"""


def test_a_service_beside_a_device_that_does_not_compute(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(OF_NO_USE)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    with (
        service(PYTHONPATH=path, FIP_DEVICE="auto", FIP_WORKER_MEMORY_BYTES=str(4 << 30)) as running,
        httpx.Client(base_url=running.url, timeout=60) as client,
    ):
        assert client.post("/v1/classify", content=ply(ball(500))).status_code == 200
        [said] = running.events("nets run here")
        assert (said["level"], said["device"]) == ("warning", "cpu")
        assert said["why"] == "CUDA error: no kernel image is available for execution on the device"
        assert running.metric("fip_worker_restarts_total") == 0
        assert 'fip_device_info{device="cpu"} 1.0' in client.get("/metrics").text
