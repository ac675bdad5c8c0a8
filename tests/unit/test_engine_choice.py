"""Which engine is taken for a kind of device: by what the probe found, in the order of preference, and with a reason that is told."""

import pytest
import torch

from models.commands.doctor import engine_facts
from models.sparse.backends import ENGINES, PREFERRED, choose
from models.sparse.backends.probe import EngineReport, fastest, first_right, probe_engines
from models.sparse.backends.torch_engine import TorchEngine
from models.sparse.backends.torchsparse_backend import Parts, TorchsparseEngine
from models.sparse.backends.torchsparse_dataflows import ImplicitGemm
from models.sparse.kernel_map import KernelMap
from tests import torchsparse_cuda
from tests.torchsparse_cuda import CudaFunctions, HashTable

CUDA = PREFERRED["cuda"]


def reports(**found_ms: float | None) -> dict[str, EngineReport]:
    """Of engines by the time of their forward pass; None for one that does not work."""
    return {
        name: EngineReport(name, ms is not None, "right" if ms else "does not run on cuda", forward_ms=ms) for name, ms in found_ms.items()
    }


def test_every_preferred_engine_is_one() -> None:
    assert {name for names in PREFERRED.values() for name in names} <= set(ENGINES)
    assert CUDA == ("torchsparse", "triton", "torch")


@pytest.mark.parametrize(
    ("found", "name", "reason"),
    [
        (reports(torchsparse=2.0, triton=3.0, torch=8.0), "torchsparse", "right, and 1.5x as fast as the next"),
        (reports(torchsparse=3.0, triton=1.0, torch=8.0), "torchsparse", "right, and preferred; triton is 3.0x as fast on the probe"),
        (reports(torchsparse=None, triton=2.0, torch=8.0), "triton", "right, and 4.0x as fast as the next"),
        (reports(torchsparse=None, triton=None, torch=8.0), "torch", "the others that may be chosen do not work"),
    ],
)
def test_on_cuda_the_first_that_is_right(found: dict[str, EngineReport], name: str, reason: str) -> None:
    assert first_right(found, CUDA)[0] == name
    assert reason in first_right(found, CUDA)[1]


def test_on_a_cpu_one_that_is_much_faster() -> None:
    assert fastest(reports(native=3.0, torch=1.0), PREFERRED["cpu"]) == ("torch", "3.0x as fast as native here")
    assert fastest(reports(native=1.2, torch=1.0), PREFERRED["cpu"])[0] == "native"


def test_where_none_works_each_says_why() -> None:
    with pytest.raises(RuntimeError, match="no engine works here: does not run on cuda"):
        first_right(reports(torchsparse=None, triton=None, torch=None), CUDA)


def of_stand_ins() -> TorchsparseEngine:
    return TorchsparseEngine(lambda: Parts({"cpu": ImplicitGemm(CudaFunctions())}, {"cpu": HashTable}))


def small_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins look every cell up in Python."""
    monkeypatch.setattr("models.sparse.backends.probe.SIDE", 8)
    monkeypatch.setattr("models.sparse.backends.probe.ROUNDS", 1)


def test_torchsparse_is_taken_where_it_passes_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    small_probe(monkeypatch)
    found = probe_engines({"torchsparse": of_stand_ins(), "torch": TorchEngine()}, torch.device("cpu"))
    assert found["torchsparse"].works, found["torchsparse"].reason
    assert found["torchsparse"].taps_right == 27
    assert first_right(found, ("torchsparse", "torch"))[0] == "torchsparse"


def test_one_that_reads_other_taps_than_it_says_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its table is right, its products are not: it goes by the order of its table after all."""
    small_probe(monkeypatch)
    engine = of_stand_ins()
    of_sources = KernelMap.of_sources
    monkeypatch.setattr(KernelMap, "of_sources", lambda sources, *rest: of_sources(sources.flip(0), *rest))
    found = probe_engines({"torchsparse": engine, "torch": TorchEngine()}, torch.device("cpu"))
    assert not found["torchsparse"].works
    assert "1 of 27 taps" in found["torchsparse"].reason
    assert first_right(found, ("torchsparse", "torch"))[0] == "torch"


def test_one_that_fails_in_its_own_way_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    class CompilationError(Exception):
        """As kernel compilers have them."""

    class Failing(TorchEngine):
        def conv(self, *_: object, **__: object) -> torch.Tensor:
            raise CompilationError("out of resource: shared memory")

    small_probe(monkeypatch)
    found = probe_engines({"triton": Failing(), "torch": TorchEngine()}, torch.device("cpu"))
    assert found["triton"].reason == "failed on the probe: out of resource: shared memory"
    assert first_right(found, ("triton", "torch"))[0] == "torch"


def test_the_doctor_says_of_each_engine_whether_and_why() -> None:
    facts, in_use = engine_facts()
    assert [entry["name"] for entry in facts] == list(ENGINES)
    assert [entry["name"] for entry in facts if entry["chosen"]] == [in_use]
    assert all(entry["reason"] for entry in facts)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_nothing_is_chosen_for_one() -> None:
    with pytest.raises(RuntimeError, match="no engine works here"):
        choose("cuda")


def test_the_stand_in_is_what_the_permutation_is_for() -> None:
    assert torchsparse_cuda.offset(1, [3, 3, 3]) == [0, -1, -1]
    assert torchsparse_cuda.offset(1, [2, 2, 2]) == [0, 0, 1]
