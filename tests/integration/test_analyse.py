"""`fip analyse` on the bundled classifier and real clouds: every page, picture and record comes out, whole and the same twice."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from models.artefact import sha256_of
from models.checkpoint import load_checkpoint
from models.registry import Catalogue
from training.analyse.cli import analyse
from training.datasets import LabelledClouds

LIMIT = 160  # four clouds a class
NAMES = [f"{name}-modelnet40" for name in ("cdnv", "dissect", "fwd", "tsne")]

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def root(modelnet: Callable[..., LabelledClouds], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight test and eight train clouds of each class in the publishers' layout."""
    folder = tmp_path_factory.mktemp("mn40")

    def eight(labels: np.ndarray) -> np.ndarray:
        return np.sort(np.concatenate([np.flatnonzero(labels == c)[:8] for c in range(40)]))

    for split in ("train", "test"):
        clouds = modelnet(split, eight)
        with h5py.File(folder / f"ply_data_{split}0.h5", "w") as file:
            file["data"], file["label"] = clouds.xyz, clouds.targets.astype("u1")[:, None]
        (folder / "shape_names.txt").write_text("\n".join(clouds.names))
    return folder


@pytest.fixture(scope="module")
def out(root: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'fip-server[analyse]'")
    folder = tmp_path_factory.mktemp("pages")
    pictures = ["--weights", str(data_dir / "weights" / "cifar10_resnet20.safetensors"), "--images", str(data_dir / "images")]
    run(root, folder, "fwd", *pictures, "--images", str(data_dir / "lidar_camera"), "--scalars", "2000")
    run(root, folder, "cdnv")
    run(root, folder, "tsne", "--perplexity", "12", "--neighbours", "3")
    run(root, folder, "dissect", "--top", "4")
    return folder


def run(root: Path, folder: Path, name: str, *more: str) -> None:
    args = [name, "modelnet40", "--data", str(root), "--limit", str(LIMIT), "--out", str(folder), *more]
    result = CliRunner().invoke(analyse, args, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert str(folder / f"{name}-modelnet40.md") in result.output


def record(out: Path, name: str) -> dict:
    return json.loads((out / f"{name}-modelnet40.json").read_text())


def test_every_analysis_leaves_a_page_a_picture_and_a_record(out: Path, root: Path, data_dir: Path) -> None:
    digest = load_checkpoint(Catalogue().locate("modelnet40")[0]).digest
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{name}.{kind}" for name in NAMES for kind in ("json", "md", "png"))
    for name in NAMES:
        page, facts = (out / f"{name}.md").read_text(), json.loads((out / f"{name}.json").read_text())
        assert facts["model"]["digest"] == digest
        assert (facts["data"][0]["clouds"], facts["data"][0]["of"], facts["data"][0]["limit"]) == (LIMIT, 320, LIMIT)
        assert set(facts["data"][0]["clouds_a_class"].values()) == {4}
        assert facts["command"] in page
        assert f"{name}.png" in page
        for path in (root, data_dir, out):
            assert str(path) not in page + json.dumps(facts)
        with Image.open(out / f"{name}.png") as picture:
            assert min(picture.size) > 400
            assert len(picture.getcolors(1 << 24) or ()) > 10  # not blank
        assert (out / f"{name}.png").stat().st_size < 250_000


def test_distances_of_the_bundled_model(out: Path, data_dir: Path) -> None:
    facts = record(out, "fwd")
    assert facts["weights_2d"]["sha256"] == facts["model"]["weights_2d_sha256"]
    assert facts["images"]["photographs"]["dog.jpg"] == sha256_of(data_dir / "images" / "dog.jpg")
    assert "the very file" in (out / "fwd-modelnet40.md").read_text()
    for hook in ("convolution", "norm"):
        *layers, mean = facts["results"][hook]
        assert len(layers) == 18
        assert mean["layer"] == "mean"
        for row in layers:
            assert row["w1"]["this model"] > max(row["noise_points"], row["noise_images"]) > 0
        assert mean["w1"]["inflated, not finetuned"] > 3 * mean["w1"]["this model"]  # un-scaled copies explode, as in the paper


def test_classes_of_the_bundled_model_are_tighter_than_those_of_an_untrained_net(out: Path) -> None:
    results = record(out, "cdnv")["results"]
    own, train, fresh = (results[f"{name} clouds"] for name in ("this model, test", "this model, train", "untrained net, test"))
    assert fresh["plain_mean"] > 2 * own["plain_mean"]
    assert own["plain_mean"] < own["corrected_mean"]
    assert train["plain_mean"] < own["plain_mean"]
    assert min(own["nearest_train_centre"], own["head"]) > 0.75 > fresh["nearest_centre"]


def test_neighbours_and_units_of_the_bundled_model_are_purer_than_chance(out: Path) -> None:
    purity = record(out, "tsne")["results"]["purity"]
    assert purity["features (64)"] > 0.6 > purity["features, untrained net"] > purity["neighbours drawn at random"]
    assert purity["the picture (2)"] > 0.6
    summary = record(out, "dissect")["results"]["summary"]
    own, permuted = (float(summary[name][1]) for name in ("units of this model", "units of this model, labels permuted"))
    assert own > 1.3 * permuted


def test_the_same_seed_gives_the_same_record(root: Path, out: Path, tmp_path: Path) -> None:
    run(root, tmp_path, "cdnv")
    run(root, tmp_path, "dissect", "--top", "4")
    for name in ("cdnv", "dissect"):
        assert record(tmp_path, name) == record(out, name)
