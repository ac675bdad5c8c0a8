"""Which engine is taken for a kind of device: by what the probe found, in the order of preference, and with a reason that is told."""

import ast
import math
import os
import signal
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from models.commands.doctor import engine_facts
from models.errors import BadRunDir
from models.manifest import Precision
from models.sparse import backends
from models.sparse.backends import ENGINES, PREFERRED, apart, choose
from models.sparse.backends.probe import EngineReport, Precisions, checked, fastest, first_right, judged, probe_engines
from models.sparse.backends.protocol import Engine, Packed
from models.sparse.backends.reference import ReferenceEngine
from models.sparse.backends.torch_engine import TorchEngine
from models.sparse.backends.torchsparse_backend import Parts, TorchsparseEngine
from models.sparse.backends.torchsparse_dataflows import ImplicitGemm
from models.sparse.backends.tuning import Tuner
from models.sparse.kernel_map import KernelMap
from tests import torchsparse_cuda
from tests.fire import until
from tests.torchsparse_cuda import CudaFunctions, HashTable
from training.distributed import ALONE
from training.engine import engine_of_run, precisions_of
from training.recipe import load_recipe

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


class Careless(ReferenceEngine):
    """Wrong with products of one dtype, where channels fill no block."""

    def __init__(self, wrong: torch.dtype, factor: float) -> None:
        self._wrong, self._factor = wrong, factor

    def conv(self, feats: torch.Tensor, weight: torch.Tensor | Packed, kernel_map: KernelMap, **how: Any) -> torch.Tensor:
        found = super().conv(feats, weight, kernel_map, **how)
        return found * self._factor if how["products"] == self._wrong and found.shape[1] == 19 else found


DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@pytest.mark.parametrize(("precision", "factor"), [("fp32", 1.5), ("fp16", 1.5), ("bf16", 1.5), ("fp32", math.nan)])
def test_one_that_is_wrong_in_a_precision_in_use_is_not_taken(precision: Precision, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    small_probe(monkeypatch)
    cpu, engine = torch.device("cpu"), Careless(DTYPES[precision], factor)
    assert checked(ReferenceEngine(), cpu, (precision,)).works
    for in_use in ((precision,), ("fp32", precision)):
        found = checked(engine, cpu, in_use)
        assert f"in {precision}, at most" in found.reason
        assert found.taps_right == 27


def test_one_that_is_wrong_in_another_precision_is_none_the_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not used harms nobody."""
    small_probe(monkeypatch)
    for wrong, in_use in (("fp16", ("fp32", "bf16")), ("bf16", ("fp32",)), ("fp32", ("fp16",))):
        assert checked(Careless(DTYPES[wrong], 1.5), torch.device("cpu"), in_use).works  # type: ignore[arg-type]


def test_on_cuda_it_is_the_precision_in_use_that_counts() -> None:
    assert judged(torch.device("cuda:1"), ("fp16",)) == ("fp16",)
    assert judged(torch.device("cpu"), ("fp16",)) == ("fp32",)


def test_a_run_asks_of_its_engine_what_it_multiplies_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One in float32 goes on on an engine that is wrong in bfloat16; validation of one in bfloat16 is in float32."""
    asked: list[Precisions] = []

    def probe(engine: Engine, device: torch.device, precisions: Precisions) -> EngineReport:
        asked.append(precisions)
        works = "bf16" not in precisions
        return EngineReport(engine.name, works, "right" if works else "wrong here: in bf16")

    monkeypatch.setattr("training.engine.probe_engine", probe)
    of = {name: precisions_of(load_recipe("bundled-modelnet40", {"precision": name})) for name in ("fp32", "bf16")}
    cuda = torch.device("cuda")
    monkeypatch.delenv("FIP_ENGINE", raising=False)
    assert engine_of_run(tmp_path, "torch", None, cuda, ALONE, of["fp32"]).name == "torch"
    with pytest.raises(BadRunDir, match="wrong here: in bf16"):
        engine_of_run(tmp_path, "torch", None, cuda, ALONE, of["bf16"])
    assert asked == [("fp32",), ("fp32", "bf16")]


class Tuned(ReferenceEngine):
    """One that has five ways to run each kernel."""

    name = "tuned"

    def __init__(self) -> None:
        self.tuner, self.seen, self.measured = Tuner("A GPU", self.time_ms), Counter[str](), 0

    def time_ms(self, _: object) -> float:
        self.measured += 1
        return 1.0

    def conv(self, feats: torch.Tensor, weight: torch.Tensor | Packed, kernel_map: KernelMap, **how: Any) -> torch.Tensor:
        names = [f"tiling {number}" for number in range(5)]
        self.tuner.best(f"{feats.shape[1]} {how['products']}", {name: partial(self.seen.update, [name]) for name in names})
        return super().conv(feats, weight, kernel_map, **how)


def test_a_probe_compiles_one_way_and_measures_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cold cache all of them would take minutes, before the first request."""
    monkeypatch.setenv("FIP_CACHE", str(tmp_path))
    small_probe(monkeypatch)
    engine = Tuned()
    assert probe_engines({"tuned": engine}, torch.device("cpu"))["tuned"].works
    assert set(engine.seen) == {"tiling 0"}
    assert engine.measured == 0
    assert not (tmp_path / "tuned").exists()


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
    reason = apart.why_not("torchsparse", torch.device("cpu"), "torchsparse 2.1.0, A GPU", ("fp32",))
    assert reason is not None
    assert reason.startswith("ended the process that tried it, with code -6: ")
    assert not (tmp_path / "cache").exists()


STUCK = """
import os, pathlib, signal, time

pathlib.Path({said!r}).write_text(repr((os.getpid(), [str(signal.getsignal(each)) for each in (signal.SIGINT, signal.SIGTERM)])))
time.sleep(600)
"""
ASKS = """
import signal

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)  # as the process does that starts workers
import torch
from models.sparse.backends import apart

