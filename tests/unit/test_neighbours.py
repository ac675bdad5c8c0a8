"""The classifier without a net: its grids, its choice of a grid, its record and its page."""

from pathlib import Path

import numpy as np
import pytest

from models.cli import run
from training.datasets import LabelledClouds
from training.reproduce import neighbours
from training.reproduce.neighbours import CAP, GRIDS, SEEDS, grids_of, measure, nearest, read_found


def clouds(count: int, seed: int) -> LabelledClouds:
    """Balls, rods and plates of a hundred points, `count` of each."""
    rng = np.random.default_rng(seed)
    shapes = np.array([[1, 1, 1], [0.1, 0.1, 1], [1, 1, 0.1]])
    targets = np.repeat(np.arange(3), count)
    xyz = rng.normal(size=(3 * count, 100, 3)) * shapes[targets][:, None] * rng.uniform(0.5, 2, (3 * count, 1, 1))
    return LabelledClouds(xyz.astype(np.float32), targets, ("ball", "rod", "plate"))


def test_a_grid_counts_points_and_spreads_them() -> None:
    xyz = np.array([[[-1, 0, 0], [1, 0, 0]] + [[0.03, 0.03, 0.03]] * 20], np.float32)
    sharp = grids_of(LabelledClouds(xyz, np.zeros(1, np.int64), ("any",)), 16, 1e-3)[0].reshape(16, 16, 16) ** 2
    assert sorted(sharp[sharp > 1e-6].tolist()) == pytest.approx([1, 1, CAP])
    assert (sharp[0, 7, 7], sharp[15, 7, 7], sharp[8, 8, 8]) == pytest.approx((1, 1, CAP))
    blurred = grids_of(LabelledClouds(xyz, np.zeros(1, np.int64), ("any",)), 16, 1.0)[0].reshape(16, 16, 16) ** 2
    assert blurred[8, 8, 8] < CAP
    assert blurred[8, 8, 9] == pytest.approx(blurred[9, 8, 8], rel=1e-3)  # alike along every axis
    assert blurred[8, 8, 9] / blurred[8, 8, 8] == pytest.approx(np.exp(-0.5), rel=1e-3)


def test_the_nearest_is_so_by_angle() -> None:
    labelled = np.array([[3, 0], [0, 3], [-3, -3]], np.float32)  # whose middle is the origin
    assert nearest(labelled, np.array([[9, 1], [0.1, 0.2], [-1, -2]], np.float32)).tolist() == [0, 1, 2]


def test_shapes_are_told_apart_and_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    splits = {"train": clouds(14, 0), "test": clouds(10, 1)}
    monkeypatch.setattr(neighbours, "read_split", lambda kind, data, split: splits[split])
    measure(tmp_path, tmp_path)
    found = read_found(tmp_path)
    assert found is not None
    assert (found.train, found.test) == (splits["train"].digest, splits["test"].digest)
    assert {shots: len(scores) for shots, scores in found.tests.items()} == SEEDS
    assert all(len(scores) == 2 for grids in found.tried.values() for scores in grids.values())
    assert all(score > 0.9 for score in found.tests[10].values())
    assert max(sum(scores) for scores in found.tried[10].values()) == sum(found.tried[10][found.chosen(10)])
    monkeypatch.setattr(neighbours, "_measured", lambda train, test: pytest.fail("it is measured already"))
    measure(tmp_path, tmp_path)
    assert run(["reproduce", "neighbours", "--out", str(tmp_path)]) == 0
    assert "README.md" in capsys.readouterr().out
    page = (tmp_path / "neighbours.md").read_text()
    assert "## 1 cloud a class" in page
    assert f"nearest neighbour, {found.chosen(5)[0]}³ cells" in page
    assert len(page.split("Grids that were tried")[1].split(", the best mean first: ")[1].split(".\n")[0].split(", ")) == len(GRIDS)
    assert str(found.test_of(10)) in (tmp_path / "README.md").read_text()


def test_without_record_and_data_there_is_nothing_to_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["reproduce", "neighbours", "--out", str(tmp_path)]) == 2
    assert "--data" in capsys.readouterr().err
