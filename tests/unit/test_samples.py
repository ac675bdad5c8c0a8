"""Samples of scenes: voxels to learn from, points to check, the same from a cache and through workers."""

import dataclasses
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.errors import ExtentTooLarge, InputError, MissingFeature, NonFinite
from models.labels import IGNORE, LabelMap
from models.manifest import InputSpec
from models.pointcloud import PointCloud
from models.voxelize import Voxels, prepare, voxelize
from training.augment import AugmentSpec
from training.batches import TrainBatch, plan_epoch, train_batches
from training.datasets.scenes import Scene
from training.pack import Pack
from training.samples import Sample, SceneSamples, inverse_frequency
from training.votes import vote

CPU = torch.device("cpu")
MAP = LabelMap.model_validate({"classes": [{"name": name, "colour": (1, 2, 3), "ids": (n,)} for n, name in enumerate("abcd")]})


@dataclass(frozen=True)
class MadeUp:
    """Scenes in memory."""

    scenes: tuple[Scene, ...]
    label_map: LabelMap = MAP
    titles: Sequence[str] = ()
    digest: str = "made up"

    def __len__(self) -> int:
        return len(self.scenes)

    def scene(self, index: int) -> Scene:
        return self.scenes[index]

    def take(self, rows: np.ndarray) -> "MadeUp":
        return replace(self, scenes=tuple(self.scenes[int(row)] for row in rows))


def spec(*features: str, **options: object) -> InputSpec:
    return InputSpec.model_validate({"features": [{"name": name} for name in features], "voxel_size": 0.5, **options})


def kitti_like(seed: int, count: int = 2500) -> Scene:
    """Points around a sensor, with intensity, a tenth without a class; the class follows from the height."""
    rng = np.random.default_rng(seed)
    xyz = (rng.normal(size=(count, 3)) * [4, 4, 0.8]).astype(np.float32)
    labels = np.digitize(xyz[:, 2], [-1, 0, 1])
    labels[rng.random(count) < 0.1] = IGNORE
    return Scene(PointCloud(xyz, intensity=rng.random(count).astype(np.float32)), labels)


def s3dis_like(seed: int, count: int = 2500) -> Scene:
    """A coloured room whose corner is at 0; every point has a class."""
    rng = np.random.default_rng(seed)
    xyz = rng.uniform(0, [6, 5, 3], (count, 3)).astype(np.float32)
    return Scene(PointCloud(xyz, rgb=rng.integers(0, 256, (count, 3)).astype(np.uint8)), np.digitize(xyz[:, 2], [1, 2]))


def surveyed(seed: int) -> Scene:
    """In double precision, far from the origin, with both."""
    scene, rng = kitti_like(seed), np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (len(scene.cloud), 3)).astype(np.uint8)
    xyz = scene.cloud.xyz.astype(np.float64) + np.array([500_000.123, 5_400_000.456, 300.0])
    return Scene(replace(scene.cloud, xyz=xyz, rgb=rgb), scene.labels)


def bare(seed: int) -> Scene:
    scene = kitti_like(seed)
    return Scene(PointCloud(scene.cloud.xyz), scene.labels)


KINDS = {
    "kitti": (kitti_like, spec("x", "y", "z", "intensity")),
    "s3dis": (s3dis_like, spec("z", "red", "green", "blue", voxel_size=0.4)),
    "surveyed": (surveyed, spec("z", "red", "intensity")),
    "bare": (bare, spec("z")),
    "reference": (kitti_like, spec("x", "intensity", rounding="reference", voxel_feature="reference")),
}
AUGMENTED = AugmentSpec.model_validate(
    {
        "rotate_deg": 180,
        "mirror": 0.5,
        "drop": 0.3,
        "colour_jitter": 3,
        "colour_shift": 9,
        "auto_contrast": 0.5,
        "intensity_scale": (0.8, 1.2),
        "crop": 9.0,
        "mix": 0.5,
        "max_voxels": 800,
    }
)


