"""Where nets may run: one check for the service, `fip predict` and training."""

import torch

from models.errors import BadOption, nearest

AUTO = "auto"


def available_devices() -> tuple[str, ...]:
    """Names that a device may be given here: `cpu`, and with CUDA `cuda` (its current device), `cuda:0`, ..."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return ("cpu", *(["cuda"] if count else []), *(f"cuda:{index}" for index in range(count)))


def parse_device(text: str) -> str:
    """The device of this name, once it is known to be there; `auto` is cuda where there is one, else cpu.

    Raises: BadOption (lists what is there).
    """
    known = available_devices()
    if text == AUTO:
        return "cuda" if "cuda" in known else "cpu"
    if text not in known:
        raise BadOption(f"no device {text!r} here{nearest(text, known)}", where="device", known=(AUTO, *known))
    return text
