"""Labels that leave open which of several classes it is, and data sets that are joined through them."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from models.errors import BadLabels
from models.labels import IGNORE, OPEN, LabelMap, load_label_map
from models.manifest import FeatureSpec, InputSpec
from models.pointcloud import PointCloud
from models.voxelize import voxelize
from tests.scene_folders import labelled_ply
from training.datasets import read_scenes
from training.datasets.scenes import Joined, Scene, Scenes, few_scenes, hold_out_scenes
from training.losses import batch_loss
from training.metrics import scored_targets
from training.samples import SceneSamples
from training.votes import vote

ROAD, TREE, CAR = ({"name": name, "colour": [1, 2, 3], "ids": [place]} for place, name in enumerate(("road", "tree", "car"), 10))
MAIN = LabelMap.model_validate({"classes": [ROAD, TREE, CAR], "ignore": [0]})
GROUPED = LabelMap.model_validate({"classes": [CAR], "ignore": [0], "groups": [{"classes": ["road", "tree"], "ids": [7, 8]}]})
YAML = """
classes: [{name: car, colour: [1, 2, 3], ids: [3]}]
groups: [{classes: [road, tree], ids: [1, 2]}]
ignore: [0]
"""


def test_ids_of_a_group_are_below_ignore() -> None:
    assert GROUPED.classes_of(np.array([12, 7, 0, 8])).tolist() == [0, OPEN, IGNORE, OPEN]
    assert LabelMap.model_validate(GROUPED.model_dump()) == GROUPED
    assert "groups" not in MAIN.model_dump()


def test_what_groups_may_not_be() -> None:
    with pytest.raises(ValueError, match="id 12 is there twice"):
        LabelMap.model_validate({"classes": [CAR], "groups": [{"classes": ["road", "tree"], "ids": [12]}]})
    with pytest.raises(ValueError, match="at least 2"):
        LabelMap.model_validate({"classes": [CAR], "groups": [{"classes": ["road"], "ids": [7]}]})
    with pytest.raises(BadLabels, match="no class 'road'"):
        GROUPED.members()


def test_the_loss_of_an_open_target_is_that_of_any_of_its_classes() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, OPEN, IGNORE, 2, OPEN - 1, 1])
    groups = torch.tensor([[True, True, False], [False, True, True]])
    scores = logits.float().softmax(1)
    wanted = [scores[0, 0], scores[1, :2].sum(), scores[3, 2], scores[4, 1:].sum(), scores[5, 1]]
    expected = -torch.stack(wanted).log().mean() * 2
    torch.testing.assert_close(batch_loss(logits, targets, 2, groups=groups), expected)


def test_an_open_target_pulls_towards_its_classes_only() -> None:
    logits = torch.zeros(1, 3, requires_grad=True)
    batch_loss(logits, torch.tensor([OPEN]), 1, groups=torch.tensor([[True, True, False]]), lovasz=1.0).backward()
    assert logits.grad is not None
    assert (logits.grad[0, :2] < 0).all()
    assert logits.grad[0, 2] > 0


def test_groups_vote_as_classes_do_and_are_not_scored() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(-3, 3, 300)
    cloud = PointCloud(rng.random((300, 3)).astype("f4"))
    voxels = voxelize(cloud, InputSpec(features=(FeatureSpec(name="x"),), voxel_size=0.25))
    voted = vote(labels, voxels, 3)
    for row in range(len(voxels)):
        inside = [label for label in labels[voxels.inverse == row] if label != IGNORE]
        counts = sorted(((inside.count(label), label) for label in set(inside)), reverse=True)
        leads = [label for count, label in counts if count == counts[0][0]]
        assert voted[row] == (leads[0] if len(leads) == 1 else IGNORE)
    assert scored_targets(labels, MAIN).tolist() == np.where(labels < 0, IGNORE, labels).tolist()


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Scenes, ...]:
    """Two data sets of the same points: one that tells road from tree, and one that does not."""
    for name, text in (("fine", None), ("coarse", YAML)):
        for number in range(3):
            labels = np.arange(40) % 4
            labelled_ply(tmp_path / name / "train" / f"{number}.ply", number, labels=labels)
        names = enumerate(("road", "tree", "car"), 1)
        fine = "classes:\n" + "".join(f"- {{name: {each}, colour: [1, 2, 3], ids: [{number}]}}\n" for number, each in names)
        (tmp_path / name / "labels.yaml").write_text(text or fine + "ignore: [0]\n")
    return tuple(read_scenes("labelled", tmp_path / name, "train") for name in ("fine", "coarse"))


def test_joined_scenes_speak_of_the_classes_of_the_first(parts: tuple[Scenes, ...]) -> None:
    joined = Joined.of(parts[0], [parts[1], parts[1]])
    assert len(joined) == 9
    assert joined.label_map.names == ("road", "tree", "car")
    assert joined.label_map.members().tolist() == [[True, True, False]] * 2
    expected = {0: [IGNORE, 0, 1, 2], 3: [IGNORE, OPEN, OPEN, 2], 6: [IGNORE, OPEN - 1, OPEN - 1, 2]}
    for first, row in itertools.product(expected, range(3)):
        scene = joined.scene(first + row)
        assert scene.labels.tolist() == expected[first] * 10
        assert scene.cloud.xyz.tobytes() == parts[0].scene(row).cloud.xyz.tobytes()


def test_parts_of_joined_scenes(parts: tuple[Scenes, ...]) -> None:
    joined = Joined.of(parts[0], [parts[1]])
    some = joined.take(np.array([4, 0]))
    assert some.scene(0).labels.tolist() == joined.scene(4).labels.tolist()
    assert list(some.titles) == [joined.titles[4], joined.titles[0]]
    assert len({joined.digest, some.digest, Joined.of(parts[0], [parts[0]]).digest}) == 3
    assert Joined.of(parts[0], [parts[1]]).digest == joined.digest
    rest, held = hold_out_scenes(joined, 0.2, 0)
    assert (len(rest), len(held), len(few_scenes(joined, 2, 0))) == (5, 1, 2)


def test_a_class_that_the_first_does_not_know_is_refused(parts: tuple[Scenes, ...]) -> None:
    with pytest.raises(BadLabels, match="know a class 'road'"):
        Joined.of(parts[1], [parts[0]])


def test_open_labels_survive_a_cache(parts: tuple[Scenes, ...], tmp_path: Path) -> None:
    samples = SceneSamples(Joined.of(parts[0], [parts[1]]), InputSpec(features=(FeatureSpec(name="z"),), voxel_size=0.5))
    kept = samples.cached(tmp_path)
    for row in range(6):
        assert kept.prepared(row).labels.tolist() == samples.prepared(row).labels.tolist()
        assert kept.sample(row).targets.tolist() == samples.sample(row).targets.tolist()
    assert (kept.sample(3).targets == OPEN).any()
    assert kept.class_weights().shape == (3,)
    kept.close()


def test_a_scene_keeps_its_points() -> None:
    scene = Scene(PointCloud(np.zeros((3, 3), "f4")), np.array([0, OPEN, IGNORE]))
    assert scene.take(np.array([1])).labels.tolist() == [OPEN]


def test_bundled_maps_have_no_groups() -> None:
    assert load_label_map("semantickitti19").groups == ()
