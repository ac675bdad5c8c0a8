"""Which engine is taken for a kind of device: by what the probe found, in the order of preference, and with a reason that is told."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from models.commands.doctor import engine_facts
from models.sparse import backends
from models.sparse.backends import ENGINES, PREFERRED, apart, choose
from models.sparse.backends.probe import PRECISIONS, EngineReport, _precisions, fastest, first_right, probe_engines
from models.sparse.backends.protocol import Engine, Packed
from models.sparse.backends.reference import ReferenceEngine
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


@pytest.mark.parametrize(("precision", "factor"), [("fp32", 1.5), ("fp16", 1.5), ("bf16", 1.5), ("fp32", math.nan)])
def test_one_that_is_wrong_in_one_precision_is_not_taken(precision: str, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or with channels that fill no block. On CUDA, where each dtype has kernels of its own."""
    wrong = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]

    class Careless(ReferenceEngine):
        def conv(self, feats: torch.Tensor, weight: torch.Tensor | Packed, kernel_map: KernelMap, **how: Any) -> torch.Tensor:
            found = super().conv(feats, weight, kernel_map, **how)
            return found * factor if how["products"] == wrong and found.shape[1] == 19 else found

    small_probe(monkeypatch)
    monkeypatch.setitem(PRECISIONS, "cpu", ("fp32", "fp16", "bf16"))
    found = probe_engines({"careless": Careless(), "reference": ReferenceEngine()}, torch.device("cpu"))
    assert found["reference"].works, found["reference"].reason
    assert f"in {precision}, at most" in found["careless"].reason
    assert found["careless"].taps_right == 27


def test_an_old_device_is_not_asked_for_what_it_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else no engine would be right there, in float32, either."""
    for capability, expected in (((7, 5), ("fp32", "fp16")), ((9, 0), ("fp32", "tf32", "fp16", "bf16"))):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert _precisions(torch.device("cuda")) == expected
    assert _precisions(torch.device("cpu")) == ("fp32",)


def test_one_that_ends_its_process_is_not_taken_and_this_one_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A torchsparse whose library dies. Nothing is kept of that."""
    library, facts = tmp_path / "torchsparse", tmp_path / "torchsparse-2.1.0.dist-info"
    for folder in (library, facts):
        folder.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: torchsparse\nVersion: 2.1.0\n")
    (library / "__init__.py").touch()
    (library / "backend.py").write_text("import os, sys\nprint('it dies', file=sys.stderr, flush=True)\nos.abort()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("FIP_CACHE", str(tmp_path / "cache"))
    reason = apart.why_not("torchsparse", torch.device("cpu"), "torchsparse 2.1.0, A GPU")
    assert reason is not None
    assert reason.startswith("ended the process that tried it, with code -6: ")
    assert not (tmp_path / "cache").exists()


def test_one_that_was_right_in_a_process_of_its_own_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIP_CACHE", str(tmp_path))
    assert apart.why_not("reference", torch.device("cpu"), "reference 1, A GPU") is None
    monkeypatch.setattr(sys, "executable", "/nowhere")
    assert apart.why_not("reference", torch.device("cpu"), "reference 1, A GPU") is None
    assert "could not be tried" in (apart.why_not("reference", torch.device("cpu"), "reference 2, A GPU") or "")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"loading\xff\n\nfip probe: null\nbye", None),
        (b'fip probe: "wrong here: 3 of 27 taps"\n', "wrong here: 3 of 27 taps"),
        (b"", "said nothing of use in a process of its own"),
    ],
)
def test_what_libraries_print_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes, reason: str | None) -> None:
    monkeypatch.setenv("FIP_CACHE", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, said, b""))
    assert apart.why_not("reference", torch.device("cpu"), "reference 3, A GPU") == reason


def test_one_that_cannot_say_what_it_is_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nameless(TorchEngine):
        def detail(self) -> str:
            raise ImportError("a library of the other version")

    small_probe(monkeypatch)
    found = probe_engines({"triton": Nameless(), "torch": TorchEngine()}, torch.device("cpu"))
    assert found["triton"].reason == "failed on the probe: a library of the other version"
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


def test_each_device_is_probed_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of a machine may be of different kinds; `cuda` is the current one."""
    probed: list[torch.device] = []

    def probe(engines: dict[str, Engine], device: torch.device) -> dict[str, EngineReport]:
        probed.append(device)
        return {name: EngineReport(name, works=True, reason="right", forward_ms=1.0) for name in engines}

    monkeypatch.setattr(backends, "probe_engines", probe)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    backends._chosen.cache_clear()
    try:
        for name in ("cuda:0", "cuda:1", "cuda", "cuda:0"):
            assert choose(name).name == "torchsparse"
    finally:
        backends._chosen.cache_clear()
    assert probed == [torch.device("cuda:0"), torch.device("cuda:1")]


def test_the_stand_in_is_what_the_permutation_is_for() -> None:
    assert torchsparse_cuda.offset(1, [3, 3, 3]) == [0, -1, -1]
    assert torchsparse_cuda.offset(1, [2, 2, 2]) == [0, 0, 1]
