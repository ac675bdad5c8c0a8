"""S3DIS from its text: what is read, what is repaired, what is refused, and what is kept."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from models.errors import BadBody, BadDataset, BadLabels
from models.io import read_cloud
from models.labels import load_label_map
from tests.scene_folders import room
from training.datasets import FileScenes, read_scenes
from training.datasets.s3dis import prepare_s3dis, read_s3dis
from training.datasets.s3dis_rooms import NAMES
from training.datasets.s3dis_text import read_points


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "scenes" / "s3dis"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, title in enumerate(("Area_1/office_1", "Area_1/office_2", "Area_5/hallway_1", "Area_6/copyRoom_1")):
        room(tmp_path / "s3dis" / title, seed)
    return tmp_path / "s3dis"


def opened(root: Path, split: str = "train", **options: object) -> FileScenes:
    scenes = read_scenes("s3dis", root, split, **options)
    assert isinstance(scenes, FileScenes)
    return scenes


def text(path: Path, content: bytes) -> tuple[np.ndarray, np.ndarray, int]:
    path.write_bytes(content)
    return read_points(path, "Area_1/a/Annotations/x_1.txt")


# What is read


def test_a_room_is_its_annotations_in_the_order_of_their_names(tmp_path: Path) -> None:
    rows = room(tmp_path / "Area_2/office_1", 7)
    scene = opened(tmp_path).scene(0)
    np.testing.assert_array_equal(scene.cloud.xyz, rows[:, :3].astype(np.float32))
    assert scene.cloud.xyz.dtype == np.float32
    assert scene.cloud.rgb is not None
    np.testing.assert_array_equal(scene.cloud.rgb, rows[:, 3:])
    names = load_label_map("s3dis13").names
    wanted = [names.index(name) for name in ("ceiling", "chair", "chair", "clutter", "clutter")]  # the fourth are stairs
    assert scene.labels.tolist() == np.repeat(wanted, 30).tolist()


def test_stairs_are_a_class_of_the_reference(tmp_path: Path) -> None:
    room(tmp_path / "Area_2/office_1", 7)
    scenes = opened(tmp_path, label_map="s3dis14-reference")
    wanted = [scenes.label_map.names.index(name) for name in ("ceiling", "chair", "chair", "clutter", "stairs")]
    assert scenes.scene(0).labels.tolist() == np.repeat(wanted, 30).tolist()


def test_the_splits_are_areas(root: Path) -> None:
    assert opened(root).titles == ("Area_1/office_1", "Area_1/office_2", "Area_6/copyRoom_1")
    assert opened(root, "test").titles == ("Area_5/hallway_1",)
    label_map = load_label_map("s3dis13")
    assert read_s3dis(root, "test", label_map, test_area=1).titles == ("Area_1/office_1", "Area_1/office_2")
    assert read_s3dis(root, "train", label_map, test_area=1).titles == ("Area_5/hallway_1", "Area_6/copyRoom_1")
    with pytest.raises(
        BadDataset, match=r"no area of the test split \(test: area 3; train: the others\); there are Area_1, Area_5, Area_6"
    ):
        read_s3dis(root, "test", label_map, test_area=3)
    with pytest.raises(BadDataset, match="s3dis has no split 'val'; it has train, test"):
        opened(root, "val")
    assert opened(root, exclude=["Area_1/office_1", "Area_5/hallway_1"]).titles == ("Area_1/office_2", "Area_6/copyRoom_1")
    with pytest.raises(BadDataset, match="no scene to exclude of the title Area_1/office_9; did you mean 'Area_1/office_"):
        opened(root, exclude=["Area_1/office_9"])


def test_stray_files_are_passed_over_and_unknown_classes_are_clutter(root: Path) -> None:
    folder = root / "Area_5/hallway_1/Annotations"
    before = len(opened(root, "test").scene(0).labels)
    for name in (".DS_Store", "._ceiling_1.txt", "Icon\r", "ceiling_1.txt~", "notes.txt"):
        (folder / name).write_bytes(b"\0\1 no points")
    (root / "Area_5/.hidden").mkdir()
    (root / "Area_5/Area_5_alignmentAngle.txt").write_text("## nothing")
    (folder / "staris_1.txt").write_text("1 2 3 4 5 6\n")
    scenes = opened(root, "test")
    scene = scenes.scene(0)
    assert len(scene.labels) == before + 1
    assert scene.labels[-1] == scenes.label_map.names.index("clutter")
    assert scenes.notes == ("classes that S3DIS does not have, taken as clutter: staris",)


def test_the_map_needs_the_names_of_s3dis(root: Path) -> None:
    with pytest.raises(BadLabels, match="no class of that name in the label map: ceiling, floor"):
        opened(root, label_map="semantickitti19")


def test_scenes_travel_to_other_processes(root: Path) -> None:
    scenes = opened(root)
    assert pickle.loads(pickle.dumps(scenes)).scene(1).labels.tolist() == scenes.scene(1).labels.tolist()


# Damaged text


@pytest.mark.parametrize(
    ("damaged", "sound"),
    [  # lines of the published files, and what they must have been
        (b"22.350 6.692 3.048 185\x00187 182", [22.35, 6.692, 3.048, 185, 187, 182]),
        (b"0.577500 -12.407500 2.604000 167.\x1000000 175.000000 177.000000", [0.5775, -12.4075, 2.604, 167, 175, 177]),
        (b"1.0 2.0 3.0 103.0\x100000 1 2", [1, 2, 3, 103, 1, 2]),
        (b"19.302 -9.1\x160 1.785 146 137 106", [19.302, -9.16, 1.785, 146, 137, 106]),
        (b"1\x0e5 2 3 4 5 6", [1.5, 2, 3, 4, 5, 6]),
    ],
)
def test_a_byte_that_lost_its_sixth_bit_gets_it_back(tmp_path: Path, damaged: bytes, sound: list[float]) -> None:
    xyz, rgb, repaired = text(tmp_path / "x.txt", b"1 2 3 4 5 6\n" + damaged + b"\n7 8 9 1 2 3\n")
    np.testing.assert_array_equal(xyz[1], np.array(sound[:3], np.float32))
    assert rgb[1].tolist() == sound[3:]
    assert len(xyz) == 3
    assert repaired == 1


def test_repairs_are_counted_and_noted_from_the_cache_too(root: Path) -> None:
    path = root / "Area_5/hallway_1/Annotations/chair_1.txt"
    path.write_bytes(path.read_bytes() + b"1 2 3 103.0\x100000 1 2\n1 2 3 4\x005 6\n")
    note = "2 damaged bytes of the text were repaired: Area_5/hallway_1"
    assert opened(root, "test").notes == (note,)
    assert opened(root, "test").notes == (note,)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"1 2 3 4 5", "5 numbers instead of x y z r g b: '1 2 3 4 5'"),
        (b"1 2 3 4 5 6 7", "7 numbers instead"),
        (b"1 2 3 4 5 six", "not six numbers"),
        (b"1 2 3 4 5 1_0", "coordinates must be finite, colours"),
        (b"1 2 3 4 5 6\xa0", "not six numbers|coordinates must be finite"),
        (b"1 2 3 4\x015 6", "5 numbers instead|not six numbers"),
        (b"1 2 nan 4 5 6", "coordinates must be finite"),
        (b"1 1e400 3 4 5 6", "coordinates must be finite"),
        (b"1 2 3 4 5 256", "colours whole numbers from 0 to 255: '1 2 3 4 5 256'"),
        (b"1 2 3 4 5 -1", "colours whole numbers"),
        (b"1 2 3 4 5 6.5", "colours whole numbers"),
        (b"185187 1 2 3 4", "5 numbers instead"),
    ],
)
def test_other_damage_is_refused_with_file_and_line(tmp_path: Path, line: bytes, message: str) -> None:
    sound = b"1 2 3 4 5 6\n" * 60_000  # more than a block
    with pytest.raises(BadDataset, match=message) as caught:
        text(tmp_path / "x.txt", sound + line + b"\n" + sound)
    assert caught.value.where == "Area_1/a/Annotations/x_1.txt, line 60001"


def test_exponents_blank_lines_and_other_line_ends_are_fine(tmp_path: Path) -> None:
    xyz, rgb, repaired = text(tmp_path / "x.txt", b"\r\n1e-1 +2 -3.5E0 4 5.000 6\r\n\n 7\t8 9 1 2 3")
    assert xyz.tolist() == [[np.float32(0.1), 2, -3.5], [7, 8, 9]]
    assert rgb.tolist() == [[4, 5, 6], [1, 2, 3]]
    assert repaired == 0
    assert len(text(tmp_path / "x.txt", b"")[0]) == 0


def test_long_text_is_the_same_as_line_by_line(tmp_path: Path) -> None:
    rows = room(tmp_path / "a", 1, ("wall_1",), count=40_000)
    path = tmp_path / "a/Annotations/wall_1.txt"
    assert path.stat().st_size > 2 * (1 << 19)
    xyz, rgb, _ = read_points(path, "wall_1")
    by_line = np.array([[float(word) for word in line.split()] for line in path.read_text().splitlines()])
    np.testing.assert_array_equal(by_line, rows)
    np.testing.assert_array_equal(xyz, by_line[:, :3].astype(np.float32))
    np.testing.assert_array_equal(rgb, by_line[:, 3:])


# What is refused


def test_what_is_no_s3dis_says_so(tmp_path: Path, root: Path) -> None:
    with pytest.raises(BadDataset, match="needs Area_N/ROOM/Annotations"):
        opened(tmp_path)
    with pytest.raises(BadDataset, match="needs Area_N/ROOM/Annotations"):
        prepare_s3dis(tmp_path, tmp_path / "out")
    (root / "Area_1/empty/Annotations").mkdir(parents=True)
    (root / "Area_6/bare").mkdir()
    with pytest.raises(BadDataset, match=r"rooms without annotations:\n  Area_1/empty/Annotations holds no(?s:.*)Area_6/bare/Annotations"):
        opened(root)
    shutil.rmtree(root / "Area_5/hallway_1")
    with pytest.raises(BadDataset, match="no rooms in the areas 5"):
        opened(root, "test")
    room(root / "Area_5/hallway_1", 0, ("wall_1",), count=0)
    (root / "Area_5/hallway_1/Annotations/wall_1.txt").write_text("\n")
    with pytest.raises(BadDataset, match="Area_5/hallway_1/Annotations: the room has no points"):
        opened(root, "test")


def test_damage_in_a_room_is_named_by_its_path(root: Path) -> None:
    path = root / "Area_5/hallway_1/Annotations/chair_2.txt"
    path.write_bytes(path.read_bytes() + b"1 2 3\n")
    with pytest.raises(BadDataset, match=r"^Area_5/hallway_1/Annotations/chair_2.txt, line 31: 3 numbers"):
        opened(root, "test")


# What is kept


def files_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.read_bytes()) for path in sorted(folder.rglob("*.npz"))}


def test_rooms_are_prepared_once(root: Path, cache: Path) -> None:
    scene = opened(root).scene(0)
    kept = files_of(cache)
    assert len(kept) == 3
    again = opened(root)
    assert files_of(cache) == kept
    assert again.scene(0).cloud.xyz.tobytes() == scene.cloud.xyz.tobytes()
    opened(root, "test")
    assert len(files_of(cache)) == 4


def test_a_prepared_room_is_a_file_that_the_service_reads(root: Path, cache: Path) -> None:
    scenes = opened(root)
    (path,) = cache.glob("Area_1.office_2.*.npz")
    served = read_cloud(path)
    scene = scenes.scene(1)
    assert served.xyz.tobytes() == scene.cloud.xyz.tobytes()
    assert served.rgb is not None
    assert scene.cloud.rgb is not None
    assert served.rgb.tobytes() == scene.cloud.rgb.tobytes()
    assert np.asarray(NAMES)[served.extra["label"][::30].astype(int)].tolist() == ["ceiling", "chair", "chair", "clutter", "stairs"]


def test_changed_text_is_read_again(root: Path, cache: Path) -> None:
    before = opened(root, "test")
    digest = before.digest
    path = root / "Area_5/hallway_1/Annotations/ceiling_1.txt"
    first, rest = path.read_text().split("\n", 1)
    path.write_text("0.001 " + first.split(" ", 1)[1] + "\n" + rest)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000))
    scenes = opened(root, "test")
    assert scenes.scene(0).cloud.xyz[0, 0] == np.float32(0.001)
    assert scenes.digest != digest
    assert len(list(cache.glob("Area_5.*"))) == 2


def test_the_digest_is_of_the_content_and_not_of_times(root: Path, tmp_path: Path) -> None:
    digest = opened(root).digest
    copy = shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)
    assert opened(copy).digest == digest
    assert opened(root, label_map="s3dis14-reference").digest != digest


def test_a_stop_in_between_goes_on_where_it_was(root: Path, cache: Path) -> None:
    path = root / "Area_6/copyRoom_1/Annotations/wall_1.txt"
    path.write_text("1 2 3\n")  # stands for the stop: it comes after two rooms
    with pytest.raises(BadDataset, match=r"wall_1\.txt, line 1"):
        opened(root)
    kept = files_of(cache)
    assert len(kept) == 2
    path.unlink()
    opened(root)
    after = files_of(cache)
    assert len(after) == 3
    assert {name: after[name] for name in kept} == kept


def test_half_a_file_in_the_cache_is_made_anew(root: Path, cache: Path) -> None:
    wanted = opened(root, "test").scene(0)
    (path,) = cache.glob("*.npz")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert opened(root, "test").scene(0).labels.tolist() == wanted.labels.tolist()
    assert path.read_bytes() == whole
    spoilt = opened(root, "test")
    path.write_bytes(whole[:200] + b"\xff" * 8 + whole[208:])
    with pytest.raises(BadBody, match=r"^Area_5.hallway_1.*: the zip cannot be read: Bad CRC-32"):
        spoilt.scene(0)


def test_a_cache_that_cannot_be_written_says_what_to_do(root: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(BadDataset, match=r"a room cannot be prepared: (Not a directory|File exists); set FIP_CACHE"):
        opened(root)


def test_no_home_and_no_cache_says_what_to_do(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIP_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 987_654)  # somebody whom the system does not know
    with pytest.raises(BadDataset, match=r"no place to prepare rooms in: .*; set FIP_CACHE"):
        opened(root)


# fip data prepare


def test_prepared_rooms_are_the_same_scenes(root: Path, tmp_path: Path, cache: Path) -> None:
    target = tmp_path / "prepared"
    assert prepare_s3dis(root, target) == 4
    assert not cache.exists()
    assert opened(target).titles == opened(root).titles
    for split in ("train", "test"):
        assert opened(target, split).digest == opened(root, split).digest
    kept = files_of(target)
    assert prepare_s3dis(root, target) == 4
    assert files_of(target) == kept
    path = root / "Area_1/office_1/Annotations/chair_1.txt"
    path.write_text("1 2 3 4 5 6\n")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000))
    prepare_s3dis(root, target)
    assert {name for name, content in files_of(target).items() if kept[name] != content} == {"Area_1/office_1.npz"}
    assert opened(target, exclude=["Area_5/hallway_1", "Area_1/office_1"]).titles == ("Area_1/office_2", "Area_6/copyRoom_1")


def test_a_preparation_that_was_stopped_is_not_trained_on(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "prepared"
    (root / "Area_6/copyRoom_1/Annotations/wall_1.txt").write_text("1 2 3\n")
    with pytest.raises(BadDataset, match=r"wall_1\.txt, line 1"):
        prepare_s3dis(root, target)
    with pytest.raises(BadDataset, match=r"no labels\.yaml beside the prepared rooms: `fip data prepare s3dis` was stopped"):
        opened(target)


def test_what_is_no_prepared_room_is_refused(root: Path, tmp_path: Path) -> None:
    prepare_s3dis(root, tmp_path / "prepared")
    scenes = opened(tmp_path / "prepared")
    np.savez(tmp_path / "prepared/Area_1/office_1.npz", xyz=np.zeros((3, 3), np.float32), label=np.array([1, 2, 99], np.uint8))
    with pytest.raises(BadLabels, match=r"^Area_1/office_1\.npz: no labels from 0 to 13 in it"):
        scenes.scene(0)


def test_prepared_rooms_are_a_folder_of_labelled_clouds_too(root: Path, tmp_path: Path) -> None:
    prepare_s3dis(root, tmp_path / "prepared")
    by_hand = read_scenes("labelled", tmp_path / "prepared", "train")
    assert by_hand.label_map == load_label_map("s3dis13")
    titles = [title.removesuffix(".npz") for title in by_hand.titles]
    rooms = opened(root)
    shared = next(title for title in titles if title in rooms.titles)
    mine = by_hand.scene(titles.index(shared)).labels
    assert mine.tolist() == rooms.scene(list(rooms.titles).index(shared)).labels.tolist()
