"""Augmentation, schedules, subsets and the ModelNet40 reader."""

import copy
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from models.errors import BadDataset
from models.pointcloud import PointCloud
from training.augment import AugmentSpec, augment
from training.datasets import LabelledClouds, few_shot, hold_out, read_split
from training.datasets.modelnet40 import read_modelnet40
from training.optim import OptimSpec, ScheduleSpec, lr_factor, resume_sgd, sgd


def cloud(seed: int = 0) -> PointCloud:
    return PointCloud(np.random.default_rng(seed).normal(size=(200, 3)).astype(np.float32))


def test_augmentation_depends_on_the_generator_alone() -> None:
    original = cloud()
    kept = original.xyz.copy()
    spec = AugmentSpec(rotate_deg=20, flip=0.5, drop=0.4)
    first, again, other = (augment(original, spec, np.random.default_rng(seed)).xyz for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)
    assert np.array_equal(original.xyz, kept)  # the cached cloud is never written to


def test_augmentation_stays_in_its_ranges() -> None:
    spec = AugmentSpec(scale=(0.5, 2.0), p_scale=1, translate=0.3, p_translate=1, jitter=0.01, p_jitter=1)
    for seed in range(50):
        before, after = cloud(seed).xyz, augment(cloud(seed), spec, np.random.default_rng(seed)).xyz
        scale = after.std(0) / before.std(0)
        assert ((scale > 0.49) & (scale < 2.02)).all()
        assert (np.abs(after.mean(0) - before.mean(0) * scale) < 0.31).all()


def test_rotation_keeps_height_and_distances() -> None:
    spec = AugmentSpec(p_scale=0, p_translate=0, p_jitter=0, rotate_deg=180)
    for column, up in enumerate(("x", "y", "z")):
        after = augment(cloud(), spec, np.random.default_rng(5), up).xyz
        assert np.array_equal(after[:, column], cloud().xyz[:, column])
        np.testing.assert_allclose(np.linalg.norm(after, axis=1), np.linalg.norm(cloud().xyz, axis=1), rtol=1e-5)
        assert not np.allclose(after, cloud().xyz)
        turn = np.linalg.lstsq(cloud().xyz.astype(float), after.astype(float), rcond=None)[0]
        assert np.linalg.det(turn) == pytest.approx(1, abs=1e-3)


def test_cosine_ends_at_zero_after_a_warm_up() -> None:
    factor = lr_factor(ScheduleSpec(kind="cosine", warmup_epochs=1), epochs=10, steps_per_epoch=20)
    values = [factor(step) for step in range(201)]
    assert values[0] == pytest.approx(1 / 20)
    assert max(values) == pytest.approx(1)
    assert values[200] == pytest.approx(0)
    assert values[19:] == sorted(values[19:], reverse=True)


def test_reference_schedule_is_the_published_trace() -> None:
    """Learning rate at the end of epochs 1..12 with 308 steps an epoch and T = 100 (reference code, base 0.1)."""
    factor = lr_factor(ScheduleSpec(kind="reference"), epochs=100, steps_per_epoch=308)
    trace = [round(0.1 * factor(308 * epoch), 4) for epoch in range(1, 13)]
    assert trace == [0.0016, 0.0938, 0.0136, 0.0768, 0.0345, 0.0531, 0.0594, 0.0287, 0.0819, 0.0095, 0.0965, 0.0004]
    of_300 = lr_factor(ScheduleSpec(kind="reference", half_period=300), epochs=10, steps_per_epoch=308)
    assert 0.1 * of_300(308) == pytest.approx(1.8e-4, abs=1e-5)  # at the end of the first of 300 epochs
    with pytest.raises(ValueError, match="half_period"):
        ScheduleSpec(half_period=300)


def test_poly_never_goes_negative() -> None:
    factor = lr_factor(ScheduleSpec(kind="poly"), epochs=2, steps_per_epoch=3)
    assert [factor(step) for step in (0, 6, 60)] == [1.0, 0.0, 0.0]
    assert lr_factor(ScheduleSpec(kind="constant"), 2, 3)(60) == 1


def labelled(per_class: tuple[int, ...] = (5, 9, 1)) -> LabelledClouds:
    targets = np.repeat(np.arange(len(per_class)), per_class)
    xyz = np.random.default_rng(0).normal(size=(len(targets), 8, 3)).astype(np.float32)
    return LabelledClouds(xyz, targets, tuple("abc"[: len(per_class)]))


