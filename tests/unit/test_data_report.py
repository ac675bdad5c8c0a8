"""The report on a folder, the input options derived from it, and `fip data inspect`."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from models.cli import run
from models.errors import BadDataset
from models.manifest import FeatureSpec, InputSpec
from models.voxelize import prepare, voxelize
from training.data_cli import data
from training.datasets import LabelledClouds
from training.datasets.advice import explained
from training.datasets.defaults import VOXEL_SIZES, derive_input, point_budget
from training.datasets.folder import folder_splits
from training.datasets.listing import list_folder
from training.datasets.report import DataReport
from training.datasets.scan import scan_folder


def sphere(seed: int, count: int = 300, size: float = 1.0) -> np.ndarray:
    directions = np.random.default_rng(seed).normal(size=(count, 3))
    return (size * directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float32)


def save(path: Path, xyz: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, xyz)


def folder(root: Path, sizes: dict[str, float], count: int = 12) -> Path:
    """Spheres of one size a class."""
    for target, (name, size) in enumerate(sizes.items()):
        for i in range(count):
            save(root / name / f"{i:02d}.npy", sphere(100 * target + i, size=size * (1 + 0.01 * i)))
    return root


def report_of(root: Path) -> DataReport:
    listing = list_folder(root)
    return DataReport.of(listing, scan_folder(listing))


def advice_of(root: Path, word: str) -> list[str]:
    return [line for line in report_of(root).advice if word in line]


# The report


def test_the_report_counts_and_measures(tmp_path: Path) -> None:
    root = folder(tmp_path, {"a": 1, "b": 1}, count=3)
    np.savez(root / "a/c.npz", xyz=2 * sphere(5, 50), rgb=np.zeros((50, 3), np.uint8))
    np.hstack([sphere(6, 60), np.ones((60, 1), np.float32)]).tofile(root / "b/i.bin")
    shutil.copy(root / "a/00.npy", root / "a/copy.npy")
    (root / "b/bad.ply").write_bytes(b"ply\n")
    (root / "notes.txt").touch()
    report = report_of(root)
    assert [(row.name, row.whole, row.unusable) for row in report.classes] == [("a", 5, 0), ("b", 4, 1)]
    assert report.points is not None
    assert report.diagonal is not None
    assert (report.points.low, report.points.median, report.points.high) == (50, 300, 300)
    assert report.box == pytest.approx((2, 2, 2), rel=0.1)
    assert report.diagonal.high == pytest.approx(4 * 3**0.5, rel=0.1)
    assert (report.colour, report.intensity) == (1, 1)
    assert report.duplicates == (("a/00.npy", "a/copy.npy"),)
    assert [(each.path, each.code) for each in report.unusable] == [("b/bad.ply", "bad_header")]
    assert report.ignored == {".txt": 1}
    text = str(report)
    for part in ("a/00.npy = a/copy.npy", "b/bad.ply [bad_header]", "1 × .txt", "50 to 300, median 300", "colour in 1 files"):
        assert part in text
    assert json.loads(json.dumps(report.to_json()))["classes"][0]["whole"] == 5


def test_counts_are_by_split_where_folders_or_the_seed_say_so(tmp_path: Path) -> None:
    root = folder(tmp_path, {"a/train": 1, "a/val": 1, "a/test": 1, "b/train": 1}, count=4)
    row, _ = report_of(root).classes
    assert (row.whole, row.train, row.validation, row.test) == (0, 4, 4, 4)
    listing = list_folder(folder(tmp_path / "two", {"a": 1, "b": 1}, count=10))
    scan = scan_folder(listing)
    report = DataReport.of(listing, scan, folder_splits(listing, scan, test_share=0.3, seed=0, skip_bad=False))
    assert [(row.whole, row.train, row.test) for row in report.classes] == [(0, 7, 3)] * 2


def test_a_report_on_thousands_of_classes_copies_and_bad_files_stays_short(tmp_path: Path) -> None:
    for i in range(400):
        save(tmp_path / f"class{i:04d}/1.npy", sphere(i, 10))
        shutil.copy(tmp_path / f"class{i:04d}/1.npy", tmp_path / f"class{i:04d}/2.npy")
        (tmp_path / f"class{i:04d}/3.npy").touch()
    for i in range(20):
        shutil.copy(tmp_path / "class0000/1.npy", tmp_path / f"class0000/x{i}.npy")
    report = report_of(tmp_path)
    lines = str(report).splitlines()
    assert len(lines) < 110
    assert max(map(len, lines)) < 500
    for part in (
        "and 340 more classes",
        "files that occur more than once: 400",
        "  and 390 more",
        "17 more",
        "files that cannot be used: 400",
    ):
        assert part in str(report)
    assert len(report.to_json()["duplicates"]) == 10


def test_nothing_usable_still_makes_a_report(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.ply").touch()
    report = report_of(tmp_path)
    assert report.points is None
    assert report.advice == ("no file can be used",)
    assert "a/1.ply [empty_file]" in str(report)


# Advice


def test_imbalance_and_tiny_classes_are_pointed_out(tmp_path: Path) -> None:
    folder(tmp_path, {"large": 1}, count=30)
    folder(tmp_path, {"small": 1}, count=2)
    (unequal,) = advice_of(tmp_path, "unequal")
    assert "30 clouds of large and 2 of small" in unequal
    assert advice_of(tmp_path, "too few") == ["fewer than 10 clouds, too few to judge a score by: small (2)"]


def test_mixed_units_are_pointed_out_with_a_file_of_either_kind(tmp_path: Path) -> None:
    folder(tmp_path, {"a": 1, "b": 1})
    assert not advice_of(tmp_path, "units")
    save(tmp_path / "b/mm.npy", sphere(1, size=1000))
    (line,) = advice_of(tmp_path, "are the units mixed")
    assert "b/mm.npy" in line


def test_size_that_tells_classes_apart_is_pointed_out(tmp_path: Path) -> None:
    (line,) = advice_of(folder(tmp_path / "one", {"ball": 0.1, "globe": 1}), "size tells classes apart")
    assert "input.normalise=none" in line
    assert not advice_of(folder(tmp_path / "two", {"ball": 1, "globe": 1}), "size tells")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):  # sizes differ, and say nothing of the class
        for i in range(12):
            save(tmp_path / "three" / name / f"{i}.npy", sphere(i, size=float(rng.uniform(0.2, 2))) + len(name))
    assert not advice_of(tmp_path / "three", "size tells")


def test_normalised_clouds_have_no_size_to_tell_by(tmp_path: Path) -> None:
    """A stick and a ball in the unit sphere have boxes of different diagonals; unit_sphere hides one percent of them."""
    for i in range(12):
        for name, shape in (("ball", sphere(i)), ("stick", sphere(i) * np.array([1, 0.01, 0.01], np.float32))):
            centred = shape - shape.mean(0)
            save(tmp_path / f"{name}/{i}.npy", centred / np.linalg.norm(centred, axis=1).max() * (1.01 if name == "stick" else 1))
    assert not advice_of(tmp_path, "size tells")


@given(st.integers(2, 6), st.integers(2, 30), st.integers(0, 5))
def test_the_share_that_classes_explain_is_that_of_an_analysis_of_variance(classes: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = np.repeat(np.arange(classes), count)
    values = rng.normal(size=len(targets)) + targets * rng.uniform(0, 2)
    between = sum(count * (values[targets == t].mean() - values.mean()) ** 2 for t in range(classes))
    total = ((values - values.mean()) ** 2).sum()
    eta2 = between / total
    corrected = 1 - (1 - eta2) * (len(values) - 1) / (len(values) - classes)
    assert explained(targets, values) == pytest.approx(max(0, corrected), abs=1e-9)


def test_the_share_is_nothing_where_nothing_can_be_said() -> None:
    assert explained(np.arange(5), np.arange(5.0)) == 0
    assert explained(np.array([0, 0, 1, 1]), np.ones(4)) == 0
    assert explained(np.array([0, 0, 1, 1]), np.array([1.0, 1, 2, 2])) == 1
    noise = [explained(np.repeat(np.arange(40), 3), np.random.default_rng(seed).normal(size=120)) for seed in range(20)]
    assert np.mean(noise) < 0.1  # eta² itself would be 0.33


# Derived input options


@pytest.mark.parametrize(
    ("counts", "budget"),
    [([10], 256), ([1024], 1024), ([1023], 512), ([5000], 2048), ([700] * 9 + [3000], 512), ([100] + [2048] * 19, 2048)],
)
def test_the_budget_is_a_power_of_two_for_nine_in_ten(counts: list[int], budget: int) -> None:
    assert point_budget(np.array(counts)) == budget


def test_the_voxel_size_is_the_smallest_of_the_table_that_groups_points() -> None:
    clouds = LabelledClouds(np.stack([7 * sphere(i, 1500) + 50 for i in range(20)]), np.zeros(20, np.int64), ("a",))
    values, reasons = derive_input(clouds)
    spec = InputSpec.model_validate({"features": (FeatureSpec(name="x"),), **values})
    assert spec.normalise == "unit_sphere"
    assert spec.point_budget == 1024

    def held(size: float) -> float:
        used = spec.model_copy(update={"voxel_size": size})
        return float(np.mean([1024 / len(voxelize(prepare(clouds.cloud(i), used), used)) for i in range(20)]))

    place = VOXEL_SIZES.index(spec.voxel_size)
    assert held(VOXEL_SIZES[place]) >= 1.4 > held(VOXEL_SIZES[place - 1])
    assert [reason.split(":")[0] for reason in reasons] == ["normalise unit_sphere", "point_budget 1024", f"voxel_size {spec.voxel_size:g}"]
    assert derive_input(clouds) == (values, reasons)


def test_no_clouds_give_no_options() -> None:
    with pytest.raises(BadDataset):
        derive_input(LabelledClouds(np.zeros((0, 5, 3), np.float32), np.zeros(0, np.int64), ("a",)))


# fip data inspect


def test_inspect_prints_report_and_options(tmp_path: Path) -> None:
    result = CliRunner().invoke(data, ["inspect", str(folder(tmp_path, {"a": 1, "b": 1}))])
    assert result.exit_code == 0, result.output
    assert "24 files, 2 classes" in result.stdout
    assert "voxel_size 0." in result.stdout
    assert "set aside as test clouds by the seed" in result.stdout


def test_inspect_prints_json_alone_on_stdout(tmp_path: Path) -> None:
    root = folder(tmp_path, {"a": 1, "b": 1})
    (root / "a/bad.npy").touch()
    result = CliRunner().invoke(data, ["inspect", str(root), "--json", "--test-share", "0.25"])
    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert [row["test"] for row in found["classes"]] == [3, 3]
    assert found["num_unusable"] == 1
    assert InputSpec.model_validate({"features": (), **found["input"]}).normalise == "unit_sphere"
    assert len(found["reasons"]) == 3
    assert found["problem"] is None


def test_inspect_a_sample_counts_all_and_looks_at_some(tmp_path: Path) -> None:
    root = folder(tmp_path, {"a": 1, "b": 1}, count=40)
    found = json.loads(CliRunner().invoke(data, ["inspect", str(root), "--json", "--sample", "10", "--test-share", "0"]).stdout)
    assert (found["files"], found["listed"]) == (10, 80)
    assert [row["whole"] for row in found["classes"]] == [40, 40]
    assert not [line for line in found["advice"] if "too few" in line]


def test_inspect_ends_with_five_where_nothing_can_be_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder(tmp_path, {"a": 1, "b": 1}, count=2)
    for path in (root / "a").iterdir():
        path.write_bytes(b"")
    assert run(["data", "inspect", str(root)]) == 5
    shown = capsys.readouterr()
    assert "a/00.npy [empty_file]" in shown.out
    assert "no clouds that can be used of a" in shown.err
    assert run(["data", "inspect", str(root), "--json"]) == 5
    assert json.loads(capsys.readouterr().out)["problem"]["code"] == "bad_dataset"
    assert run(["data", "inspect", str(root / "a")]) == 5
    assert "directly in it" in capsys.readouterr().err


def test_inspect_wants_a_folder(tmp_path: Path) -> None:
    assert run(["data", "inspect", str(tmp_path / "nowhere")]) == 2


def test_its_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from models.cli import run; run(['data', 'inspect', '--help']); print(sorted({'numpy', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