def samples(kind: str = "kitti", count: int = 5, **options: object) -> SceneSamples:
    make, input_spec = KINDS[kind]
    return SceneSamples(MadeUp(tuple(make(seed) for seed in range(count))), input_spec, **options)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_learnt_from_is_a_class_a_voxel(kind: str) -> None:
    given = samples(kind)
    scene, sample = given.scenes.scene(2), given.sample(2, rng())
    voxels = voxelize(prepare(scene.cloud, given.spec), given.spec)
    assert_same(sample.voxels, voxels)
    assert sample.targets.tolist() == vote(scene.labels, voxels, 4).tolist()
    assert (sample.rows, sample.answers) == (None, len(voxels))
    assert 300 < len(voxels) < len(scene.cloud) - 300
    first = samples(kind, voxel_label="reference").sample(2, rng())
    assert first.targets.tolist() == vote(scene.labels, voxels, 4, "reference").tolist()
    assert first.targets.tolist() != sample.targets.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_checked_is_a_class_a_point(kind: str) -> None:
    given = samples(kind, per_point=True)
    scene, sample = given.scenes.scene(1), given.sample(1)
    assert sample.targets.tolist() == scene.labels.tolist()
    assert sample.rows is not None
    assert sample.rows.tolist() == sample.voxels.inverse.tolist()
    assert sample.answers == len(sample.voxels)


def test_of_many_voxels_a_random_part_is_kept() -> None:
    whole = samples().sample(0, rng())
    few = samples(augmentation=AugmentSpec(p_scale=0, p_translate=0, p_jitter=0, max_voxels=300))
    taken = [few.sample(0, rng(seed)) for seed in range(3)]
    places = {coords.tobytes(): row for row, coords in enumerate(whole.voxels.coords)}
    for sample in taken:
        assert len(sample.voxels) == sample.answers == len(sample.targets) == 300
        rows = [places[coords.tobytes()] for coords in sample.voxels.coords]
        assert rows == sorted(set(rows))  # in their order, none twice
        assert np.array_equal(sample.voxels.feats, whole.voxels.feats[rows])
        assert np.array_equal(sample.targets, whole.targets[rows])
    assert not np.array_equal(taken[0].voxels.coords, taken[1].voxels.coords)
    enough = replace(few, augmentation=few.augmentation.model_copy(update={"max_voxels": len(whole.voxels)}))  # type: ignore[union-attr]
    assert_same(enough.sample(0, rng()).voxels, whole.voxels)
    assert len(few.sample(0).voxels) == len(whole.voxels)  # without a generator nothing is random


def assert_same(one: Voxels, other: Voxels) -> None:
    """Byte for byte."""
    for field in dataclasses.fields(Voxels):
        ours, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(ours, np.ndarray):
            assert ours.dtype == theirs.dtype, field.name
            assert ours.shape == theirs.shape, field.name
            assert ours.tobytes() == theirs.tobytes(), field.name
        else:
            assert ours == theirs, field.name


def assert_same_samples(one: Sample, other: Sample) -> None:
    assert_same(one.voxels, other.voxels)
    assert np.array_equal(one.targets, other.targets)
    assert one.targets.dtype == other.targets.dtype == np.int64
    assert one.answers == other.answers
    assert (one.rows is None) == (other.rows is None)
    assert one.rows is None or np.array_equal(one.rows, other.rows)  # type: ignore[arg-type]