apart.why_not("torchsparse", torch.device("cpu"), "torchsparse 2.1.0, A GPU", ("fp32",))
"""


def test_the_process_that_tries_one_ends_with_the_one_that_waits_for_it(tmp_path: Path) -> None:
    """Which is killed, while a library is stuck. Until then it obeys signals that its parent ignores."""
    library, facts, said = tmp_path / "torchsparse", tmp_path / "torchsparse-2.1.0.dist-info", tmp_path / "said"
    for folder in (library, facts):
        folder.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: torchsparse\nVersion: 2.1.0\n")
    (library / "__init__.py").touch()
    (library / "backend.py").write_text(STUCK.format(said=str(said)))
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    environment = os.environ | {"PYTHONPATH": path, "FIP_CACHE": str(tmp_path / "cache")}
    waits = subprocess.Popen([sys.executable, "-c", ASKS], env=environment)
    try:
        until(lambda: said.exists() and said.read_text() != "", "the library is being imported", 200)
        child, dispositions = ast.literal_eval(said.read_text())
        assert dispositions == [str(signal.SIG_DFL)] * 2
    finally:
        waits.kill()
        waits.wait()
    until(lambda: not Path(f"/proc/{child}").exists(), "the child is gone", 20)


def test_one_that_was_right_in_a_process_of_its_own_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIP_CACHE", str(tmp_path))
    assert apart.why_not("reference", torch.device("cpu"), "reference 1, A GPU", ("fp32",)) is None
    monkeypatch.setattr(sys, "executable", "/nowhere")
    assert apart.why_not("reference", torch.device("cpu"), "reference 1, A GPU", ("fp32",)) is None
    assert "could not be tried" in (apart.why_not("reference", torch.device("cpu"), "reference 2, A GPU", ("fp32",)) or "")


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
    assert apart.why_not("reference", torch.device("cpu"), "reference 3, A GPU", ("fp32",)) == reason


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

    def probe(engines: dict[str, Engine], device: torch.device, _: Precisions) -> dict[str, EngineReport]:
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
