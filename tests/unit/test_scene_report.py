"""The report on a folder of labelled clouds, `fip data inspect` and `fip data prepare`."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from models.cli import run
from models.manifest import InputSpec
from tests.scene_folders import LABELS_YAML, ids, labelled, labelled_ply, points, room, scan, write_ply
from training.data_cli import data, look_through_scenes
from training.datasets import read_scenes, read_split
from training.datasets.scene_report import SceneReport


def inspected(root: Path, *options: str) -> dict[str, object]:
    done = CliRunner().invoke(data, ["inspect", str(root), "--json", *options], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def text_of(root: Path) -> str:
    return CliRunner().invoke(data, ["inspect", str(root)], catch_exceptions=False).stdout


def test_the_report_counts_points_of_every_class(tmp_path: Path) -> None:
    root = labelled(tmp_path, "train/0.ply", "train/1.npz", "val/2.bin", "test/3.ply")
    found = inspected(root)
    counts = np.bincount(np.concatenate([ids(seed) for seed in range(4)]), minlength=8)
    wanted = {"ground": counts[2] + counts[5], "tree": counts[7], "(ignored)": counts[0]}
    classes = found["classes"]
    assert isinstance(classes, list)
    assert {row["name"]: row["points"] for row in classes} == wanted
    assert [row["share"] for row in classes] == pytest.approx([count / 160 for count in wanted.values()])
    assert [row["files"] for row in classes] == [4, 4, 4]
    assert (found["files"], found["train"], found["validation"], found["test"], found["held_out"]) == (4, 2, 1, 1, False)
    assert (found["colour"], found["intensity"]) == (1, 1)
    assert found["labels"] == {"column label": 3, ".label files": 1}
    assert found["points"] == {"low": 40, "median": 40, "high": 40}
    sides = np.median([np.ptp(points(seed), axis=0) for seed in range(4)], axis=0)
    assert found["box"] == pytest.approx(sides, rel=1e-6)
    assert found["problem"] is None
    assert InputSpec.model_validate(found["input"]).normalise == "none"


def test_the_spacing_is_that_of_the_train_scenes(tmp_path: Path) -> None:
    root = labelled(tmp_path)
    grid = np.stack(np.meshgrid(*[np.arange(5)] * 3), axis=-1).reshape(-1, 3) * 0.25
    for name in ("a", "b"):
        columns = dict(zip("xyz", grid.T.astype(np.float32), strict=True))
        write_ply(root / f"{name}.ply", {**columns, "label": np.where(np.arange(125) < 60, 2, 7).astype(np.uint8)})
    found = inspected(root)
    assert found["spacing"] == pytest.approx(0.25)
    assert "point spacing      0.25 (median distance" in text_of(root)


def test_the_text_says_what_the_json_says(tmp_path: Path) -> None:
    root = labelled(tmp_path, *(f"{seed}.ply" for seed in range(5)), "bad.npz")
    (root / "bad.npz").write_bytes(b"PK")
    shown = text_of(root)
    assert f"{root}: 6 files (4 to train on, 1 to test on, drawn by the seed), 2 classes" in shown
    assert "ground" in shown
    assert "2, 5" in shown
    assert "points a file      40 to 40, median 40" in shown
    assert "files that cannot be used: 1; training refuses them, or leaves them out with --skip-bad\n  bad.npz [bad_header]" in shown
    assert "- 1 files that cannot be used are left out" in shown
    assert "- no test folder: 1 of 5 files are set aside to test on by the seed" in shown
    assert "input derived from the training clouds:\n  voxel_size" in shown


def test_advice_is_given_where_it_is_due(tmp_path: Path) -> None:
    root = labelled(tmp_path, "1.npz")
    (root / "labels.yaml").write_text(LABELS_YAML.replace("ignore", "  - {name: car, colour: [9, 9, 9], ids: [9]}\nignore"))
    many = np.full(4000, 0)
    many[:3] = 7
    many[3:1500] = 2
    columns = dict(zip("xyz", points(0, 4000).T, strict=True))
    write_ply(root / "0.ply", {**columns, "label": many.astype(np.uint8)})
    advice = inspected(root)["advice"]
    assert isinstance(advice, list)
    assert advice[0] == "classes of labels.yaml that no file has: car; nothing is learnt of them"
    assert advice[1].startswith("62% of all points are ignored")
    assert advice[2] == "1 of 2 files have colour: as an input feature it needs a fill value for the others"
    (root / "1.npz").unlink()
    assert "fewer than one point in a thousand: tree (0.200%)" not in text_of(root)
    many[1:3] = 2
    write_ply(root / "0.ply", {**columns, "label": many.astype(np.uint8)})
    assert "fewer than one point in a thousand: tree (0.067%); the recipe's `balance: loss` weighs against that" in text_of(root)


def test_a_sample_is_looked_at_without_splits(tmp_path: Path) -> None:
    root = labelled(tmp_path, *(f"{seed}.ply" for seed in range(9)))
    found = inspected(root, "--sample", "4")
    assert (found["files"], found["listed"], found["train"], found["test"]) == (4, 9, 0, 0)
    assert f"{root}: 4 files, a sample of 9, 2 classes" in str(look_through_scenes(root, 4, 0.2, 0).report)
    assert len({str(look_through_scenes(root, 2, 0.2, seed).report.to_json()) for seed in range(6)}) > 1


def test_nothing_to_train_on_ends_with_five(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = labelled(tmp_path, "a.ply")
    (root / "a.ply").write_bytes(b"")
    assert run(["data", "inspect", str(root)]) == 5
    shown = capsys.readouterr()
    assert "a.ply [empty_file]" in shown.out
    assert "no file in it can be trained on" in shown.err
    assert run(["data", "inspect", str(root), "--json"]) == 5
    assert json.loads(capsys.readouterr().out)["problem"]["code"] == "bad_dataset"
    (root / "labels.yaml").unlink()
    labelled_ply(root / "a.ply", 0)
    assert run(["data", "inspect", str(root), "--kind", "labelled"]) == 5
    assert "- {name: class-7" in capsys.readouterr().err
    assert run(["data", "inspect", str(root)]) == 5
    shown = capsys.readouterr()
    assert "clouds lie directly in it" in shown.err
    assert "(if its clouds have a label for every point: --kind labelled)" in shown.err


def test_the_report_of_a_folder_is_one_of_scenes(tmp_path: Path) -> None:
    root = labelled(tmp_path, "a.ply", "b.ply")
    assert isinstance(look_through_scenes(root, None, 0.2, 0).report, SceneReport)


# fip data prepare


def prepared(*words: object) -> str:
    done = CliRunner().invoke(data, ["prepare", *map(str, words)], catch_exceptions=False)
    return done.stdout


def test_s3dis_is_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIP_CACHE", str(tmp_path / "cache"))
    for seed, title in enumerate(("Area_1/office_1", "Area_5/office_2")):
        room(tmp_path / "raw" / title, seed)
    assert prepared("s3dis", tmp_path / "raw", tmp_path / "out") == f"2 rooms are prepared in {tmp_path / 'out'}\n"
    for split in ("train", "test"):
        assert read_scenes("s3dis", tmp_path / "out", split).digest == read_scenes("s3dis", tmp_path / "raw", split).digest


def test_semantickitti_is_looked_through_and_linked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, title in enumerate(("00/000000", "00/000001", "08/000000")):
        scan(tmp_path / "raw/sequences", title, seed)
    for source in (tmp_path / "raw", tmp_path / "raw/sequences"):
        said = prepared("semantickitti", source, tmp_path / "out")
        assert said == f"2 scans to train and 1 scans to test are read as they are; {tmp_path / 'out'} holds links to them\n"
        assert read_scenes("semantickitti", tmp_path / "out", "val").titles == ("08/000000",)
    (tmp_path / "raw/sequences/00/labels/000001.label").unlink()
    assert run(["data", "prepare", "semantickitti", str(tmp_path / "raw"), str(tmp_path / "other")]) == 5
    assert "00/labels/000001.label is missing" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    assert run(["data", "prepare", "semantickitti", str(tmp_path), str(tmp_path / "other")]) == 5
    assert "no sequence 00 to 10 in it" in capsys.readouterr().err


def test_what_lies_in_the_way_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan(tmp_path / "raw", "00/000000", 0)
    (tmp_path / "out/sequences").mkdir(parents=True)
    assert run(["data", "prepare", "semantickitti", str(tmp_path / "raw"), str(tmp_path / "out")]) == 5
    assert "out/sequences: cannot be made: File exists" in capsys.readouterr().err


def test_modelnet40_is_looked_through_and_linked(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "shape_names.txt").write_text("chair\ntable\n")
    for split in ("train", "test"):
        with h5py.File(raw / f"ply_data_{split}0.h5", "w") as file:
            file["data"] = np.zeros((3, 8, 3), np.float32)
            file["label"] = np.array([[0], [1], [1]], np.uint8)
    assert prepared("modelnet40", raw, tmp_path / "out").startswith("3 clouds to train and 3 clouds to test are read as they are")
    assert read_split("modelnet40", tmp_path / "out", "test").digest == read_split("modelnet40", raw, "test").digest
