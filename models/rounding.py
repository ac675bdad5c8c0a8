"""What the factors of products are rounded to while a pass lasts."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from models.manifest import Precision

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class _Tf32:
    """PyTorch's setting, which is one for the process: on from the first pass that asks for it to the end of the last one."""

    def __init__(self) -> None:
        self._lock, self._passes, self._before = threading.Lock(), 0, "none"

    @contextmanager
    def __call__(self) -> Iterator[None]:
        matmul = torch.backends.cuda.matmul
        with self._lock:
            if not self._passes:
                self._before, matmul.fp32_precision = matmul.fp32_precision, "tf32"
            self._passes += 1
        try:
            yield
        finally:
            with self._lock:
                self._passes -= 1
                if not self._passes:
                    matmul.fp32_precision = self._before


_tf32 = _Tf32()


@contextmanager
def rounding(device: torch.device, precision: Precision) -> Iterator[None]:
    """While it lasts, factors of products on this kind of device are rounded to this: by this thread, but tf32 by all of them."""
    if precision == "tf32":
        with _tf32():
            yield
        return
    with torch.autocast(device.type, AUTOCAST.get(precision, torch.bfloat16), enabled=precision in AUTOCAST):
        yield
