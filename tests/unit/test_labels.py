"""Label maps: the bundled ones against what their data sets publish, and a user's own."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import BadLabels
from models.labels import IGNORE, LabelClass, LabelMap, bundled_label_maps, load_label_map, read_label_map

SIZES = {
    "modelnet40": 40,
    "nuscenes16": 16,
    "s3dis13": 13,
    "s3dis14-reference": 14,
    "scannet20": 20,
    "semantickitti19": 19,
    "semantickitti19-reference": 19,
}
KITTI_BGR = """
10 245 150 100   11 245 230 100   15 150 60 30    18 180 30 80    20 255 0 0      30 30 30 255    31 200 40 255
32 90 30 150     40 255 0 255     44 255 150 255  48 75 0 75      49 75 0 175     50 0 200 255    51 50 120 255
70 0 175 0       71 0 60 135      72 80 240 150   80 150 240 255  81 0 0 255
"""  # color_map of semantic-kitti.yaml: id, blue, green, red
NUSCENES = """
noise animal human.pedestrian.adult human.pedestrian.child human.pedestrian.construction_worker human.pedestrian.personal_mobility
human.pedestrian.police_officer human.pedestrian.stroller human.pedestrian.wheelchair movable_object.barrier movable_object.debris
movable_object.pushable_pullable movable_object.trafficcone static_object.bicycle_rack vehicle.bicycle vehicle.bus.bendy
vehicle.bus.rigid vehicle.car vehicle.construction vehicle.emergency.ambulance vehicle.emergency.police vehicle.motorcycle
vehicle.trailer vehicle.truck flat.driveable_surface flat.other flat.sidewalk flat.terrain static.manmade static.other
static.vegetation vehicle.ego
"""  # category.json of lidarseg, by index
OWN = """
classes:
  - {name: road, colour: [255, 0, 255], ids: [40, 60]}
  - {name: tree, colour: [0, 175, 0], ids: [70]}
