"""Which device a worker is given that comes after another: that of the first, or the service is not ready and says why."""

import logging
import threading
from collections.abc import Iterator
from typing import ClassVar

import pytest
import torch

from service.scheduler import Scheduler
from service.settings import Settings
from service.telemetry import Telemetry
from service.worker import device as module
from service.worker.client import WorkerLost
from service.worker.device import Device
from service.worker.place import Place
from tests.fire import until

GIB = 1 << 30


class Worker:
    """What the device asks of a worker; the places that those to come will find are `found`."""

    found: ClassVar[list[Place]] = []
    all: ClassVar[list["Worker"]] = []

    def __init__(self, nursery: object, setup: dict[str, object], forward_seconds: float) -> None:
        self.asked, self.pid, self.why = setup["device"], 7, "it was killed"
        self._ended = threading.Event()
        Worker.all.append(self)

    def begin(self) -> Place:
        if not Worker.found:
            raise WorkerLost("there is none to come")
        return Worker.found.pop(0)

    def wait_for_end(self) -> str:
        self._ended.wait()
        return ""

    def kill(self) -> None:
        self._ended.set()

    hang_up = close = kill


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """Of a machine with a GPU, that nobody asked for by name."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(module, "Worker", Worker)
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(Worker, "all", [])
    device = Device(Settings(device="auto"), Telemetry())
    yield device
    device.close()


def value(of: Device, name: str, **labels: str) -> float:
    return of._telemetry.registry.get_sample_value(name, labels) or 0.0


def test_the_next_one_is_given_the_device_of_the_first(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "found", [Place("cuda", 80 * GIB)] * 2)
    scheduler = Scheduler(device._settings, device._telemetry, device)
    assert scheduler._budget == 16_384  # nobody knows yet
    first = device.wait()
    scheduler.begin()
    assert scheduler._budget == device.batch_voxels == 1_000_000
    first.kill()
    until(lambda: len(Worker.all) == 2 and device.up, "the next one")
    assert [worker.asked for worker in Worker.all] == ["auto", "cuda"]
    assert value(device, "fip_device_info", device="cuda") == 1


def test_a_device_that_does_not_come_back_is_an_outage_and_not_a_cpu(
    device: Device, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Until it does come back."""
    gone = Place("cuda", wrong="no device 'cuda' here")
    monkeypatch.setattr(Worker, "found", [Place("cuda", 80 * GIB), gone, gone])
    with caplog.at_level(logging.ERROR, "fip.service"):
        device.wait().kill()
        until(lambda: len(Worker.all) > 3, "it is tried again and again")
    assert not device.up
    assert value(device, "fip_worker_up") == 0
    assert value(device, "fip_device_failures_total") == 2
    said = [record.fields["error"] for record in caplog.records if record.message == "no worker"]  # type: ignore[attr-defined]
    assert said[:2] == ["cuda does not compute: no device 'cuda' here"] * 2
    assert {worker.asked for worker in Worker.all[1:]} == {"cuda"}
    Worker.found.append(Place("cuda", 80 * GIB))
    until(lambda: device.up, "it has come back")
    assert value(device, "fip_worker_up") == 1


def test_a_service_that_begins_on_the_cpu_beside_a_device_says_so_and_stays_there(
    device: Device, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Worker, "found", [Place("cpu", wrong="CUDA error: out of memory"), Place("cpu")])
    with caplog.at_level(logging.WARNING, "fip.service"):
        device.wait().kill()
        until(lambda: len(Worker.all) == 2 and device.up, "the next one")
    [record] = [record for record in caplog.records if record.message == "nets run here"]
    assert record.fields == {"device": "cpu", "batch_voxels": 16_384, "why": "CUDA error: out of memory"}  # type: ignore[attr-defined]
    assert [worker.asked for worker in Worker.all] == ["auto", "cpu"]
    assert value(device, "fip_device_info", device="cpu") == 1
