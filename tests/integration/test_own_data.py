"""A folder of somebody's own files becomes a published model: `fip train finetune-cifar20 --data FOLDER --publish NAME@ALIAS`."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from models.checkpoint import load_checkpoint
from models.cli import run
from models.registry import open_registry, pointed_at, publish_as
from training.recipe import load_recipe
from training.runstate import BEST, read_weights, write
from training.sources import clouds_to_score

SMALL = ["--set", "epochs=2", "--set", "batch_size=8", "--threads", "1"]
CLASSES = ("ball", "box", "rod")


def write_clouds(root: Path, count: int, seed: int) -> None:
    """`count` clouds of 300 to 400 points a class, as .npy, .bin and ascii .ply in turn."""
    rng = np.random.default_rng(seed)
    for name in CLASSES:
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            xyz = rng.normal(size=(rng.integers(300, 400), 3))
            ball = xyz / np.linalg.norm(xyz, axis=1, keepdims=True)
            shape = {"ball": ball, "box": np.clip(ball * 1.8, -1, 1), "rod": ball * [0.1, 0.1, 1]}[name] * 20 + 500
            path = root / name / f"{number:03}"
            if number % 3 == 0:
                np.save(path.with_suffix(".npy"), shape.astype("f4"))
            elif number % 3 == 1:
                np.c_[shape, np.zeros(len(shape))].astype("<f4").tofile(path.with_suffix(".bin"))
            else:
                rows = "\n".join(f"{x} {y} {z}" for x, y, z in shape)
                head = f"ply\nformat ascii 1.0\nelement vertex {len(shape)}\n" + "".join(f"property float {axis}\n" for axis in "xyz")
                path.with_suffix(".ply").write_text(f"{head}end_header\n{rows}\n")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("own") / "my parts"
    write_clouds(root, 12, 0)
    (root / "ball" / "notes.md").write_text("not a cloud")
    return root


def train_args(folder: Path, image_file: Path, run_dir: Path, registry: Path, *more: str) -> list[str]:
    where = ["--weights", str(image_file), "--run-dir", str(run_dir), "--registry", str(registry)]
    return ["train", "finetune-cifar20", "--data", str(folder), *where, *SMALL, *more]


@pytest.fixture(scope="module")
def published(parts: Path, image_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(run directory, registry) of a model that was trained on the folder and published as parts@champion."""
    run_dir, registry = tmp_path_factory.mktemp("runs") / "parts", tmp_path_factory.mktemp("registry") / "made"
    assert run(train_args(parts, image_file, run_dir, registry, "--publish", "parts@champion")) == 0
    return run_dir, registry


