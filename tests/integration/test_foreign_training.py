"""A recipe that says `weights:` of somebody else's checkpoint, from `fip train` to the model it makes."""

from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

from models.checkpoint import load_checkpoint
from models.cli import run
from tests.foreign_weights import pointcontrast_state, sgd_state, wrapped
from tests.training_runs import SMALL
from training.recipe import load_recipe


def recipe_of(path: Path, weights: Path, **said: object) -> Path:
    recipe = load_recipe("bundled-modelnet40", {**SMALL, "epochs": 1, "weights": str(weights), **said})
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    return path


def train(recipe: Path, data: Path, run_dir: Path) -> None:
    assert run(["train", str(recipe), "--data", str(data), "--run-dir", str(run_dir), "--threads", "1"]) == 0


def test_a_checkpoint_in_the_manner_of_stylized_imagenet(data: Path, image_file: Path, tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in load_file(image_file).items() if tensor.dim()}
    weights = tmp_path / "resnet20_train_60_epochs.pth.tar"
    torch.save(wrapped(state, "module.", epoch=60, optimizer=sgd_state(state)), weights, _use_new_zipfile_serialization=False)
    train(recipe_of(tmp_path / "recipe.yaml", weights), data, tmp_path / "run")
    assert load_checkpoint(tmp_path / "run" / "checkpoint").manifest.provenance.weights_2d == weights.name


def test_pointcontrast(data: Path, tmp_path: Path) -> None:
    weights = tmp_path / "hardest_contrastive.pth"
    source = pointcontrast_state()
    torch.save(wrapped(source, curr_iter=1), weights)
    train(recipe_of(tmp_path / "recipe.yaml", weights, network="res16unet34c", mode="io"), data, tmp_path / "run")
    made = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert made.manifest.provenance.weights_2d == weights.name
    kernel = load_file(tmp_path / "run" / "checkpoint" / "model.safetensors")[
        "layer3.1.conv2.weight"
    ]  # in float16, the centre in the middle
    assert torch.equal(kernel[13], source["block3.1.conv2.kernel"][0].half())
