"""What runs quickest is measured once, kept in a file, and measured again where the file says nothing sensible."""

import json
import threading
import time
import weakref
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from models.sparse.backends.tuning import Tuner, Way, bucket
from models.sparse.backends.turns import TURNS, untuned, waited_for

GIVE_UP_S = 60.0


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FIP_CACHE", str(tmp_path))
    return tmp_path / "tuned" / "A_GPU_3.9.json"


class Ways:
    """Three ways to run a kernel, the first of which fails. Counts what is measured."""

    def __init__(self) -> None:
        self.measured = 0
        self.times = {self.slow: 2.0, self.quick: 1.0}

    def broken(self) -> object:
        raise RuntimeError("out of shared memory")

    def slow(self) -> object:
        return None

    def quick(self) -> object:
        return None

    @property
    def all(self) -> dict[str, Way]:
        return {"broken": self.broken, "slow": self.slow, "quick": self.quick}

    def time_ms(self, way: Way) -> float:
        self.measured += 1
        return self.times[way]  # type: ignore[index]


def test_the_quickest_that_works_is_remembered(cache: Path) -> None:
    ways = Ways()
    for _ in range(2):
        tuner = Tuner("A GPU 3.9", ways.time_ms)
        assert [tuner.best("conv 27 64 64", ways.all) for _ in range(2)] == ["quick"] * 2
        assert ways.measured == 6
    assert json.loads(cache.read_text()) == {"conv 27 64 64": "quick"}
    fresh = Tuner("A GPU 3.9", ways.time_ms)
    assert [fresh.known("conv 27 64 64", those) for those in (ways.all, ["slow"])] == ["quick", None]
    assert fresh.known("another", ways.all) is None
    assert ways.measured == 6
    assert Tuner("A GPU 3.9", ways.time_ms).best("another", {"slow": ways.slow}) == "slow"
    assert json.loads(cache.read_text()) == {"another": "slow", "conv 27 64 64": "quick"}


def test_another_order_of_the_ways_changes_nothing(cache: Path) -> None:
    ways = Ways()
    assert Tuner("A GPU 3.9", ways.time_ms).best("conv 27 64 64", ways.all) == "quick"
    turned = dict(reversed(ways.all.items()))
    assert Tuner("A GPU 3.9", ways.time_ms).best("conv 27 64 64", turned) == "quick"
    assert ways.measured == 6


@pytest.mark.parametrize("content", ["", "[]", '{"conv 27 64 64": 2}', '{"conv 27 64 64": "gone"}', '{"conv 27 64 64": null}'])
def test_a_file_that_says_nothing_is_made_anew(cache: Path, content: str) -> None:
    cache.parent.mkdir()
    cache.write_text(content)
    ways = Ways()
    assert Tuner("A GPU 3.9", ways.time_ms).best("conv 27 64 64", ways.all) == "quick"
    assert ways.measured == 6


def test_where_nothing_can_be_kept_it_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FIP_CACHE", str(tmp_path / "file"))
    ways = Ways()
    assert Tuner("A GPU 3.9", ways.time_ms).best("conv 27 64 64", ways.all) == "quick"


def test_where_every_way_fails_the_reason_is_said(cache: Path) -> None:
    with pytest.raises(RuntimeError, match="out of shared memory"):
        Tuner("A GPU 3.9", Ways().time_ms).best("conv 27 64 64", {"one": Ways().broken, "other": Ways().broken})


def test_a_device_that_fails_says_nothing_of_a_way(cache: Path) -> None:
    """Else the next way would be kept for good, because the device went away under the first."""
    ways = Ways()

    def failing() -> object:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    tuner = Tuner("A GPU 3.9", ways.time_ms)
    with pytest.raises(torch.AcceleratorError):
        tuner.best("conv 27 64 64", {"quick": failing, "slow": ways.slow})
    assert not cache.exists()
    assert tuner.best("conv 27 64 64", ways.all) == "quick"


class Full:
    """A way that finds no memory, in the words of PyTorch, CUDA or Triton, when it is first run or only while it is measured."""

    def __init__(self, error: RuntimeError, runs: int) -> None:
        self._error, self._runs = error, runs

    def __call__(self) -> object:
        self._runs -= 1
        if self._runs < 0:
            raise self._error
        return None


@pytest.mark.parametrize("runs", [0, 2])
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_one_that_finds_no_memory_is_left_out_and_not_for_good(cache: Path, error: RuntimeError, runs: int) -> None:
    """The call goes on with the others. In this process it is not tried again and again; the next one measures all."""
    ways = Ways()

    def time_ms(way: Way) -> float:
        way()
        return ways.times.get(way, 0.5)  # type: ignore[call-overload]

    full = Full(error, runs)
    tuner, ways_now = Tuner("A GPU 3.9", time_ms), {"quick": full, "slow": ways.slow}
    assert [tuner.best("conv 27 64 64", ways_now) for _ in range(2)] == ["slow"] * 2
    assert tuner.best("another", {"slow": ways.slow, "quick": ways.quick}) == "quick"
    assert json.loads(cache.read_text()) == {"another": "quick"}
    assert Tuner("A GPU 3.9", ways.time_ms).best("conv 27 64 64", ways.all) == "quick"


