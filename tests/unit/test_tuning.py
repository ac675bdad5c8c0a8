"""What runs quickest is measured once, kept in a file, and measured again where the file says nothing sensible."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from models.sparse.backends.tuning import Tuner


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
    def all(self) -> list[Callable[[], object]]:
        return [self.broken, self.slow, self.quick]

    def time_ms(self, way: Callable[[], object]) -> float:
        self.measured += 1
        return self.times[way]  # type: ignore[index]


def test_the_quickest_that_works_is_remembered(cache: Path) -> None:
    ways = Ways()
    for _ in range(2):
        tuner = Tuner("A GPU 3.9", ways.time_ms)
        assert [tuner.best("conv 27 64 64", ways.all) for _ in range(2)] == [2, 2]
        assert ways.measured == 6
    assert json.loads(cache.read_text()) == {"conv 27 64 64": 2}
    assert Tuner("A GPU 3.9", ways.time_ms).best("another", ways.all[1:]) == 1
    assert json.loads(cache.read_text()) == {"another": 1, "conv 27 64 64": 2}


@pytest.mark.parametrize("content", ["", "[]", '{"conv 27 64 64": 3}', '{"conv 27 64 64": "quick"}', '{"conv 27 64 64": -1}'])
def test_a_file_that_says_nothing_is_made_anew(cache: Path, content: str) -> None:
    cache.parent.mkdir()
    cache.write_text(content)
    ways = Ways()
    assert Tuner("A GPU 3.9", ways.time_ms).best("conv 27 64 64", ways.all) == 2


def test_where_nothing_can_be_kept_it_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FIP_CACHE", str(tmp_path / "file"))
    ways = Ways()
    assert Tuner("A GPU 3.9", ways.time_ms).best("conv 27 64 64", ways.all) == 2


def test_where_every_way_fails_the_reason_is_said(cache: Path) -> None:
    with pytest.raises(RuntimeError, match="out of shared memory"):
        Tuner("A GPU 3.9", Ways().time_ms).best("conv 27 64 64", [Ways().broken] * 2)
