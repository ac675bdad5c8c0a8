"""What factors are rounded to holds while a pass lasts, and not after it."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from models.rounding import rounding
from models.sparse.backends.torchsparse_dataflows import ImplicitGemm
from models.sparse.backends.triton_engine import _precision
from models.sparse.conv import product_dtype
from tests.torchsparse_cuda import CudaFunctions

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
FEATS = torch.zeros(1)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_factors_of_products(precision: str, dtype: torch.dtype) -> None:
    with rounding(CPU, precision):
        assert product_dtype(FEATS) == dtype
    assert product_dtype(FEATS) == torch.float32


@pytest.fixture
def matmul() -> Iterator[object]:
    found = torch.backends.cuda.matmul
    before = found.fp32_precision
    yield found
    found.fp32_precision = before


@pytest.mark.parametrize("before", ["none", "ieee", "tf32"])
def test_tf32_is_told_to_every_engine_and_taken_back(before: str, matmul: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the process is told so in PyTorch's own way."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    matmul.fp32_precision = before
    torchsparse = ImplicitGemm(CudaFunctions(), tf32=True)
    for _ in range(2):
        with rounding(CUDA, "tf32"):
            assert _precision(torch.float32, CUDA) == "tf32"
            assert _precision(torch.float16, CUDA) == "ieee"
            assert torchsparse._allowed == (True, False)
        assert matmul.fp32_precision == before
        assert _precision(torch.float32, CUDA) == ("tf32" if before == "tf32" else "tf32x3")
        assert torchsparse._allowed[0] == (before == "tf32")
    with pytest.raises(ValueError, match="broken"), rounding(CUDA, "tf32"):
        raise ValueError("broken")
    assert matmul.fp32_precision == before


def test_a_pass_does_not_end_the_rounding_of_another(matmul: Any) -> None:
    """Two threads, the first of which leaves first: the second still rounds, and after it nobody does."""
    matmul.fp32_precision = "none"
    entered, left, seen = threading.Event(), threading.Event(), []

    def second() -> None:
        with rounding(CUDA, "tf32"):
            entered.set()
            left.wait(10)
            seen.append(matmul.fp32_precision)

    thread = threading.Thread(target=second)
    with rounding(CUDA, "tf32"):
        thread.start()
        assert entered.wait(10)
    left.set()
    thread.join()
    assert seen == ["tf32"]
    assert matmul.fp32_precision == "none"


def test_without_matrix_units_for_tf32_factors_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert _precision(torch.float32, CUDA) == _precision(torch.float32, CPU) == "ieee"
