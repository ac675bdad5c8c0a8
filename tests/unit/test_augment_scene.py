"""Random changes of clouds and scenes: old ones draw as they always did, new ones do what they say, and points keep their classes."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError

from models.manifest import Axis
from models.pointcloud import PointCloud
from training.augment import UP, AugmentSpec, augment, kept_rows
from training.augment_scene import FEWEST, SECTOR, augment_scene, column, mixed
from training.datasets.scenes import Scene

STILL: dict[str, object] = {"p_scale": 0, "p_translate": 0, "p_jitter": 0}
UPS: tuple[Axis, ...] = ("x", "y", "z")

# What training.augment of commit 39ab367 made of twelve points with seed 5: the first, the last, and what the generator gave next.
BEFORE: dict[str, tuple[dict[str, object], Axis, int, list[float], list[float]]] = {
    "default": ({}, "z", 12, [-3.0458059310913086, -2.096210479736328, -1.0912830829620361], [1.96951949, 2.68959093, -2.91285539]),
    "all": (
        {
            "scale": (0.5, 2),
            "p_scale": 1,
            "translate": 1,
            "p_translate": 1,
            "jitter": 0.1,
            "p_jitter": 1,
            "rotate_deg": 180,
            "flip": 1,
            "drop": 0.5,
        },
        *("y", 9, [-2.6161439418792725, -2.3253021240234375, 0.7440202832221985], [3.84308577, 5.22156954, -0.09195398]),
    ),
    "none": (STILL, "z", 12, [-3.0, -2.0, -1.0], [2.0, 3.0, -3.0]),
    "half": (
        {"p_scale": 0.5, "p_translate": 0.5, "p_jitter": 0.5, "flip": 0.5, "rotate_deg": 10},
        *("x", 12, [-3.189708709716797, -1.9165836572647095, -1.2396695613861084], [1.82904577, 3.24854422, -2.70533442]),
    ),
}
NEXT = {  # by seed, from 0 to 5
    "default": [371537321601, 449919208513, 574856019396, 965899177811, 243378723838, 717287423792],
    "all": [915501922144, 89668051066, 42445689728, 767927887414, 303397322741, 404489150068],
    "none": [894200084524, 342862307391, 659817506133, 103495536650, 667794799476, 59297434362],
    "half": [597721999265, 923459498328, 761431738392, 723096252887, 397819865466, 879476839717],
}


@pytest.mark.parametrize("name", BEFORE)
def test_what_there_was_draws_what_it_drew(name: str) -> None:
    options, up, count, first, last = BEFORE[name]
    spec = AugmentSpec.model_validate(options)
    cloud = PointCloud((np.arange(36).reshape(12, 3) % 7 - 3).astype(np.float32))
    for seed, following in enumerate(NEXT[name]):
        rng = np.random.default_rng(seed)
        found = augment(cloud, spec, rng, up).xyz
        assert int(rng.integers(1 << 40)) == following, seed
    assert len(found) == count
    np.testing.assert_allclose(found[[0, -1]], [first, last], rtol=1e-6)


def coloured(count: int = 400, seed: int = 0) -> PointCloud:
    """Points whose arrays cannot be written to, as those from a cache."""
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (count, 3)).astype(np.uint8)
    arrays = rng.normal(size=(count, 3)).astype(np.float32), rgb, rng.random(count).astype(np.float32)
    for array in arrays:
        array.flags.writeable = False
    return PointCloud(*arrays)


def changed(seed: int, up: Axis = "z", cloud: PointCloud | None = None, **options: object) -> PointCloud:
    return augment(cloud or coloured(), AugmentSpec.model_validate({**STILL, **options}), np.random.default_rng(seed), up)


@pytest.mark.parametrize("up", UPS)
def test_mirror_is_of_each_ground_axis_by_itself(up: Axis) -> None:
    before, signs = coloured().xyz, []
    for seed in range(200):
        after = changed(seed, up, mirror=0.5).xyz
        assert np.array_equal(np.abs(after), np.abs(before))
        signs.append(np.sign(after[0] * before[0]))
        assert np.array_equal(after, before * signs[-1])
    heights, grounds = np.array(signs)[:, UP[up]], np.delete(signs, UP[up], axis=1)
    assert (heights == 1).all()
    counts = np.unique(grounds, axis=0, return_counts=True)[1]
    assert len(counts) == 4
    assert counts.min() > 25
    both = changed(0, up, mirror=1).xyz
    assert np.array_equal(np.delete(both, UP[up], axis=1), -np.delete(before, UP[up], axis=1))


def test_scale_of_all_axes_or_of_each() -> None:
    before = coloured().xyz
    for axes, count in (("all", 1), ("each", 3)):
        factors = changed(3, scale=(0.5, 2), p_scale=1, scale_axes=axes).xyz / before
        assert len(np.unique(factors.round(4))) == count
        assert ((factors > 0.49) & (factors < 2.01)).all()


def grey(value: int, count: int = 20_000) -> PointCloud:
    return PointCloud(np.zeros((count, 3), np.float32), rgb=np.full((count, 3), value, np.uint8))


def rgb_of(cloud: PointCloud) -> np.ndarray:
    assert cloud.rgb is not None
    assert cloud.rgb.dtype == np.uint8
    return cloud.rgb.astype(int)


def test_colour_jitter_shifts_every_value_by_itself() -> None:
    shifts = rgb_of(changed(0, cloud=grey(128), colour_jitter=5, p_colour=1)) - 128
    assert shifts.std(axis=0) == pytest.approx([5, 5, 5], rel=0.03)
    assert np.abs(shifts.mean(axis=0)).max() < 0.2
    assert np.abs(np.corrcoef(shifts.T) - np.eye(3)).max() < 0.03


def test_colour_shift_is_one_a_channel() -> None:
    shifts = [rgb_of(changed(seed, cloud=grey(100, 5), colour_shift=20, p_colour=1)) - 100 for seed in range(60)]
    assert all((each == each[0]).all() for each in shifts)
    first = np.array([each[0] for each in shifts])
    assert np.abs(first).max() <= 20
    assert first.min() < -15
    assert first.max() > 15
    assert (first[:, 0] != first[:, 1]).mean() > 0.8


def test_colours_never_leave_their_range() -> None:
    for value in (0, 255):
        found = rgb_of(changed(1, cloud=grey(value), colour_jitter=30, colour_shift=60, p_colour=1, auto_contrast=0.5))
        assert found.min() >= 0
        assert found.max() <= 255
        assert (np.abs(found - value) < 250).all()  # nothing came round at the other end
        assert (found != value).any()


def test_what_jitter_drives_over_the_edge_is_lost_before_the_shift() -> None:
    """As in the reference: half of a white wall is at 255 after the jitter, and where the shift says afterwards."""
    for seed in range(20):
        found = rgb_of(changed(seed, cloud=grey(255, 2000), colour_jitter=30, colour_shift=60, p_colour=1))
        assert (found == found.max(axis=0)).mean(axis=0).min() > 0.45


def test_p_colour_is_how_often() -> None:
    same = [np.array_equal(rgb_of(changed(seed, colour_jitter=9, p_colour=0.7)), rgb_of(coloured())) for seed in range(200)]
    assert np.mean(same) == pytest.approx(0.3, abs=0.1)
    assert all(np.array_equal(rgb_of(changed(seed, colour_jitter=9, colour_shift=9, p_colour=0)), rgb_of(coloured())) for seed in range(20))


def test_auto_contrast_goes_half_of_the_way() -> None:
    rgb = np.array([[50, 7, 0], [100, 7, 255], [150, 7, 128]], np.uint8)
    cloud = PointCloud(np.zeros((3, 3), np.float32), rgb=rgb)
    found = rgb_of(changed(0, cloud=cloud, auto_contrast=1))
    assert found.tolist() == [[25, 7, 0], [114, 7, 255], [202, 7, 128]]  # 50..150 over 0..255, a constant channel, a full one
    kept = [np.array_equal(rgb_of(changed(seed, cloud=cloud, auto_contrast=0.2)), rgb) for seed in range(200)]
    assert np.mean(kept) == pytest.approx(0.8, abs=0.1)


def test_intensity_is_multiplied_by_one_factor() -> None:
    before = coloured().intensity
    assert before is not None
    factors = []
    for seed in range(50):
        after = changed(seed, intensity_scale=(0.5, 1.5)).intensity
        assert after is not None
        assert after.dtype == np.float32
        factors.append(float(after[0] / before[0]))
        np.testing.assert_allclose(after, before * factors[-1], rtol=1e-5)
    assert 0.5 <= min(factors) < 0.7
    assert 1.3 < max(factors) <= 1.5


def test_a_feature_is_dropped_as_often_as_is_said() -> None:
    lost = []
    for seed in range(300):
        cloud = changed(seed, drop_colour=0.2, drop_intensity=0.6)
        lost.append((cloud.rgb is None, cloud.intensity is None))
        if cloud.rgb is not None:
            assert np.array_equal(cloud.rgb, rgb_of(coloured()))
    assert np.mean(lost, axis=0) == pytest.approx([0.2, 0.6], abs=0.08)
    assert np.corrcoef(np.array(lost, float).T)[0, 1] == pytest.approx(0, abs=0.2)
    nothing = changed(0, cloud=PointCloud(coloured().xyz), drop_colour=1, drop_intensity=1, colour_jitter=9, intensity_scale=(0.5, 2))
    assert (nothing.rgb, nothing.intensity) == (None, None)  # a cloud that has neither


EVERYTHING: dict[str, object] = {
    "scale": (0.5, 2),
    "p_scale": 1,
    "p_translate": 1,
    "p_jitter": 1,
    "rotate_deg": 180,
    "flip": 1,
    "mirror": 1,
    "drop": 0.5,
    "colour_jitter": 9,
    "colour_shift": 9,
    "p_colour": 1,
    "auto_contrast": 1,
    "intensity_scale": (0.5, 2),
    "drop_colour": 0.1,
    "drop_intensity": 0.1,
}


def test_what_came_in_is_not_changed() -> None:
    """Writing into arrays that cannot be written to would raise."""
    cloud = coloured()
    copies = cloud.xyz.copy(), rgb_of(cloud), np.array(cloud.intensity)
    for seed in range(5):
        augment(cloud, AugmentSpec.model_validate(EVERYTHING), np.random.default_rng(seed))
    scene = identified(cloud.xyz * 9)
    scene.cloud.xyz.flags.writeable = scene.labels.flags.writeable = False
    spec = AugmentSpec.model_validate({**EVERYTHING, "crop": 20.0, "mix": 1.0})
    for seed in range(5):
        augment_scene(scene, spec, np.random.default_rng(seed), "z", lambda: scene)
    for kept, now in zip(copies, (cloud.xyz, cloud.rgb, cloud.intensity), strict=True):
        assert now is not None
        assert np.array_equal(kept, now)


@pytest.mark.parametrize(
    "option",
    [
        *({"p_scale": 1}, {"p_translate": 1}, {"p_jitter": 1}, {"rotate_deg": 1}, {"flip": 0.1}, {"drop": 0.1}, {"mirror": 0.1}),
        *({"colour_jitter": 1}, {"colour_shift": 1}, {"auto_contrast": 0.1}, {"intensity_scale": (1, 1.1)}, {"drop_colour": 0.1}),
        *({"drop_intensity": 0.1}, {"crop": 9}, {"max_voxels": 9}, {"mix": 0.1}),
    ],
    ids=lambda option: next(iter(option)),
)
def test_it_is_known_whether_anything_changes(option: dict[str, object]) -> None:
    """What never changes is kept from epoch to epoch."""
    assert AugmentSpec.model_validate({**STILL, **option}).changes
    assert not AugmentSpec.model_validate({**STILL, "scale_axes": "all"}).changes


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"scale": (1.2, 0.8)}, "from the smaller to the larger"),
        ({"intensity_scale": (2, 1)}, "from the smaller to the larger"),
        ({"translate": -1}, "greater than or equal to 0"),
        ({"jitter": -1}, "greater than or equal to 0"),
        ({"rotate_deg": -5}, "greater than or equal to 0"),
        ({"mirror": 1.5}, "less than or equal to 1"),
        ({"crop": 0}, "greater than 0"),
        ({"scale_axes": "some"}, "'each' or 'all'"),
    ],
)
def test_ranges_that_nothing_can_be_drawn_from(option: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AugmentSpec.model_validate(option)


# Scenes


def identified(xyz: np.ndarray, first: int = 0) -> Scene:
    """A scene whose points carry their number three times: as class, as intensity and in their colours."""
    numbers = np.arange(first, first + len(xyz))
    rgb = np.stack([numbers % 251, numbers // 251 % 251, numbers % 7], axis=1).astype(np.uint8)
    return Scene(PointCloud(xyz.astype(np.float32), rgb=rgb, intensity=numbers.astype(np.float32)), numbers)


def check_identity(scene: Scene) -> None:
    """Every point still has its own class."""
    cloud = scene.cloud
    assert cloud.intensity is not None
    assert cloud.rgb is not None
    assert np.array_equal(cloud.intensity.astype(int), scene.labels)
    assert np.array_equal(cloud.rgb, identified(np.zeros((int(scene.labels.max()) + 1, 3))).cloud.rgb[scene.labels])  # type: ignore[index]


def never() -> Scene:
    raise AssertionError("asked for another scene without need")


def box(count: int = 3000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-10, 10, (count, 3))


def test_points_keep_their_classes_whatever_happens() -> None:
    scene, other = identified(box()), identified(box(seed=1), first=3000)
    options = {**EVERYTHING, "colour_jitter": 0, "colour_shift": 0, "auto_contrast": 0, "intensity_scale": (1, 1)}
    spec = AugmentSpec.model_validate({**options, "drop_colour": 0, "drop_intensity": 0, "crop": 9.0, "mix": 0.5})
    seen = set()
    for seed in range(20):
        found = augment_scene(scene, spec, np.random.default_rng(seed), "z", lambda: other)
        check_identity(found)
        assert 0 < len(found.cloud) < 3000
        seen.add((found.labels >= 3000).any())
    assert seen == {True, False}


@pytest.mark.parametrize("up", UPS)
def test_moved_points_are_those_of_their_classes(up: Axis) -> None:
    """The place of a point in the scene can be worked out from its class, before and after."""
    xyz = box()
    spec = AugmentSpec.model_validate({**STILL, "mirror": 1, "scale": (2, 2), "p_scale": 1, "scale_axes": "all", "drop": 0.5})
    found = augment_scene(identified(xyz), spec, np.random.default_rng(0), up, never)
    signs = np.full(3, -2.0)
    signs[UP[up]] = 2
    np.testing.assert_allclose(found.cloud.xyz, (xyz * signs)[found.labels], rtol=1e-5)


@pytest.mark.parametrize("up", UPS)
def test_a_crop_is_a_column_around_a_point(up: Axis) -> None:
    xyz = box().astype(np.float32)
    ground = [axis for axis in range(3) if axis != UP[up]]
    for seed in range(20):
        rows = column(xyz, 8.0, np.random.default_rng(seed), up)
        centre = xyz[np.random.default_rng(seed).integers(len(xyz))]
        inside = (np.abs(xyz - centre)[:, ground] <= 4).all(axis=1)
        assert np.array_equal(rows, np.flatnonzero(inside))
        assert np.ptp(xyz[rows, UP[up]]) > 15  # all of the height
        assert FEWEST <= len(rows) < 1500
    found = augment_scene(identified(xyz), AugmentSpec.model_validate({**STILL, "crop": 8.0}), np.random.default_rng(4), up, never)
    assert np.array_equal(found.labels, column(xyz, 8.0, np.random.default_rng(4), up))


def test_a_crop_of_next_to_nothing_is_the_whole_scene() -> None:
    assert np.array_equal(column(box(), 0.01, np.random.default_rng(0), "z"), np.arange(3000))
    assert np.array_equal(column(box(FEWEST - 1), 100.0, np.random.default_rng(0), "z"), np.arange(FEWEST - 1))


def test_drop_leaves_up_to_its_share_out() -> None:
    counts = [len(kept_rows(1000, 0.6, np.random.default_rng(seed))) for seed in range(100)]
    assert 350 < min(counts) < 480
    assert 950 < max(counts) <= 1000
    assert all(len(kept_rows(1, 0.99, np.random.default_rng(seed))) == 1 for seed in range(50))


def ring(up: Axis, first: int) -> Scene:
    """A point at every tenth of a degree around the up axis, point k at k / 10 degrees; `first` is the class of point 0."""
    angles = np.radians(np.arange(3600) / 10 + 0.05)
    xyz = np.zeros((3600, 3))
    xyz[:, (UP[up] + 1) % 3], xyz[:, (UP[up] + 2) % 3] = 9 * np.cos(angles), 9 * np.sin(angles)
    return identified(xyz, first)


@pytest.mark.parametrize("up", UPS)
def test_mix_exchanges_one_sector(up: Axis) -> None:
    widths = []
    for seed in range(40):
        found = mixed(ring(up, 0), ring(up, 3600), np.random.default_rng(seed), up)
        check_identity(found)
        kept, added = found.labels[found.labels < 3600], found.labels[found.labels >= 3600] - 3600
        assert sorted([*kept, *added]) == list(range(3600))  # at every angle one of the two
        breaks = [(one, two) for one, two in pairwise([*added.tolist(), int(added[0])]) if (two - one) % 3600 != 1]
        assert len(breaks) <= 1  # all of the other scene in one sector, maybe across the angle 0
        widths.append(len(added) / 3600)
    assert min(widths) >= SECTOR[0] - 0.001
    assert max(widths) <= SECTOR[1] + 0.001
    assert max(widths) - min(widths) > 0.2


def test_mix_asks_for_another_scene_as_often_as_is_said() -> None:
    asked = []

    def other() -> Scene:
        asked.append(True)
        return identified(box(seed=1), 3000)

    spec = AugmentSpec.model_validate({**STILL, "mix": 0.3})
    for seed in range(200):
        before = len(asked)
        found = augment_scene(identified(box()), spec, np.random.default_rng(seed), "z", other)
        assert (found.labels >= 3000).any() == (len(asked) > before)
    assert len(asked) / 200 == pytest.approx(0.3, abs=0.1)


def test_mix_drops_what_only_one_of_the_two_has() -> None:
    scene, bare = identified(box()), identified(box(seed=1))
    bare = Scene(PointCloud(bare.cloud.xyz, intensity=bare.cloud.intensity), bare.labels)
    for one, two in ((scene, bare), (bare, scene)):
        found = mixed(one, two, np.random.default_rng(0), "z").cloud
        assert found.rgb is None
        assert found.intensity is not None
    wide = Scene(PointCloud(scene.cloud.xyz.astype(np.float64), rgb=scene.cloud.rgb, intensity=scene.cloud.intensity), scene.labels)
    assert mixed(wide, scene, np.random.default_rng(0), "z").cloud.xyz.dtype == np.float64
    assert mixed(scene, wide, np.random.default_rng(0), "z").cloud.xyz.dtype == np.float32


def test_mix_that_would_leave_next_to_nothing_is_not_done() -> None:
    few = identified(box(FEWEST // 2))
    assert mixed(few, identified(box(2), 1000), np.random.default_rng(0), "z") is few


@pytest.mark.parametrize("part", ["augment", "scene"])
def test_draws_come_from_the_generator_alone(part: str) -> None:
    spec = AugmentSpec.model_validate({**EVERYTHING, "crop": 9.0, "mix": 0.5})
    other = identified(box(seed=1), 3000)
    whole: dict[str, Callable[[int], PointCloud]] = {
        "augment": lambda seed: augment(coloured(), spec, np.random.default_rng(seed)),
        "scene": lambda seed: augment_scene(identified(box()), spec, np.random.default_rng(seed), "z", lambda: other).cloud,
    }
    one, again, different = (whole[part](seed).xyz.tobytes() for seed in (1, 1, 2))
    assert one == again != different
