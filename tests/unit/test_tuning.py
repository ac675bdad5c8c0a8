"""What runs quickest is measured once, kept in a file, and measured again where the file says nothing sensible."""

import json
import threading
import time
from pathlib import Path

import pytest
import torch

from models.sparse.backends.tuning import Tuner, Way, bucket


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


@pytest.mark.parametrize("failure", [torch.OutOfMemoryError, torch.AcceleratorError])
def test_a_device_that_is_full_or_fails_says_nothing_of_a_way(cache: Path, failure: type[RuntimeError]) -> None:
    """Else the next way would be kept for good, because the first had no room once."""
    ways = Ways()

    def failing() -> object:
        raise failure("of the device")

    tuner = Tuner("A GPU 3.9", ways.time_ms)
    with pytest.raises(failure):
        tuner.best("conv 27 64 64", {"quick": failing, "slow": ways.slow})
    assert not cache.exists()
    assert tuner.best("conv 27 64 64", ways.all) == "quick"


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