def test_what_was_published(published: tuple[Path, Path], image_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir, registry = published
    (model,) = open_registry(str(registry)).versions("parts")
    assert (model.version, model.aliases) == (1, ("champion",))
    folder = open_registry(str(registry)).folder(model)
    manifest = load_checkpoint(folder).manifest
    assert manifest.name == "parts"
    assert manifest.labels == CLASSES
    assert manifest.provenance.dataset == "my parts"
    assert {"test_accuracy", "test_accuracy_low", "validation_accuracy", "test_mean_class_accuracy"} <= manifest.metrics.keys()
    assert manifest.metrics["test_accuracy_low"] < manifest.metrics["test_accuracy"] <= manifest.metrics["test_accuracy_high"]
    assert run(["models", "verify", "parts", "--registry", str(registry)]) == 0
    assert not (run_dir / "cache").exists()  # only needed while training


def test_the_data_completes_the_recipe(published: tuple[Path, Path]) -> None:
    recipe = load_recipe(str(published[0] / "recipe.yaml"))
    assert recipe.input.normalise == "unit_sphere"
    assert recipe.input.point_budget == 256
    assert 0.01 < recipe.input.voxel_size < 0.25
    assert load_recipe(str(published[0] / "checkpoint" / "recipe.yaml")).digest == recipe.digest


def test_the_card_tells_what_the_run_knows(published: tuple[Path, Path]) -> None:
    folder = published[0] / "checkpoint"
    card, manifest = (folder / "README.md").read_text(), load_checkpoint(folder).manifest
    made = manifest.provenance
    for fact in (made.weights_2d_sha256, made.recipe_sha256, made.dataset_sha256, made.code_version, *made.licences):
        assert fact is not None
        assert fact in card
    assert f"{manifest.metrics['test_accuracy']:.2%}" in card
    for heading in ("Intended use", "Scores", "Data", "Limits", "Provenance", "Licences"):
        assert f"\n## {heading}\n" in card
    assert "curve.png" in card
    assert "set aside as test clouds" in card
    assert "| ball | " in card


def test_the_same_command_publishes_once(
    published: tuple[Path, Path], parts: Path, image_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, registry = published
    assert run(train_args(parts, image_file, run_dir, registry, "--publish", "parts@candidate")) == 0
    (model,) = open_registry(str(registry)).versions("parts")
    assert model.aliases == ("candidate", "champion")
    assert "parts:1 was published before" in capsys.readouterr().out


def test_files_that_cannot_be_read(parts: Path, image_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data"
    write_clouds(folder, 9, 1)
    (folder / "rod" / "torn.ply").write_bytes(b"ply\nformat binary_little_endian 1.0\nelement vertex 9\nproperty float x\nend_header\n")
    (folder / "box" / "empty.npy").touch()
    args = train_args(folder, image_file, tmp_path / "run", tmp_path / "registry")
    assert run(args) == 5
    said = capsys.readouterr()
    assert "error [bad_dataset]" in said.err
    assert "rod/torn.ply" in said.err
    assert "box/empty.npy" in said.err
    assert "ball" in said.out  # the report comes before the refusal
    assert not (tmp_path / "run" / "checkpoint").exists()
    assert run([*args, "--skip-bad", "--set", "epochs=1"]) == 0
    assert "2 files that cannot be used are left out" in (tmp_path / "run" / "checkpoint" / "README.md").read_text()


def test_a_wrong_target_costs_no_training(parts: Path, image_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = train_args(parts, image_file, tmp_path / "run", tmp_path / "registry", "--publish", "Parts@champion")
    assert run(args) == 4
    assert "error [bad_model_name]" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_shots_and_splits_given_by_folders(parts: Path, image_file: Path, tmp_path: Path) -> None:
    for split, count, seed in (("train", 8, 2), ("test", 3, 3)):
        write_clouds(tmp_path / "flat", count, seed)
        for name in CLASSES:
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "flat" / name).rename(tmp_path / "data" / name / split)
    args = train_args(tmp_path / "data", image_file, tmp_path / "run", tmp_path / "registry")
    assert run([*args, "--shots", "4", "--set", "epochs=1"]) == 0
    manifest = load_checkpoint(tmp_path / "run" / "checkpoint").manifest
    assert manifest.metrics["test_clouds"] == 9
    assert manifest.metrics["validation_clouds"] == 3
    details = json.loads((tmp_path / "run" / "checkpoint" / "metrics.json").read_text())
    assert details["class_accuracy"].keys() == set(CLASSES)
    assert "| ball | 4 | 1 | 3 |" in (tmp_path / "run" / "checkpoint" / "README.md").read_text()


def test_fip_evaluate_reads_a_folder(published: tuple[Path, Path], parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the folder that it was trained on, a model is scored on the clouds that were set aside then; elsewhere on all."""
    args = ["evaluate", "parts", "--registry", str(published[1]), "--json", "--data"]
    assert run([*args, str(parts)]) == 0
    said = capsys.readouterr()
    found, manifest = json.loads(said.out), load_checkpoint(published[0] / "checkpoint").manifest
    assert len(found["targets"]) == manifest.metrics["test_clouds"] == 6
    assert found["accuracy"] == manifest.metrics["test_accuracy"]
    assert "the test split that was made when the model was trained" in said.err
    write_clouds(tmp_path, 4, 7)
    assert run([*args, str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert len(json.loads(said.out)["targets"]) == 12
    assert "the folder has no splits" in said.err


def test_the_test_clouds_do_not_follow_the_seed(published: tuple[Path, Path], parts: Path, image_file: Path, tmp_path: Path) -> None:
    """So that models of two seeds are compared on the same clouds, which neither was trained on."""
    assert run(train_args(parts, image_file, tmp_path / "run", tmp_path / "registry", "--seed", "5", "--set", "epochs=1")) == 0
    tested = []
    for run_dir in (published[0], tmp_path / "run"):
        recipe, made = load_recipe(str(run_dir / "recipe.yaml")), load_checkpoint(run_dir / "checkpoint").manifest.provenance
        clouds, note = clouds_to_score(parts, "test", None, recipe, made.dataset_sha256)
        assert note is not None
        assert "the test split that was made" in note
        tested.append(clouds.digest)
    assert tested[0] == tested[1]


def test_a_repeated_command_does_not_move_an_alias_back(
    parts: Path, image_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = train_args(parts, image_file, tmp_path / "run", tmp_path / "registry", "--set", "epochs=1", "--publish", "p@champion")
    assert run(args) == 0
    registry = open_registry(str(tmp_path / "registry"))
    second = publish_as(registry, tmp_path / "run" / "checkpoint", "p", "champion")
    damaged = registry.publish(tmp_path / "run" / "checkpoint", "p")
    (registry.folder(damaged) / "manifest.json").write_text("{}")
    capsys.readouterr()
    assert run(args) == 0
    assert pointed_at(registry, "p", "champion") == second.version
    assert len(registry.versions("p")) == 3
    assert "was published before" in capsys.readouterr().out


def test_weights_are_checked_before_the_data(parts: Path, image_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(train_args(parts, tmp_path / "none.pth", tmp_path / "run", tmp_path / "registry")) == 5
    said = capsys.readouterr()
    assert "error [bad_weights]" in said.err
    assert "classes" not in said.out
    assert run(train_args(parts, image_file, tmp_path / "run", tmp_path / "registry", "--set", "network=resnet18")) == 5
    assert "image.safetensors: does not fit the network resnet18" in capsys.readouterr().err


def test_a_file_that_was_mended_is_looked_at_again(parts: Path, image_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_clouds(folder, 6, 1)
    stamp = (folder / "rod" / "000.npy").stat()
    whole = (folder / "rod" / "000.npy").read_bytes()
    (folder / "rod" / "000.npy").write_bytes(bytes(len(whole)))
    os.utime(folder / "rod" / "000.npy", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    args = train_args(folder, image_file, tmp_path / "run", tmp_path / "registry", "--set", "epochs=1")
    assert run(args) == 5
    (folder / "rod" / "000.npy").write_bytes(whole)
    os.utime(folder / "rod" / "000.npy", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # nothing in a listing tells
    assert run(args) == 0


def test_early_stop_publishes_the_best_epoch(parts: Path, image_file: Path, tmp_path: Path) -> None:
    args = train_args(parts, image_file, tmp_path / "run", tmp_path / "registry")
    args += ["--set", "epochs=9", "--set", "early_stop={patience: 1, min_delta: 1.0}", "--set", "half=false"]
    assert run(args) == 0
    run_dir = tmp_path / "run"
    assert load_checkpoint(run_dir / "checkpoint").manifest.metrics["epochs"] == 2  # nothing gains 100 %
    shutil.rmtree(run_dir / "checkpoint")
    best = read_weights(run_dir / BEST)
    best["fc.bias"] += 1.0  # so that best and last surely differ
    write(run_dir / BEST, best)
    assert run(args) == 0
    assert torch.equal(load_checkpoint(run_dir / "checkpoint").tensors["fc.bias"], best["fc.bias"])
    assert "best on validation (published)" in (run_dir / "checkpoint" / "README.md").read_text()