ignore: [0, 1]
"""


def ids_to_classes(label_map: LabelMap) -> dict[int, int]:
    found = {number: index for index, each in enumerate(label_map.classes) for number in each.ids}
    return found | dict.fromkeys(label_map.ignore, IGNORE)


def test_the_bundled_maps_are_those():
    assert {name: len(load_label_map(name)) for name in bundled_label_maps()} == SIZES


@pytest.mark.parametrize("name", SIZES)
def test_bundled(name):
    label_map = load_label_map(name)
    assert len(set(map(tuple, label_map.colours.tolist()))) == len(label_map)
    np.testing.assert_array_equal(label_map.classes_of(label_map.ids_of(np.arange(len(label_map)))), np.arange(len(label_map)))
    table = ids_to_classes(label_map)
    np.testing.assert_array_equal(label_map.classes_of(np.array(list(table))), list(table.values()))
    assert LabelMap.model_validate_json(label_map.model_dump_json()) == label_map  # as a manifest holds it


@pytest.mark.data
def test_semantickitti_is_the_official_map(data_dir):
    official = json.loads((data_dir / "semantickitti" / "label_map.json").read_text())
    label_map = load_label_map("semantickitti19")
    assert list(label_map.names) == official["train_class_names"][1:]
    learning_map = {int(raw): train - 1 if train else IGNORE for raw, train in official["learning_map"].items()}
    assert ids_to_classes(label_map) == learning_map
    named = [official["raw_label_names"][str(number)] for number in label_map.written]
    assert named == list(label_map.names)  # learning_map_inv goes to the raw class of the same name


@pytest.mark.data
def test_semantickitti_reads_whole_scans(data_dir):
    for path in sorted((data_dir / "semantickitti" / "sequences").glob("*/labels/*.label")):
        raw = np.fromfile(path, "<u4") & 0xFFFF
        for name in ("semantickitti19", "semantickitti19-reference"):
            label_map = load_label_map(name)
            table = ids_to_classes(label_map)
            np.testing.assert_array_equal(label_map.classes_of(raw), np.vectorize(table.__getitem__)(raw))


def test_semantickitti_is_written_and_coloured_as_published():
    published = np.array(KITTI_BGR.split(), int).reshape(-1, 4)
    for name in ("semantickitti19", "semantickitti19-reference"):
        label_map = load_label_map(name)
        np.testing.assert_array_equal(label_map.written, published[:, 0])
        np.testing.assert_array_equal(label_map.colours, published[:, :0:-1])


def test_the_reference_reads_semantickitti_otherwise_in_five_ids():
    ours, theirs = load_label_map("semantickitti19"), load_label_map("semantickitti19-reference")
    assert ours.names == theirs.names
    official, reference = ids_to_classes(ours), ids_to_classes(theirs)
    assert official.keys() == reference.keys()
    differing = {number: (ours.names[official[number]], reference[number]) for number in official if official[number] != reference[number]}
    vehicles = dict.fromkeys((13, 16, 256, 257), ("other-vehicle", IGNORE))  # bus, on rails; moving: on rails, bus
    assert differing == {**vehicles, 60: ("road", IGNORE)}  # lane marking


def test_nuscenes_has_the_classes_of_the_challenge():
    label_map, raw = load_label_map("nuscenes16"), NUSCENES.split()
    fine = {number: label_map.names[index] for number, index in ids_to_classes(label_map).items() if index != IGNORE}
    people = dict.fromkeys(("adult", "child", "construction_worker", "police_officer"), "pedestrian")
    things = {"barrier": "barrier", "trafficcone": "traffic_cone", "bendy": "bus", "rigid": "bus", "construction": "construction_vehicle"}
    things |= {name: name for name in ("bicycle", "car", "motorcycle", "trailer", "truck")}
    ground = {"driveable_surface": "driveable_surface", "other": "other_flat", "sidewalk": "sidewalk", "terrain": "terrain"}
    expected = {
        **{f"human.pedestrian.{name}": label for name, label in people.items()},
        **{name: things[name.split(".")[-1]] for name in raw if name.startswith("vehicle.") and name.split(".")[-1] in things},
        **{f"movable_object.{name}": things[name] for name in ("barrier", "trafficcone")},
        **{f"flat.{name}": label for name, label in ground.items()},
        **{f"static.{name}": name for name in ("manmade", "vegetation")},
    }
    assert {raw[number]: label for number, label in fine.items()} == expected
    assert sorted([*fine, *label_map.ignore]) == list(range(32))
    challenge = "barrier bicycle bus car construction_vehicle motorcycle pedestrian traffic_cone trailer truck driveable_surface other_flat"
    assert label_map.names == (*challenge.split(), "sidewalk", "terrain", "manmade", "vegetation")


def test_scannet_knows_every_id_of_nyu40():
    label_map = load_label_map("scannet20")
    assert sorted(ids_to_classes(label_map)) == list(range(41))
    assert label_map.written.tolist() == [*range(1, 13), 14, 16, 24, 28, 33, 34, 36, 39]
    assert (label_map.names[0], label_map.names[15], label_map.names[19]) == ("wall", "shower curtain", "otherfurniture")


@pytest.mark.data
def test_scannet_reads_published_labels(data_dir):
    paths = sorted((data_dir / "tiny_fixtures" / "scannet" / "semantic_mask").glob("*.bin"))
    assert paths
    for path in paths:
        ids = np.fromfile(path, "<i8")
        classes = load_label_map("scannet20").classes_of(ids)
        assert (classes != IGNORE).any()
        known = classes != IGNORE
        np.testing.assert_array_equal(load_label_map("scannet20").ids_of(classes[known]), ids[known])


def test_s3dis_stairs():
    usual, reference = load_label_map("s3dis13"), load_label_map("s3dis14-reference")
    assert set(reference.names) == {*usual.names, "stairs"}
    assert usual.names[usual.classes_of(np.array([13]))[0]] == "clutter"
    assert reference.names[10] == "stairs"
    assert reference.ignore == ()
    assert np.flatnonzero(~reference.scored).tolist() == [10]
    assert usual.scored.all()
    assert reference.written.tolist() == list(range(14))
    colours = dict(zip(usual.names, usual.colours.tolist(), strict=True))
    assert [colours.get(name) for name in reference.names if name != "stairs"] == np.delete(reference.colours, 10, axis=0).tolist()


@pytest.mark.data
def test_s3dis_and_modelnet_have_the_published_order(data_dir):
    room = np.load(data_dir / "s3dis" / "room_labelled_xyz.npz")
    assert load_label_map("s3dis13").names == tuple(room["class_names"])
    shapes = np.load(data_dir / "modelnet40" / "modelnet40_test.npz")
    assert load_label_map("modelnet40").names == tuple(shapes["class_names"])


def test_modelnet_colours_can_be_told_apart():
    colours = load_label_map("modelnet40").colours.astype(int)
    distances = np.abs(colours[:, None] - colours).sum(axis=2) + 1000 * np.eye(40, dtype=int)
    assert distances.min() >= 60


maps = st.builds(
    lambda groups, ignore: LabelMap(
        classes=tuple(LabelClass(name=f"c{i}", colour=(0, 0, i), ids=tuple(ids)) for i, ids in enumerate(groups)), ignore=tuple(ignore)
    ),
    st.lists(st.integers(0, 9), min_size=1, max_size=8).map(lambda cuts: [[100 * i + j for j in range(n + 1)] for i, n in enumerate(cuts)]),
    st.lists(st.integers((1 << 16) - 9, (1 << 16) - 1), unique=True),
)


@given(maps, st.data())
def test_ids_to_classes_and_back(label_map, data):
    table = ids_to_classes(label_map)
    ids = np.array(data.draw(st.lists(st.sampled_from(sorted(table)))), np.uint32)
    classes = label_map.classes_of(ids)
    assert classes.tolist() == [table[number] for number in ids.tolist()]
    answered = classes[classes != IGNORE]
    np.testing.assert_array_equal(label_map.classes_of(label_map.ids_of(answered)), answered)


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int32, np.int64, np.uint64])
def test_ids_of_any_integer_type(save, kind):
    label_map = read_label_map(save("labels.yaml", OWN.encode()))
    assert label_map.classes_of(np.array([[40, 0], [70, 60]], kind)).tolist() == [[0, IGNORE], [1, 0]]
    with pytest.raises(BadLabels, match=r"id 71: .* neither"):
        label_map.classes_of(np.array([40, 72, 71], kind))


def test_an_id_below_and_above_all_known_ones(save):
    label_map = read_label_map(save("labels.yaml", OWN.encode()))
    for number in (-1, 1 << 40):
        with pytest.raises(BadLabels) as caught:
            label_map.classes_of(np.array([40, number]))
        assert caught.value.where == f"id {number}"


def test_points_without_a_class_have_no_id():
    label_map = load_label_map("semantickitti19")
    with pytest.raises(ValueError, match="no class -1"):
        label_map.ids_of(np.array([3, IGNORE]))
    with pytest.raises(IndexError):
        label_map.ids_of(np.array([19]))


def test_the_arrays_of_a_map_cannot_be_changed():
    label_map = load_label_map("s3dis13")
    for array in (label_map.colours, label_map.written):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(BadLabels, match="did you mean 'semantickitti19'") as caught:
        load_label_map("semantickiti19")
    assert caught.value.known == tuple(sorted(SIZES))
    with pytest.raises(BadLabels):
        load_label_map("../label_maps/s3dis13")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: [", r"labels.yaml, line 1: not YAML"),
        (OWN.replace("ignore:", "ignore"), r"labels.yaml, line \d: not YAML"),
        ("", r"labels.yaml: is empty"),
        ("- 1", r"labels.yaml: Input should be"),
        ("2024-13-01", "not YAML: month"),
        ("[" * 2000, "not YAML"),
        ("\0", "not YAML"),
        ("classes: []", "classes: Tuple should have at least 1"),
        (OWN.replace("tree", "road"), "the name 'road' is there twice"),
        (OWN.replace("[70]", "[60]"), "the id 60 is there twice"),
        (OWN.replace("ignore: [0", "ignore: [70"), "the id 70 is there twice"),
        (OWN.replace("255]", "256]"), r"classes\.0\.colour\.2"),
        (OWN.replace("[70]", "[-1]"), r"classes\.1\.ids\.0"),
        (OWN.replace("[70]", "[]"), r"classes\.1\.ids"),
        (OWN.replace("colour", "color"), r"classes\.0\.colour"),
        (OWN.replace("road", "''"), r"classes\.0\.name"),
    ],
)
def test_a_map_that_cannot_be_used(save, text, message):
    with pytest.raises(BadLabels, match=message):
        read_label_map(save("labels.yaml", text.encode()))


def test_a_file_that_cannot_be_read(save, tmp_path):
    with pytest.raises(BadLabels, match="cannot be read: No such file") as caught:
        read_label_map(tmp_path / "labels.yaml")
    assert caught.value.where == str(tmp_path / "labels.yaml")
    with pytest.raises(BadLabels, match="not YAML"):
        read_label_map(save("labels.yaml", b"\xff\xfe\x00"))
