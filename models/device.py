"""Where nets may run: one check for the service, `fip predict` and training."""

import functools
import logging

import torch

from models.errors import BadOption, nearest

LOG = logging.getLogger("fip.device")
AUTO = "auto"
CPU = "cpu"
AMPERE = (8, 0)  # the first compute capability of CUDA whose matrix units multiply TF32 and bfloat16


def available_devices() -> tuple[str, ...]:
    """Names that a device may be given here: `cpu`, and with CUDA `cuda` (its current device), `cuda:0`, ..."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return (CPU, *(["cuda"] if count else []), *(f"cuda:{index}" for index in range(count)))


def known_device(text: str) -> str:
    """The name, once it is known to be there; `auto` is cpu where there is nothing else, and stays `auto` where there is.

    Asks nothing of a device: for a process that computes nothing itself. Raises: BadOption (lists what is there).
    """
    known = available_devices()
    if text == AUTO:
        return CPU if known == (CPU,) else AUTO
    if text not in known:
        raise BadOption(f"no device {text!r} here{nearest(text, known)}", where="device", known=(AUTO, *known))
    return text


def parse_device(text: str) -> str:
    """The device of this name, once it is known to be there; `auto` is cuda where one computes, else cpu, and a warning says why.

    Raises: BadOption (lists what is there).
    """
    name = known_device(text)
    if name != AUTO:
        return name
    reason = why_it_does_not_compute("cuda")
    if reason is None:
        return "cuda"
    LOG.warning("there is a CUDA device, but nets run on the CPU: %s", reason)
    return CPU


@functools.cache
def why_it_does_not_compute(device: str) -> str | None:
    """What a device says that is there and of no use: this torch has no kernels for it, or others have taken its memory."""
    try:
        torch.ones(2, device=device).add(1).tolist()
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    return None
