"""Where the nets of a worker run, and how much they are given at once: found out before the worker has anything else.

The driver of a GPU takes more addresses than a worker on the CPU may have altogether (FIP_WORKER_MEMORY_BYTES), and keeps them. So a
device that nobody asked for by name is tried in a child, and only then is the worker bounded, or goes to the device.
"""

import json
import os
import select
import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch

from models.device import AUTO, CPU, known_device, why_it_does_not_compute
from models.errors import BadOption
from models.orphan import end_with
from service.settings import Settings

TRY_S = 45.0  # a driver that says nothing for so long will not; a worker may take a little longer to say that it is there
MOST_SAID = 1 << 12  # bytes, which a pipe takes at once; an eighth of them letters, each of which JSON may spell in six
MOST_OPEN = 1 << 12  # descriptors that a worker has, of which there are a handful
SMALL_VOXELS = 16_384  # what a pass of several requests may have on a CPU; larger clouds have small ones pass beside them
BYTES_A_VOXEL = 8 << 10  # of a pass: 5.7 KiB of the nets that were counted, ResNet34 as a U-Net (tests/unit/test_place.py), and room
SHARES = 4  # two passes may run side by side, and PyTorch keeps the memory of some that are over


@dataclass(frozen=True)
class Place:
    """device: its name. memory_bytes: that the device has, 0 of a CPU. wrong: why the device does not compute, "" where it does; of a CPU
    why it is not the GPU that there is.
    """

    device: str
    memory_bytes: int = 0
    wrong: str = ""

    @classmethod
    def told(cls, said: Mapping[str, object]) -> "Place":
        """As another process says it in JSON. Raises: KeyError, ValueError."""
        return cls(str(said["device"]), int(str(said["memory_bytes"])), str(said["wrong"]))


def place_of(wanted: str) -> Place:
    """The place of this name; of `auto` a GPU that computes, else the CPU. In a process that has asked torch for no device so far: a child
    of one that has cannot use it.
    """
    if wanted == CPU:
        return Place(CPU)
    return _in_a_child() if wanted == AUTO else _tried(wanted)


def voxels_of_a_batch(settings: Settings, place: Place) -> int:
    """What a pass of several requests may have: as much as a pass of one, for which there has been a warm-up, or as there is memory for."""
    if settings.batch_voxels is not None:
        return settings.batch_voxels
    room = place.memory_bytes - settings.model_memory_bytes
    return max(min(room // (SHARES * BYTES_A_VOXEL), settings.tile_voxels), SMALL_VOXELS)


def _tried(wanted: str) -> Place:
    """In this process, which then has the driver."""
    try:
        known = known_device(wanted)
    except BadOption as error:  # it was there when the service was started
        return Place(wanted, wrong=error.detail)
    if known == CPU:
        return Place(CPU)
    device = "cuda" if known == AUTO else known
    wrong = why_it_does_not_compute(device)
    if wrong is not None:
        return Place(CPU if known == AUTO else device, wrong=wrong[: MOST_SAID // 8])
    return Place(device, torch.cuda.get_device_properties(device).total_memory)


def _in_a_child() -> Place:
    worker = os.getpid()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            end_with(worker)
            os.closerange(3, writing)  # whoever hangs in a driver should not keep the channels of a worker open
            os.closerange(writing + 1, MOST_OPEN)
            found = _tried(AUTO)
        except Exception as error:
            found = Place(CPU, wrong=str(error)[: MOST_SAID // 8])
        try:
            os.write(writing, json.dumps(asdict(found)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        if not select.select([pipe], [], [], TRY_S)[0]:
            os.kill(child, signal.SIGKILL)  # and not waited for: a driver may hold it
            return Place(CPU, wrong=f"the driver said nothing within {TRY_S:g} s")
        said = pipe.read(MOST_SAID)
    os.waitpid(child, 0)
    try:
        return Place.told(json.loads(said))
    except ValueError:
        return Place(CPU, wrong="the driver ended the process that asked it")
