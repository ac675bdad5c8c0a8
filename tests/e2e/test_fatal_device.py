"""A device that fails for good in the middle of a pass: its worker ends itself, another one answers all that waited."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.bench.service.clouds import ball, ply
from tests.bench.service.process import ROOT, service
from tests.fire import until

pytestmark = pytest.mark.e2e

# Runs first in every process of the service: one pass of one worker fails as CUDA does, in words of its own.
FAILING = """
import os, pathlib

from models.predictor import Predictor

forward = Predictor.forward

def failing(self, batch):
    try:
        pathlib.Path(os.environ["FAILS"]).unlink()
    except FileNotFoundError:
        return forward(self, batch)
    raise RuntimeError("CUDA error: device-side assert triggered")

Predictor.forward = failing
"""


def test_a_fatal_error_of_the_device_loses_a_worker_and_no_request(tmp_path: Path) -> None:
    cloud = ply(ball(500))
    (tmp_path / "sitecustomize.py").write_text(FAILING)
    fails = tmp_path / "fails"
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    with service(PYTHONPATH=path, FAILS=str(fails)) as running, httpx.Client(base_url=running.url, timeout=60) as client:
        alone = client.post("/v1/classify", content=cloud).json()["predictions"]
        pid = running.worker_pid()
        with ThreadPoolExecutor(12) as threads:
            fails.touch()
            answers = [threads.submit(client.post, "/v1/classify", content=cloud) for _ in range(12)]
            until(lambda: running.events("worker lost") != [], "the worker is missed")
            until(lambda: client.get("/health/ready").status_code == 200, "ready again")
            found = [each.result() for each in answers]
        [lost] = running.events("worker lost")
        assert (lost["pid"], lost["why"]) == (pid, "the device failed: CUDA error: device-side assert triggered")
        assert [each.status_code for each in found] == [200] * 12
        for answer in found:  # those that went through the net together may differ in the last digits
            predictions = answer.json()["predictions"]
            assert [each["label"] for each in predictions] == [each["label"] for each in alone]
            assert [each["score"] for each in predictions] == pytest.approx([each["score"] for each in alone], rel=1e-4)
        assert running.worker_pid() != pid
        assert running.metric("fip_worker_restarts_total") == 1
