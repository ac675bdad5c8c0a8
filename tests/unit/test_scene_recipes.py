"""Recipes for scenes: bundled ones load, wrong ones say what to do, and every quirk of the reference is a switch that does what it says.

The quirks are those of Image2Point's public code; the table is that of the specification that this was built from (§10).
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import pytest
import torch

from models.errors import BadDataset, BadRecipe
from models.labels import IGNORE, load_label_map
from models.manifest import InputSpec
from models.pointcloud import PointCloud
from models.sparse.blur import ParentBlur
from models.unet3d import FeatsDropout
from models.voxelize import Voxels, voxelize
from models.zoo import build
from tests.scene_folders import room, scan
from training.augment import AugmentSpec
from training.data import Data, absent_classes, checking, learning
from training.datasets import Scenes, read_scenes
from training.evaluate import SegmentationReport
from training.inflate import inflate_kernel, inflate_pointwise
from training.metrics import Confusion
from training.optim import lr_factor
from training.recipe import Recipe, bundled_recipes, differences, load_recipe, read_draft
from training.run import training_splits
from training.scene_sources import open_scenes
from training.source import Source, validation_of

BEFORE = {  # digests of the recipes of clouds: who changes one makes another of it, and says so here
    "bundled-modelnet40": "f3b11f8d771c15faaccd6aff8cefd5a2399337644b7eeee63be5c172f1901565",
    "few-modelnet40": "dac8dd7318f729bcc12ab9e071bd5c26dabcab1fe2be5305c0440607f0d9c28e",
    "full-modelnet40": "7c9215225856f7bb69649d7eca979b0f58256c32e515efb3addfffa4bfa0a20d",
    "finetune-cifar20": "25a6a53f70511f233ff6c4af94a60505670239c270e2ed936b47c849f180e26c",
    "finetune-resnet18": "fdaf86b31fa0f1f3fcea7217398ef9c808689c663f14ab98859fea22fa65220c",
    "shapes-cifar20": "4407bd0c80efa8baf48afa76e7f847d8670451b572ce4fff7585f65c6e8441fc",
    "paper-modelnet40": "60fa8d3420ce4054b5c61de9d0971fd169e2605915ca54f00770a653f60b5d51",
}
CHANGED: dict[str, object] = {
    "accumulate": 2,
    "balance": "sampler",
    "early_stop": {},
    "inflate.tied": True,
    "augment.drop": 0.25,
    "data.shots": 3,
}
DERIVED: dict[str, object] = {"voxel_size": 0.05, "normalise": "unit_sphere", "point_budget": 1024}
SCENES = tuple(name for name in bundled_recipes() if read_draft(name).preview.task == "segment")


def kitti(**overrides: object) -> Recipe:
    return load_recipe("semantickitti-resnet18", {key.replace("__", "."): value for key, value in overrides.items()})


def test_recipes_of_classifiers_keep_their_digests() -> None:
    assert {name: read_draft(name).resolve(DERIVED).digest for name in BEFORE} == BEFORE
    changed = load_recipe("bundled-modelnet40", CHANGED)
    assert changed.digest == "2ff7a37c5ad88032b74156fa639ff252959ac8e1f6eb1fb65fce6f946232b37d"


def test_bundled_recipes_are_of_scenes_or_of_clouds() -> None:
    listed = {"finetune-points", "s3dis-reference", "s3dis-resnet18", "semantickitti-reference", "semantickitti-resnet18"}
    assert listed <= set(SCENES)
    assert set(bundled_recipes()) == {*SCENES, *BEFORE}  # another one of clouds needs its digest in the table


@pytest.mark.parametrize("name", SCENES)
def test_a_bundled_recipe_of_scenes(name: str, tmp_path: Path) -> None:
    recipe = read_draft(name).resolve({"voxel_size": 0.1, "features": [{"name": "z"}]})
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    again = load_recipe(str(tmp_path / "recipe.yaml"))
    assert again == recipe
    assert again.digest == recipe.digest
    spec = recipe.network_spec(19)
    with torch.device("meta"):
        assert build(spec).get_parameter("fc.bias").shape == (19,)
    text = Path(read_draft(name).source).read_text()
    assert text.startswith("#")
    assert "Expected:" in text
    assert f"fip train {name} " in text or "fip reproduce " in text


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        ("bundled-modelnet40", {"decoder": "listing"}, "modelnet40 has one class a cloud: leave out decoder"),
        ("bundled-modelnet40", {"data.kind": "s3dis"}, "s3dis has a class for every point: say decoder listing"),
        (
            "bundled-modelnet40",
            {"data.kind": "semantikitti"},
            "unknown 'semantikitti'; did you mean 'semantickitti'.*known: modelnet40, f",
        ),
        ("finetune-points", {"data.kind": "folder"}, "folder has one class a cloud: leave out decoder"),
        ("semantickitti-resnet18", {"decoder": None}, "semantickitti has a class for every point: say decoder listing"),
        ("semantickitti-resnet18", {"decoder": "paper"}, "'listing' or 'reference'"),
        ("semantickitti-resnet18", {"input.point_budget": 1024}, "input.point_budget: every point gets an answer.*augment.max_voxels"),
        ("semantickitti-resnet18", {"balance": "sampler"}, "cannot be drawn by class; say loss"),
        ("semantickitti-reference", {"augment.drop_intensity": 0.1}, "augment.drop_intensity: the feature intensity needs a fill value"),
        ("s3dis-reference", {"augment.drop_colour": 0.1}, "augment.drop_colour: the feature red needs a fill value"),
        ("bundled-modelnet40", {"input.features": [{"name": "red"}], "augment.drop_colour": 0.1}, "the feature red needs a fill value"),
        ("semantickitti-resnet18", {"data.clip_test": "reference"}, "say data.clip as well"),
        ("finetune-points", {"data.extra": ["a"]}, "put your own scenes into one folder"),
        ("semantickitti-resnet18", {"data.clip": -1}, "greater than 0"),
        ("semantickitti-resnet18", {"lovasz": -1}, "greater than or equal to 0"),
        ("semantickitti-resnet18", {"voxel_label": "majority"}, "'reference' or 'corrected'"),
        ("semantickitti-resnet18", {"augment.mix": 2}, "less than or equal to 1"),
        ("semantickitti-resnet18", {"data.exlude": ["08/000000"]}, "unknown key; did you mean 'exclude'"),
        *(
            ("bundled-modelnet40", override, f"{next(iter(override))}: is for nets that answer for every point")
            for override in (
                *({"blur": True}, {"lovasz": 1.0}, {"voxel_label": "reference"}, {"miou_empty": "reference"}, {"augment.crop": 1.0}),
                *({"augment.max_voxels": 9}, {"augment.mix": 0.1}, {"data.clip": 4.0}, {"data.label_map": "s3dis13"}),
                *({"data.exclude": ["a"]}, {"data.test_area": 1}, {"data.extra": ["a"]}, {"input.devoxelize": "trilinear"}),
            )
        ),
    ],
)
def test_what_does_not_fit_together_says_what_to_do(recipe: str, overrides: dict[str, object], message: str) -> None:
    with pytest.raises(BadRecipe, match=message):
        read_draft(recipe, overrides)  # before any data is read


def test_what_fits_together() -> None:
    assert kitti(batch_size=1, balance="loss", early_stop={}, blur=True).task == "segment"
    assert kitti(augment__drop_intensity=0.5).augment.drop_intensity == 0.5  # it has a fill value
    assert load_recipe("bundled-modelnet40", {"selection": "reference"}).chooses
    with pytest.raises(BadRecipe, match="two clouds"):
        load_recipe("bundled-modelnet40", {"batch_size": 1})


# Quirks


class Quirk(NamedTuple):
    """A switch: the key of a recipe that takes it, what the reference does and what is corrected."""

    recipe: str
    key: str
    reference: object
    corrected: object


QUIRKS = {  # by the names of the specification
    "lr_step": Quirk("bundled-modelnet40", "schedule.kind", "reference", "cosine"),
    "epochs": Quirk("bundled-modelnet40", "epochs", 100, 300),
    "rounding": Quirk("semantickitti-resnet18", "input.rounding", "reference", "corrected"),
    "voxel_feature": Quirk("semantickitti-resnet18", "input.voxel_feature", "reference", "corrected"),
    "voxel_label": Quirk("semantickitti-resnet18", "voxel_label", "reference", "corrected"),
    "inflate_scale": Quirk("semantickitti-resnet18", "inflate.scale", "none", "mean"),
    "shortcut": Quirk("semantickitti-resnet18", "inflate.shortcut", "repeat", "mean"),
    "miou_empty": Quirk("semantickitti-resnet18", "miou_empty", "reference", "corrected"),
    "s3dis_classes": Quirk("s3dis-resnet18", "data.label_map", "s3dis14-reference", None),
    "s3dis_test_clip": Quirk("s3dis-reference", "data.clip_test", "reference", "corrected"),
    "kitti_map": Quirk("semantickitti-resnet18", "data.label_map", "semantickitti19-reference", None),
    "model_selection": Quirk("semantickitti-resnet18", "selection", "reference", "corrected"),
    "decoder": Quirk("semantickitti-resnet18", "decoder", "reference", "listing"),
    "pv_blur": Quirk("semantickitti-resnet18", "blur", True, False),
}
OF_RECIPES = {  # where the recipes of the reference are silent, the quirk does not apply, or they have it from a default
    "semantickitti-reference": set(QUIRKS) - {"lr_step", "epochs", "s3dis_classes", "s3dis_test_clip"},
    "s3dis-reference": set(QUIRKS) - {"lr_step", "epochs", "kitti_map"},
}


@pytest.mark.parametrize("name", OF_RECIPES)
def test_the_recipes_of_the_reference_have_its_quirks(name: str) -> None:
    recipe = load_recipe(name)
    for quirk in OF_RECIPES[name]:
        value: object = recipe
        for part in QUIRKS[quirk].key.split("."):
            value = getattr(value, part)
        assert value == QUIRKS[quirk].reference, quirk


def lr_step(reference: Recipe, corrected: Recipe, root: Path) -> None:
    """A cosine over as many steps as there are epochs, again and again; against one over the whole run."""
    cyclic, whole = (lr_factor(each.schedule, 10, 20) for each in (reference, corrected))
    assert [round(cyclic(step), 6) for step in (0, 10, 20, 30)] == [1, 0, 1, 0]
    factors = [whole(step) for step in range(int(corrected.schedule.warmup_epochs * 20), 201)]
    assert factors == sorted(factors, reverse=True)
    assert whole(200) == pytest.approx(0)


def epochs(reference: Recipe, corrected: Recipe, root: Path) -> None:
    quick, slow = (lr_factor(each.schedule, each.epochs, 1) for each in (reference, corrected))
    assert quick(100) == pytest.approx(slow(300)) == pytest.approx(0)
    assert slow(100) > 0.7


def scenes_of(data: Data | None) -> Scenes:
    assert data is not None
    return cast(Scenes, data)


ROW = np.array([[0.01, 0, 0], [0.05, 0, 0], [0.11, 0, 0], [0.26, 0, 0]], np.float32)


def of_row(recipe: Recipe) -> Voxels:
    options = {"rounding": recipe.input.rounding, "voxel_feature": recipe.input.voxel_feature}
    return voxelize(PointCloud(ROW), InputSpec.model_validate({"features": [{"name": "x"}], "voxel_size": 0.2, **options}))


def rounding(reference: Recipe, corrected: Recipe, root: Path) -> None:
    """To the nearest multiple, against downwards from the lowest point."""
    assert of_row(reference).inverse.tolist() == [0, 0, 1, 1]
    assert of_row(corrected).inverse.tolist() == [0, 0, 0, 1]


def voxel_feature(reference: Recipe, corrected: Recipe, root: Path) -> None:
    """Of the first point, against the mean."""
    assert of_row(reference).feats[:, 0] == pytest.approx([0.01, 0.26])
    assert of_row(corrected).feats[:, 0] == pytest.approx([0.17 / 3, 0.26])


def voxel_label(reference: Recipe, corrected: Recipe, root: Path) -> None:
    """Of the first point, against that of most."""
    scan(root, "00/000000", 0, np.r_[np.full(10, 10), np.full(20, 40), np.full(10, 0)], xyz=np.full((40, 3), 2.0))
    found = [learning(read_scenes("semantickitti", root, "train"), each).sample(0) for each in (reference, corrected)]
    names = load_label_map("semantickitti19").names
    assert [[names[target] for target in sample.targets] for sample in found] == [["car"], ["road"]]


def inflate_scale(reference: Recipe, corrected: Recipe, root: Path) -> None:
    """Copies, against a third of each."""
    weight = torch.randn(4, 2, 3, 3)
    torch.testing.assert_close(inflate_kernel(weight, reference.inflate), 3 * inflate_kernel(weight, corrected.inflate))


def shortcut(reference: Recipe, corrected: Recipe, root: Path) -> None:
    """Eight copies, against an eighth in each of eight taps."""
    weight = torch.randn(4, 2, 1, 1)
    copies = inflate_pointwise(weight, 8, reference.inflate)
    assert copies.equal(weight[:, :, 0, 0].t().expand(8, 2, 4))
    torch.testing.assert_close(copies, 8 * inflate_pointwise(weight, 8, corrected.inflate))


def miou_empty(reference: Recipe, corrected: Recipe, root: Path) -> None:
    """Classes 2 and 3 have no points, and 3 is predicted: they count as 1, against not at all and as 0."""
    confusion = Confusion(np.array([[3, 1, 0, 0], [0, 3, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]))
    mious = [SegmentationReport((confusion,), tuple("abcd"), absent_classes(each.miou_empty)).miou for each in (reference, corrected)]
    assert mious == pytest.approx([(3 / 4 + 3 / 5 + 1 + 1) / 4, (3 / 4 + 3 / 5 + 0) / 3])


def rooms(root: Path) -> Path:
    """A room to train on and one to test on, of 40 m, with 150 points of which the last 30 are of stairs."""
    for seed, title in enumerate(("Area_1/office_1", "Area_5/office_1")):
        room(root / title, seed)
    return root


def s3dis_classes(reference: Recipe, corrected: Recipe, root: Path) -> None:
    """Stairs are a class of their own that is trained and not scored, against clutter."""
    sources = [open_scenes(each.data.model_copy(update={"clip": None}), rooms(root), str) for each in (reference, corrected)]
    maps = [scenes_of(source.train).label_map for source in sources]
    assert [len(each) for each in maps] == [14, 13]
    stairs, clutter = maps[0].names.index("stairs"), maps[1].names.index("clutter")
    assert np.flatnonzero(~maps[0].scored).tolist() == [stairs] == [10]
    assert maps[1].scored.all()
    for source, recipe, label in zip(sources, (reference, corrected), (stairs, clutter), strict=True):
        assert scenes_of(source.train).scene(0).labels[-30:].tolist() == [label] * 30
        recipe = recipe.model_copy(update={"augment": AugmentSpec(p_scale=0, p_translate=0, p_jitter=0)})
        assert (learning(source.train, recipe).sample(0).targets == label).sum() >= 25  # learnt
        counted = checking(source.train, recipe).sample(0).targets
        assert (counted == stairs).sum() == 0 if label == stairs else (counted == clutter).sum() == 60
        assert (counted == IGNORE).sum() == (30 if label == stairs else 0)


def s3dis_test_clip(reference: Recipe, corrected: Recipe, root: Path) -> None:
    """Test rooms lose what is more than 4 m from their middle, against nothing; training rooms lose it both times."""
    whole = [read_scenes("s3dis", rooms(root), split).scene(0).cloud.xyz for split in ("train", "test")]
    inside = [(np.abs(xyz - (xyz.min(axis=0) + xyz.max(axis=0)) / 2) <= 12).all(axis=1) for xyz in whole]
    assert all(0 < rows.sum() < 100 for rows in inside)
    for recipe, expected in ((reference, whole[1][inside[1]]), (corrected, whole[1])):
        source = open_scenes(recipe.data.model_copy(update={"clip": 12.0}), root, str)
        assert np.array_equal(scenes_of(source.test()).scene(0).cloud.xyz, expected)
        assert np.array_equal(scenes_of(source.train).scene(0).cloud.xyz, whole[0][inside[0]])


def kitti_map(reference: Recipe, corrected: Recipe, root: Path) -> None:
    """Buses and lane markings have no class, against that of other vehicles and of the road."""
    scan(root, "00/000000", 0, np.repeat([13, 60, 10, 40], 10))
    names = load_label_map("semantickitti19").names
    found = [scenes_of(open_scenes(each.data, root, str).train).scene(0).labels[::10].tolist() for each in (reference, corrected)]
    assert found[0] == [IGNORE, IGNORE, names.index("car"), names.index("road")]
    assert found[1] == [names.index("other-vehicle"), names.index("road"), names.index("car"), names.index("road")]


def model_selection(reference: Recipe, corrected: Recipe, root: Path) -> None:
    """The epoch best on the test scans, against the last; end to end in tests/integration/test_train_scans.py."""
    for seed, title in enumerate(("00/000000", "00/000001", "08/000000")):
        scan(root, title, seed)
    source = open_scenes(reference.data, root, str)
    assert [validation_of(each, source) is not None for each in (reference, corrected)] == [True, False]
    assert scenes_of(validation_of(reference, source)).titles == ("08/000000",)
    assert [len(training_splits(each, source.train, validation_of(each, source)).train) for each in (reference, corrected)] == [2, 1]
    assert [each.chooses for each in (reference, corrected)] == [True, False]
    untested = Source("mine", source.train, lambda: None, source.derive)
    with pytest.raises(BadDataset, match="chooses the epoch on the test data, and there are none"):
        validation_of(reference, untested)


def decoder(reference: Recipe, corrected: Recipe, root: Path) -> None:
    """Of the reference: as many parameters as its code has (§2.3)."""
    with torch.device("meta"):
        counts = [sum(each.numel() for each in build(recipe.network_spec(19)).parameters()) for recipe in (reference, corrected)]
    assert counts[0] == 99_907_027
    assert counts[1] < 60_000_000


def pv_blur(reference: Recipe, corrected: Recipe, root: Path) -> None:
    with torch.device("meta"):
        kinds = [[type(module) for module in build(recipe.network_spec(19)).modules()] for recipe in (reference, corrected)]
    assert [(ParentBlur in each, FeatsDropout in each) for each in kinds] == [(True, True), (False, False)]


PROOFS: tuple[Callable[[Recipe, Recipe, Path], None], ...] = (
    *(lr_step, epochs, rounding, voxel_feature, voxel_label, inflate_scale, shortcut, miou_empty),
    *(s3dis_classes, s3dis_test_clip, kitti_map, model_selection, decoder, pv_blur),
)


def test_every_quirk_is_proven() -> None:
    assert [proof.__name__ for proof in PROOFS] == list(QUIRKS)


@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.__name__)
def test_a_quirk_is_a_switch(proof: Callable[[Recipe, Recipe, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    quirk = QUIRKS[proof.__name__]
    reference, corrected = (load_recipe(quirk.recipe, {quirk.key: value}) for value in (quirk.reference, quirk.corrected))
    assert reference.digest != corrected.digest
    assert len(differences(reference, corrected)) == 1
    proof(reference, corrected, tmp_path / "data")