def test_few_shot_is_balanced_and_seeded() -> None:
    clouds = labelled((5, 9, 4))
    subset = few_shot(clouds, 3, seed=1)
    assert np.bincount(subset.targets).tolist() == [3, 3, 3]
    assert few_shot(clouds, 3, seed=1).digest == subset.digest
    assert few_shot(clouds, 3, seed=2).digest != subset.digest
    with pytest.raises(BadDataset, match="c: 5 shots asked for, the class has 4"):
        few_shot(clouds, 5, seed=1)


def test_hold_out_parts_are_disjoint_and_leave_one() -> None:
    clouds = labelled()
    rest, held = hold_out(clouds, 0.2, seed=0)
    assert np.bincount(held.targets, minlength=3).tolist() == [1, 2, 0]
    rows = {row.tobytes() for row in rest.xyz} | {row.tobytes() for row in held.xyz}
    assert len(rows) == len(clouds) == len(rest) + len(held)
    assert len(hold_out(clouds, 0, seed=0)[1]) == 0


def write_h5(root: Path, split: str, number: int, count: int, **changes: object) -> None:
    content: dict[str, object] = {
        "data": np.random.default_rng(number).normal(size=(count, 16, 3)).astype("f4"),
        "label": np.arange(count, dtype="u1")[:, None] % 2,
    }
    with h5py.File(root / f"ply_data_{split}{number}.h5", "w") as file:
        for name, value in (content | changes).items():
            if value is not None:
                file[name] = value


def test_modelnet40_layout(tmp_path: Path) -> None:
    (tmp_path / "shape_names.txt").write_text("chair\ntable\n")
    for number in (0, 1, 10, 2):
        write_h5(tmp_path, "train", number, 3 + number)
    clouds = read_modelnet40(tmp_path, "train")
    assert clouds.names == ("chair", "table")
    assert len(clouds) == 3 + 4 + 5 + 13
    first_of_10 = np.random.default_rng(10).normal(size=(13, 16, 3)).astype("f4")[0]
    assert np.array_equal(clouds.xyz[12], first_of_10)  # files in the order of their numbers


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"label": None}, "cannot read"), ({"data": np.zeros((3, 16, 2), "f4")}, "expected"), ({"label": np.full((3, 1), 7)}, "2 names")],
)
def test_modelnet40_files_that_do_not_fit(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    (tmp_path / "shape_names.txt").write_text("chair\ntable\n")
    write_h5(tmp_path, "train", 0, 3, **changes)
    with pytest.raises(BadDataset, match=message):
        read_split("modelnet40", tmp_path, "train")
    with pytest.raises(BadDataset, match="needs ply_data_test"):
        read_split("modelnet40", tmp_path, "test")
    with pytest.raises(BadDataset, match="did you mean 'modelnet40'"):
        read_split("modelnet", tmp_path, "test")


@pytest.mark.parametrize("nesterov", [False, True])
def test_steps_in_one_pass_are_those_of_plain_sgd(nesterov: bool) -> None:
    """Also from a state that plain SGD has left, as older runs did: the momentum goes on, and the way of stepping stays its own."""
    spec = OptimSpec(lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=nesterov)
    generator = torch.Generator().manual_seed(0)
    start, slopes = torch.randn(7, 5, generator=generator), torch.randn(6, 7, 5, generator=generator)

    def descended(optimiser: torch.optim.SGD, moved: torch.nn.Parameter, slopes: torch.Tensor) -> torch.Tensor:
        for slope in slopes:
            moved.grad = slope.clone()
            optimiser.step()
        return moved.detach().clone()

    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    plain = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=nesterov)
    half = descended(plain, theirs, slopes[:3])
    state = copy.deepcopy(plain.state_dict())  # as a file would have it
    torch.testing.assert_close(descended(sgd([ours], spec), ours, slopes[:3]), half)
    resumed = torch.nn.Parameter(half.clone())
    optimiser = sgd([resumed], spec)
    resume_sgd(optimiser, state)
    assert optimiser.param_groups[0]["fused"] is True
    torch.testing.assert_close(descended(optimiser, resumed, slopes[3:]), descended(plain, theirs, slopes[3:]))
