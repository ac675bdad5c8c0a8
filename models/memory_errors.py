"""What says that there is not enough memory: PyTorch, its libraries, CUDA and Python each say so in words of their own."""

import re

import torch

_SAID = re.compile(
    r"out of memory|can't allocate memory|not enough memory|bad_alloc|Cannot allocate memory|CU(BLAS|DNN)_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)


def is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or _SAID.search(str(error)) is not None