@pytest.mark.parametrize("augmentation", [None, AUGMENTED], ids=["as they are", "augmented"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_changes_nothing(kind: str, augmentation: AugmentSpec | None, tmp_path: Path) -> None:
    for per_point in (False, True) if augmentation is None else (False,):
        fresh = samples(kind, augmentation=augmentation, per_point=per_point)
        with closing(fresh.cached(tmp_path)) as kept:
            for row in range(len(fresh)):
                assert_same_samples(fresh.sample(row, rng(row)), kept.sample(row, rng(row)))
                for one, other in ((fresh.prepared(row), kept.prepared(row)), (fresh.prepared(row), fresh.prepared(row))):
                    assert one.cloud.xyz.dtype == other.cloud.xyz.dtype
                    assert one.cloud.xyz.tobytes() == other.cloud.xyz.tobytes()
                    assert np.array_equal(one.labels, other.labels)
            assert np.array_equal(fresh.class_weights(), kept.class_weights())
    assert len(list(tmp_path.glob("*.bin"))) == 1  # both kinds of targets come from one cache


def test_a_cache_is_made_once_and_for_one_input(tmp_path: Path) -> None:
    given = samples()
    given.cached(tmp_path).close()
    (file,) = tmp_path.glob("*.bin")
    stamp = file.stat().st_mtime_ns
    replace(given, augmentation=AUGMENTED, per_point=True).cached(tmp_path).close()
    assert file.stat().st_mtime_ns == stamp
    replace(given, spec=spec("z", "intensity", up="y")).cached(tmp_path).close()
    others = MadeUp(tuple(kitti_like(seed) for seed in range(5)), digest="others")
    replace(given, scenes=others).cached(tmp_path).close()
    assert len(list(tmp_path.glob("*.bin"))) == 3


def batches(given: SceneSamples, workers: int = 0, **plan: object) -> list[TrainBatch]:
    options: dict[str, object] = {"batch_size": 2, "accumulate": 1, "balance": "none", "fewest": given.fewest, **plan}
    micros = [micro for step in plan_epoch(given.strata, seed=3, epoch=1, **options) for micro in step]
    return list(train_batches(given, micros, seed=3, epoch=1, device=CPU, workers=workers))


@pytest.mark.parametrize("per_point", [False, True])
def test_workers_and_caches_make_the_same_batches(per_point: bool, tmp_path: Path) -> None:
    given = samples(augmentation=None if per_point else AUGMENTED, per_point=per_point)
    alone = batches(given)
    with closing(given.cached(tmp_path)) as kept:
        others = [batches(given, 2), batches(kept, 2), batches(kept)]
    assert len(alone) == 3  # the last of five scenes is a batch by itself
    for made in others:
        for one, other in zip(alone, made, strict=True):
            assert one.inputs.coords.equal(other.inputs.coords)
            assert one.inputs.feats.equal(other.inputs.feats)
            assert one.targets.equal(other.targets)
            assert (one.rows is None) == (other.rows is None) == (not per_point)
            assert one.rows is None or one.rows.equal(other.rows)  # type: ignore[arg-type]


def test_every_point_of_a_batch_gets_the_answer_of_its_voxel() -> None:
    """With the cell of every voxel as its answer: the cells of the points of all scenes of the batch, one after another."""
    given = samples(per_point=True)
    steps = plan_epoch(given.strata, batch_size=2, accumulate=1, balance="none", seed=3, epoch=1, fewest=1)
    for (micro,), batch in zip(steps, batches(given), strict=True):
        scenes = [given.scenes.scene(int(row)) for row in micro.rows]
        cells = [(scene.cloud.xyz - scene.cloud.xyz.min(axis=0)) / np.float32(0.5) for scene in scenes]
        expected = np.concatenate([np.c_[np.full(len(cell), place), cell.astype(int)] for place, cell in enumerate(cells)])
        assert batch.wanted(batch.inputs.coords).tolist() == expected.tolist()
        assert batch.targets.tolist() == np.concatenate([scene.labels for scene in scenes]).tolist()


def test_a_batch_of_one_scene_is_enough() -> None:
    assert [len(batch.inputs.coords) for batch in batches(samples(count=1), batch_size=1)] == [len(samples(count=1).sample(0).voxels)]
    assert len(batches(samples(), batch_size=2)) == 3
    assert len(batches(samples(), batch_size=2, ranks=2)) == 2  # the last would leave a process none


def test_mix_takes_another_scene_of_the_set() -> None:
    scenes = MadeUp(tuple(Scene(kitti_like(n).cloud, np.full(2500, n)) for n in range(4)))
    given = SceneSamples(scenes, spec("z"), AugmentSpec(p_scale=0, p_translate=0, p_jitter=0, mix=1.0))
    partners = set()
    for seed in range(40):
        seen = set(given.sample(0, rng(seed)).targets.tolist()) - {IGNORE}
        assert seen <= {0, 1, 2, 3}
        assert 0 in seen
        partners |= seen
    assert partners == {0, 1, 2, 3}


def test_a_dropped_feature_is_filled_in() -> None:
    filled = InputSpec.model_validate({"features": [{"name": "z"}, {"name": "intensity", "fill": 0.25, "scale": 3.0}], "voxel_size": 0.5})
    given = SceneSamples(MadeUp((kitti_like(0),)), filled, AugmentSpec(p_scale=0, p_translate=0, p_jitter=0, drop_intensity=0.5))
    seen = [given.sample(0, rng(seed)).voxels for seed in range(30)]
    without = [voxels for voxels in seen if voxels.filled]
    assert 5 < len(without) < 25
    for voxels in seen:
        assert (voxels.feats[:, 1] == np.float32(0.25)).all() == bool(voxels.filled)
    assert all(voxels.filled == ("intensity",) for voxels in without)


def test_weights_of_classes_follow_the_root_of_how_rare_they_are() -> None:
    labels = np.repeat([0, 1, IGNORE, 3], [1600, 400, 400, 100])
    scene = Scene(kitti_like(0).cloud, labels)
    weights = SceneSamples(MadeUp((scene, scene)), spec("z")).class_weights()
    assert weights.dtype == np.float32
    assert weights[2] == 0  # absent
    assert weights[1] / weights[0] == pytest.approx(2)
    assert weights[3] / weights[0] == pytest.approx(4)
    assert weights[labels[labels != IGNORE]].mean() == pytest.approx(1)
    nothing = SceneSamples(MadeUp((Scene(scene.cloud, np.full(2500, IGNORE)),)), spec("z")).class_weights()
    assert nothing.tolist() == [0, 0, 0, 0]
    assert inverse_frequency(np.array([4, 1]), power=1.0).tolist() == pytest.approx([5 / 8, 5 / 2])


def test_a_scene_without_any_class_is_all_ignored() -> None:
    scene = Scene(kitti_like(0).cloud, np.full(2500, IGNORE))
    sample = SceneSamples(MadeUp((scene,)), spec("z")).sample(0)
    assert set(sample.targets.tolist()) == {IGNORE}


def test_what_is_in_a_cache_is_not_kept_in_memory(tmp_path: Path) -> None:
    """Every array that a pack gives is one that nobody else holds."""
    with closing(samples(count=3).cached(tmp_path)) as kept:
        assert isinstance(kept.pack, Pack)
        one, again = kept.prepared(1), kept.prepared(1)
        assert not np.shares_memory(one.cloud.xyz, again.cloud.xyz)
        held = [value for value in vars(kept.pack).values() if isinstance(value, np.ndarray)]
        assert sum(array.nbytes for array in held) < 1000


def pair(*far: float, **columns: np.ndarray) -> Scene:
    """Two points, one of them at 0."""
    return Scene(PointCloud(np.array([[0, 0, 0], far], np.float32), **columns), np.zeros(2, np.int64))


@pytest.mark.parametrize(
    ("scene", "error"),
    [
        (pair(np.nan, 0, 0), NonFinite),
        (pair(1e9, 0, 0, intensity=np.zeros(2, np.float32)), ExtentTooLarge),
        (pair(1, 0, 0), MissingFeature),
    ],
    ids=["not finite", "too large", "no intensity"],
)
def test_a_scene_that_cannot_be_used_is_named(scene: Scene, error: type[InputError], tmp_path: Path) -> None:
    given = SceneSamples(MadeUp((kitti_like(0), scene), titles=("a.ply", "b.ply")), spec("z", "intensity"))
    with pytest.raises(error, match=r"^b\.ply"):
        given.sample(1)
    if error is NonFinite:
        with pytest.raises(error, match=r"^b\.ply"):
            given.cached(tmp_path)
    else:
        with closing(given.cached(tmp_path)) as kept, pytest.raises(error, match=r"^b\.ply"):
            kept.sample(1)
