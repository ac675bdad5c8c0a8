"""Generated shapes: the same ones every time, whole, and alike within a class."""

import numpy as np
import pytest
import torch

from models.errors import InflationError
from models.manifest import NetworkSpec
from models.zoo import build
from training.datasets.generated import GeneratedClouds, generated
from training.datasets.labelled import few_shot, hold_out
from training.inflate import InflateSpec, inflate_state_dict, random_images
from training.shapes.primitives import BODIES, varied
from training.shapes.programs import PATTERNS, program, shape


@pytest.mark.parametrize("kind", BODIES)
def test_points_of_a_body_lie_within_its_size(kind: str) -> None:
    _, points_of, form_of = BODIES[kind]
    half = np.array([1.0, 0.5, 2.0])
    for seed in range(50):
        rng = np.random.default_rng(seed)
        form = form_of(rng)
        points = points_of(400, rng, half, form)
        assert points.shape == (400, 3)
        assert np.isfinite(points).all()
        assert np.ptp(points, axis=0).max() > 0.1
        reach = 2 * half.max() if kind in ("sheet", "tube") else half + 1e-9  # these two are bowed and wound
        assert (np.abs(points) <= reach).all(), seed
        other = points_of(400, rng, half, varied(form, 0.3, rng))
        assert np.isfinite(other).all()


def test_faces_of_a_box_get_points_by_their_area() -> None:
    points = BODIES["box"][1](60_000, np.random.default_rng(0), np.array([1.0, 2.0, 4.0]), {"faces": np.array([1.0, 1, 1, 1, 1, 0])})
    shares = [np.mean(points[:, axis] == end) for axis, size in enumerate((1.0, 2.0, 4.0)) for end in (-size, size)]
    areas = np.array([8, 8, 4, 4, 2, 0])
    np.testing.assert_allclose(shares, areas / areas.sum(), atol=0.01)


def test_a_cloud_is_the_same_every_time_and_no_other() -> None:
    first, again = generated(30, 4), generated(30, 4)
    np.testing.assert_array_equal(first.cloud(77).xyz, again.cloud(77).xyz)
    assert first.digest == again.digest
    assert first.cloud(77).xyz.shape == (1024, 3)
    others = (generated(30, 4, seed=1), generated(30, 5), generated(30, 4, first=4), generated(31, 4))
    assert len({first.digest, *(each.digest for each in others)}) == 5
    assert not np.array_equal(first.cloud(77).xyz, generated(30, 4, seed=1).cloud(77).xyz)
    assert not np.array_equal(first.cloud(77).xyz, generated(30, 4, first=4).cloud(77).xyz)  # what is tested was not learnt


def test_parts_of_them_are_parts_of_them() -> None:
    shapes = generated(12, 10)
    assert list(np.bincount(shapes.targets)) == [10] * 12
    assert len(shapes.names) == len(set(shapes.names)) == 12
    rest, held = hold_out(shapes, 0.2, seed=0)
    assert isinstance(held, GeneratedClouds)
    assert (len(rest), len(held)) == (96, 24)
    few = few_shot(rest, 1, seed=0)
    row = int(few.rows[5])
    np.testing.assert_array_equal(few.cloud(5).xyz, shapes.cloud(row).xyz)
    assert sorted(few.targets) == list(range(12))
    assert few.targets[5] == row % 12


def test_every_pattern_is_drawn() -> None:
    drawn = [program(np.random.default_rng(seed)) for seed in range(300)]
    assert {group.pattern for each in drawn for group in each.groups} == set(PATTERNS)
    for number, each in enumerate(drawn):
        points = shape(each, 256, np.random.default_rng(number), (0.1, 0.4))
        assert points.shape == (256, 3)
        assert np.isfinite(points).all()
        assert np.linalg.norm(points - points.mean(0), axis=1).max() > 0.05


def test_shapes_of_a_class_are_more_alike_than_others() -> None:
    """By a nearest neighbour on coarse occupancy, far above chance."""
    shapes = generated(40, 2)

    def grid(row: int) -> np.ndarray:
        xyz = shapes.cloud(row).xyz
        unit = (xyz - xyz.mean(0)) / np.linalg.norm(xyz - xyz.mean(0), axis=1).max()
        counts = np.histogramdd(unit, bins=6, range=[(-1, 1)] * 3)[0].ravel() ** 0.5
        return np.asarray(counts / np.linalg.norm(counts))

    known, asked = np.stack([grid(row) for row in range(40)]), np.stack([grid(row) for row in range(40, 80)])
    assert ((asked @ known.T).argmax(1) == np.arange(40)).mean() > 0.25  # by chance 0.025


def test_a_stem_is_copied_where_that_is_said() -> None:
    source = build(NetworkSpec(name="cifar_resnet20", in_channels=3, num_classes=9, layout=3)).state_dict()
    target = build(NetworkSpec(name="cifar_resnet20", in_channels=3, num_classes=4)).state_dict()
    fresh, report = inflate_state_dict(source, target, InflateSpec())
    np.testing.assert_array_equal(fresh["conv1.weight"], target["conv1.weight"])
    copied, whole = inflate_state_dict(source, target, InflateSpec(stem="copy"))
    np.testing.assert_array_equal(copied["conv1.weight"], source["conv1.weight"])
    assert set(whole.loaded) - set(report.loaded) >= {"conv1.weight", "bn1.weight", "bn1.running_mean"}
    assert all(name.startswith(("fc.", "fc_bn.")) for name in whole.fresh)


def test_a_stem_of_images_stays_fresh() -> None:
    target = build(NetworkSpec(name="cifar_resnet20", in_channels=3, num_classes=4)).state_dict()
    images = random_images(target) | {"conv1.weight": torch.randn(16, 3, 3, 3)}
    state, report = inflate_state_dict(images, target, InflateSpec(stem="copy"))
    assert "conv1.weight" in report.fresh
    np.testing.assert_array_equal(state["conv1.weight"], target["conv1.weight"])


def test_a_stem_for_other_features_is_refused() -> None:
    source = build(NetworkSpec(name="cifar_resnet20", in_channels=3, num_classes=9)).state_dict()
    target = build(NetworkSpec(name="cifar_resnet20", in_channels=6, num_classes=4)).state_dict()
    with pytest.raises(InflationError, match=r"conv1\.weight.*\(27, 3, 16\).*wants \(27, 6, 16\)"):
        inflate_state_dict(source, target, InflateSpec(stem="copy"))