def test_where_none_finds_memory_it_is_said(cache: Path) -> None:
    """Not what another one failed of: a pass that has no memory is cut up."""
    full = Full(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), 0)
    for measuring in (nullcontext, untuned):
        with measuring(), pytest.raises(torch.OutOfMemoryError):
            Tuner("A GPU 3.9", Ways().time_ms).best("grad 27 64 64", {"full": full, "broken": Ways().broken})
    assert not cache.exists()


def test_what_failed_holds_no_memory_while_others_are_tried(cache: Path) -> None:
    class Tensor:
        pass

    held: list[weakref.ref[Tensor]] = []

    def full() -> object:
        tensor = Tensor()
        held.append(weakref.ref(tensor))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    def slow() -> object:
        assert held[0]() is None
        return None

    assert Tuner("A GPU 3.9", lambda _: 1.0).best("grad 27 64 64", {"full": full, "slow": slow}) == "slow"


def test_who_is_waited_for_measures_nothing(cache: Path) -> None:
    """The first way that works, unless one is known; it is found once, and a later measurement is not kept from its own choice."""
    ways = Ways()
    runs: list[str] = []

    def slow() -> object:
        runs.append("slow")
        return None

    tuner, some = Tuner("A GPU 3.9", lambda way: 2.0 if way is slow else 1.0), {"broken": ways.broken, "slow": slow, "quick": ways.quick}
    for _ in range(2):
        with waited_for():
            assert tuner.best("conv 27 64 64", some) == "slow"
    assert runs == ["slow"]
    assert not cache.exists()
    assert tuner.best("conv 27 64 64", some) == "quick"
    with untuned():
        assert tuner.best("conv 27 64 64", some) == "quick"


def test_ways_that_are_built_are_tried_wherever_nobody_waits(cache: Path) -> None:
    """Those of a library of others: one that ends its process does so in the one that tries it, and not in a warm-up."""
    ways = Ways()
    tuner = Tuner("A GPU 3.9", ways.time_ms, built=True)
    with waited_for():
        assert tuner.best("conv 27 64 64", ways.all) == "slow"
        assert ways.measured == 0
    with untuned():
        assert tuner.best("conv 27 64 64", ways.all) == "quick"
        assert ways.measured == 6


def test_nothing_is_measured_beside_a_pass_that_somebody_waits_for(cache: Path) -> None:
    """Two passes are under way; the measurement waits for both, and who comes meanwhile waits for the measurement."""
    seen: list[str] = []
    begun, end, measuring = threading.Barrier(3), threading.Event(), threading.Event()

    def long_pass() -> None:
        with waited_for():
            begun.wait(GIVE_UP_S)
            assert end.wait(GIVE_UP_S)
            seen.append("pass")

    def time_ms(_: Way) -> float:
        if not measuring.is_set():
            measuring.set()
            late.start()
            time.sleep(0.05)
        seen.append("measured")
        return 1.0

    def late_pass() -> None:
        with waited_for():
            seen.append("late pass")

    ways, late = Ways(), threading.Thread(target=late_pass)
    tuner = Tuner("A GPU 3.9", time_ms)
    passes = [threading.Thread(target=long_pass) for _ in range(2)]
    tuning = threading.Thread(target=tuner.best, args=("one", {"slow": ways.slow, "quick": ways.quick}))
    for thread in passes:
        thread.start()
    begun.wait(GIVE_UP_S)
    tuning.start()
    time.sleep(0.05)
    assert seen == []
    end.set()
    for thread in (*passes, tuning, late):
        thread.join(GIVE_UP_S)
    assert seen[:3] == ["pass", "pass", "measured"]
    assert sorted(seen) == ["late pass", *["measured"] * 6, "pass", "pass"]
    assert not TURNS.untuned
    assert not TURNS.waited_for


def test_threads_measure_one_after_the_other(cache: Path) -> None:
    """A device that runs two things at once says of neither how long it takes."""
    at_once: list[int] = []
    running: list[str] = []

    def time_ms(way: Way) -> float:
        running.append("")
        at_once.append(len(running))
        time.sleep(0.01)
        running.pop()
        return 1.0

    tuner, ways = Tuner("A GPU 3.9", time_ms), Ways()
    keys = ("one", "other", "other")
    threads = [threading.Thread(target=tuner.best, args=(key, {"slow": ways.slow, "quick": ways.quick})) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert at_once == [1] * 12  # three of each way, and none again for what was measured meanwhile


def test_sizes_of_about_the_same_share_a_choice() -> None:
    assert [bucket(rows) for rows in (0, 1, 3, 4, 31, 32, 255, 256, 2047, 2048)] == [0, 0, 0, 1, 1, 2, 2, 3, 3, 4]
