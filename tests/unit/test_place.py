"""Where a worker computes: found out without touching what it may not have, and how much a pass may then hold."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from models.device import why_it_does_not_compute
from models.manifest import NetworkSpec
from models.sparse.nn import prepare_inference
from models.sparse.tensor import collate
from models.zoo import build
from service.settings import Settings
from service.worker import place
from service.worker.place import BYTES_A_VOXEL, SMALL_VOXELS, Place, place_of, voxels_of_a_batch
from service.worker.warm_up import sheet
from tests.pass_memory import LaidOut, Live, laid_out_as_on_a_device

GIB = 1 << 30


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One that is there, which torch was not built for."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=24 * GIB))
    why_it_does_not_compute.cache_clear()
    yield
    why_it_does_not_compute.cache_clear()


def test_the_cpu_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("a device was asked for"))
    assert place_of("cpu") == Place("cpu")


@pytest.mark.usefixtures("device")
def test_one_that_computes_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "ones", lambda count, **_: torch.zeros(count))
    assert place_of("auto") == place_of("cuda") == Place("cuda", 24 * GIB)


@pytest.mark.usefixtures("device")
def test_one_that_does_not_compute_is_tried_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` leaves this process as it was; whoever is told a name keeps to it, and says what is wrong."""
    tried: list[object] = []

    def ones(*_: object, device: str) -> torch.Tensor:
        tried.append(device)
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nlonger")

    monkeypatch.setattr(torch, "ones", ones)
    wrong = "CUDA error: no kernel image is available for execution on the device"
    assert place_of("auto") == Place("cpu", wrong=wrong)
    assert tried == []
    assert place_of("cuda") == Place("cuda", wrong=wrong)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert place_of("cuda").device == "cuda"
    assert "no device 'cuda' here" in place_of("cuda").wrong


@pytest.mark.usefixtures("device")
def test_a_driver_that_dies_or_hangs_takes_no_worker_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "ones", lambda *_, **__: os._exit(1))
    assert place_of("auto") == Place("cpu", wrong="the driver ended the process that asked it")
    monkeypatch.setattr(place, "TRY_S", 0.2)
    monkeypatch.setattr(torch, "ones", lambda *_, **__: time.sleep(600))
    assert place_of("auto") == Place("cpu", wrong="the driver said nothing within 0.2 s")


WORKS = """
import mmap, os, resource, socket, sys, threading
import torch
from service.worker.messages import receive
from service.worker.process import work

held = []

def ones(*_, device):
    held.append(mmap.mmap(-1, 16 << 30, flags=mmap.MAP_PRIVATE, prot=0))  # as a driver does
    raise RuntimeError("CUDA error: out of memory")

torch.cuda.is_available, torch.cuda.device_count, torch.ones = (lambda: True), (lambda: 1), ones
pairs = [socket.socketpair() for _ in range(4)]
setup = {"threads": 1, "memory_bytes": 8 << 30, "device": "auto", "batch_voxels": None, "tile_voxels": 1000}

def look():
    assert receive(pairs[3][1])[0]["pid"] == os.getpid()
    said, _ = receive(pairs[3][1])
    size = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) << 10
    print(said["device"], said["wrong"], resource.getrlimit(resource.RLIMIT_AS)[0] == 8 << 30, size < 8 << 30, sep="|", flush=True)
    os._exit(0)

threading.Thread(target=look, daemon=True).start()
work(setup, *(pair[0] for pair in pairs))
"""


def test_a_worker_on_the_cpu_is_bounded_without_the_addresses_of_a_driver() -> None:
    """Else every request would find no memory: there is a device, and it does not compute."""
    path = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", WORKS], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.stdout == "cpu|CUDA error: out of memory|True|True\n", done.stderr[-2000:]
    assert resource.getrlimit(resource.RLIMIT_AS)[0] != 8 << 30


@pytest.mark.parametrize(
    ("memory_bytes", "changes", "voxels"),
    [
        (0, {}, 16_384),
        (0, {"batch_voxels": 500}, 500),
        (80 * GIB, {"batch_voxels": 500}, 500),
        (80 * GIB, {}, 1_000_000),  # as many as a pass of one may have
        (80 * GIB, {"tile_voxels": 300_000}, 300_000),
        (24 * GIB, {}, 655_360),  # (24 - 4) GiB / 4 / 8 KiB
        (8 * GIB, {}, 131_072),
        (4 * GIB, {}, 16_384),  # all of it may be taken by models
        (80 * GIB, {"tile_voxels": 100}, 16_384),
    ],
)
def test_on_a_device_a_pass_may_hold_what_its_memory_allows(memory_bytes: int, changes: dict[str, int], voxels: int) -> None:
    where = Place("cuda", memory_bytes) if memory_bytes else Place("cpu")
    assert voxels_of_a_batch(Settings(**changes), where) == voxels  # type: ignore[arg-type]


@pytest.mark.parametrize("network", ["cifar_resnet20", "resnet34", "res16unet34c"])
def test_a_voxel_takes_what_is_reckoned(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features, and maps as the Triton engine lays them out: counted on the CPU, for a decoder of the largest kind."""
    laid_out_as_on_a_device(monkeypatch)
    net = build(NetworkSpec(name=network, in_channels=3, num_classes=20, decoder="reference")).eval().requires_grad_(False)
    prepare_inference(net)
    voxels, engine = sheet(2_000, 3), LaidOut()
    with torch.inference_mode():
        net(collate([sheet(100, 3)], "cpu", engine))  # layers are packed
        with Live() as live:
            net(collate([voxels], "cpu", engine))
    assert BYTES_A_VOXEL / 8 < live.peak / len(voxels) < BYTES_A_VOXEL
    assert SMALL_VOXELS * BYTES_A_VOXEL < GIB
