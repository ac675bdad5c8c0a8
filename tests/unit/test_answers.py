"""Files that answer with a label for every point, read back by other means than ours; what stood in the cloud stays as it was."""

import dataclasses
import io
import json
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from plyfile import PlyData

from models.answers import ANSWERS, SAME, Labelled, check_answer, summary
from models.answers.ply_lines import COMMENT_BYTES
from models.errors import BadOption, FipError
from models.io import open_cloud, read_cloud
from models.io.ply_header import HEADER_BYTES
from models.io.records import BLOCK_ROWS
from models.labels import LabelClass, LabelMap, load_label_map
from models.pointcloud import PointCloud
from tests.in_memory import answered, cloud_of, encode, file_of, guessed, many_classes

N = 200
KITTI = load_label_map("semantickitti19")


def columns_of(data: bytes) -> np.ndarray:
    """The vertex rows of a PLY, as plyfile reads them."""
    return PlyData.read(io.BytesIO(data))["vertex"].data


def same_bits(found: np.ndarray | None, expected: np.ndarray | None) -> None:
    if found is None or expected is None:
        assert found is expected
        return
    assert found.dtype == expected.dtype
    assert found.tobytes() == np.ascontiguousarray(expected).tobytes()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int64])
def test_label_file(kind):
    labels, sure = guessed()
    found = np.frombuffer(encode("label", cloud_of(), labels.astype(kind), sure, KITTI), "<u4")
    assert found.tolist() == [KITTI.classes[label].ids[0] for label in labels]
    np.testing.assert_array_equal(KITTI.classes_of(found), labels)


@pytest.mark.data
def test_label_file_of_a_whole_scan(data_dir):
    """What is written for the published labels is their own file, but for instances, ignored ids and what is merged."""
    scan = data_dir / "semantickitti" / "sequences" / "08"
    cloud = read_cloud(scan / "velodyne" / "000000.bin")
    published = np.fromfile(scan / "labels" / "000000.label", "<u4") & 0xFFFF
    classes = KITTI.classes_of(published)
    known = np.flatnonzero(classes >= 0)
    data = encode("label", cloud.take(known), classes[known], np.ones(len(known), np.float32), KITTI)
    written = np.frombuffer(data, "<u4")
    merged = ~np.isin(published[known], KITTI.written)
    np.testing.assert_array_equal(written[~merged], published[known][~merged])
    np.testing.assert_array_equal(KITTI.classes_of(written), classes[known])


@pytest.mark.parametrize(("classes", "kind"), [(19, np.uint8), (256, np.uint8), (257, np.uint16)])
def test_npz(classes, kind):
    label_map, (labels, sure) = many_classes(classes), guessed(classes=classes)
    data = encode("npz", cloud_of(), labels, sure, label_map)
    with np.load(io.BytesIO(data), allow_pickle=False) as found:
        assert sorted(found.files) == ["confidence", "ids", "labels", "names"]
        same_bits(found["labels"], labels.astype(kind))
        same_bits(found["ids"], labels.astype(np.uint32) + 1000)
        same_bits(found["confidence"], sure)
        assert found["names"][found["labels"]].tolist() == [f"class {label}" for label in labels]
    assert data == encode("npz", cloud_of(), labels.astype(np.int64), sure, label_map)


@pytest.mark.parametrize(("classes", "kind"), [(19, "<u1"), (256, "<u1"), (257, "<u2")])
def test_raw_is_as_documented(classes, kind):
    labels, sure = guessed(classes=classes)
    data = encode("raw", cloud_of(), labels, sure, many_classes(classes))
    size = N * np.dtype(kind).itemsize
    assert len(data) == size + 2 * N
    np.testing.assert_array_equal(np.frombuffer(data[:size], kind), labels)
    rounded = np.frombuffer(data[size:], "<f2")
    assert np.abs(rounded.astype(np.float64) - sure).max() <= 2.5e-4


@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize(("classes", "label_kind"), [(19, "u1"), (300, "<u2")])
def test_ply_holds_the_cloud_and_the_answer(kind, classes, label_kind):
    ring = np.arange(N, dtype=np.int32)
    cloud, label_map = cloud_of(kind=kind, ring=ring), many_classes(classes)
    labels, sure = guessed(classes=classes)
    rows = columns_of(encode("ply", cloud, labels, sure, label_map))
    added = ("label", "confidence", "label_red", "label_green", "label_blue")
    assert rows.dtype.names == ("x", "y", "z", "red", "green", "blue", "intensity", "ring", *added)
    for i, axis in enumerate("xyz"):
        same_bits(rows[axis], cloud.xyz[:, i])
    assert cloud.rgb is not None
    for i, colour in enumerate(("red", "green", "blue")):
        same_bits(rows[colour], cloud.rgb[:, i])
        same_bits(rows[f"label_{colour}"], label_map.colours[labels, i])
    same_bits(rows["intensity"], cloud.intensity)
    same_bits(rows["ring"], ring)
    same_bits(rows["label"], labels.astype(label_kind))
    same_bits(rows["confidence"], sure)


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_ply_of_more_points_than_are_written_at_a_time(extra):
    n = 2 * BLOCK_ROWS + extra
    cloud, (labels, sure) = cloud_of(n), guessed(n)
    rows = columns_of(encode("ply", cloud, labels, sure, KITTI))
    same_bits(np.stack([rows[axis] for axis in "xyz"], axis=1), cloud.xyz)
    same_bits(rows["confidence"], sure)


def test_ply_of_bare_coordinates():
    labels, sure = guessed()
    rows = columns_of(encode("ply", PointCloud(cloud_of().xyz), labels, sure, KITTI))
    assert rows.dtype.names == ("x", "y", "z", "label", "confidence", "label_red", "label_green", "label_blue")


NAMES = st.text(st.characters(max_codepoint=0xFF, exclude_categories=["Cc", "Zs"]), min_size=1, max_size=5)
MEANT = ("x", "y", "z", "r", "g", "b", "red", "green", "blue", "intensity", "reflectance", "remission")
KINDS = st.sampled_from(["i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8"])


@st.composite
def clouds(draw: st.DrawFn) -> PointCloud:
    """Any bits in any column that our readers hand out, among them NaN and names that the answer wants for itself."""
    n = draw(st.integers(1, 5))

    def column(kind: str, shape: tuple[int, ...] = (n,)) -> np.ndarray:
        dtype = np.dtype(kind)
        return draw(hnp.arrays(np.uint8, (*shape, dtype.itemsize))).view(dtype)[..., 0]

    usual = st.sampled_from(["label", "Label", "confidence", "fip_label", "label_red", "nx"])
    names = draw(st.lists(NAMES | usual, unique=True, max_size=6).map(lambda found: [name for name in found if name.lower() not in MEANT]))
    extra = {name: column(draw(KINDS)) for name in names}
    rgb = column("u1", (n, 3)) if draw(st.booleans()) else None
    intensity = column("f4") if draw(st.booleans()) else None
    return PointCloud(column(draw(st.sampled_from(["f4", "f8"])), (n, 3)), rgb, intensity, MappingProxyType(extra))


@given(clouds(), st.data())
def test_what_stood_in_the_cloud_is_read_back_to_the_bit(tmp_path_factory, cloud, data):
    labels = data.draw(hnp.arrays(np.uint8, len(cloud), elements=st.integers(0, 18)))
    sure = np.linspace(0, 1, len(cloud), dtype=np.float32)
    path = tmp_path_factory.mktemp("answers") / "cloud.ply"
    path.write_bytes(encode("ply", cloud, labels, sure, KITTI))
    found = read_cloud(path)
    same_bits(found.xyz, cloud.xyz)
    same_bits(found.rgb, cloud.rgb)
    same_bits(found.intensity, cloud.intensity)
    assert list(found.extra)[: len(cloud.extra)] == list(cloud.extra)
    for name, column in cloud.extra.items():
        same_bits(found.extra[name], column)
    label, confidence, *colours = list(found.extra)[len(cloud.extra) :]
    same_bits(found.extra[label], labels)
    same_bits(found.extra[confidence], sure)
    same_bits(np.stack([found.extra[name] for name in colours], axis=1), KITTI.colours[labels])
    taken = {name.lower() for name in cloud.extra}
    assert (label == "label") == ("label" not in taken)
    assert label.endswith("label")
    assert confidence.removeprefix("fip_") == "confidence"


@pytest.mark.data
def test_real_clouds_come_back_to_the_bit(data_dir, tmp_path):
    paths = sorted((data_dir / "ply-zoo").glob("*.ply")) + sorted((data_dir / "semantickitti").glob("sequences/*/velodyne/*.bin"))
    paths += [*sorted((data_dir / "lidar_camera").glob("*.bin")), data_dir / "rgbd" / "redwood_frag_115.ply"]
    answered = 0
    for path in paths:
        try:
            cloud = read_cloud(path)
        except FipError:
            continue  # files that are no clouds are for the reader tests
        labels, sure = guessed(len(cloud))
        (tmp_path / "answer.ply").write_bytes(encode("ply", cloud, labels, sure, KITTI))
        found = read_cloud(tmp_path / "answer.ply")
        same_bits(found.xyz, cloud.xyz)
        same_bits(found.rgb, cloud.rgb)
        same_bits(found.intensity, cloud.intensity)
        for name, column in cloud.extra.items():
            same_bits(found.extra[name], column)
        same_bits(found.extra["label"], labels.astype(np.uint8))
        answered += 1
    assert answered >= 40


def test_names_that_are_taken_get_a_prefix_each():
    taken = {name: np.full(N, i, np.int16) for i, name in enumerate(("label", "fip_label", "Confidence", "label_green"))}
    labels, sure = guessed()
    rows = columns_of(encode("ply", cloud_of(**taken), labels, sure, KITTI))
    assert (rows.dtype.names or ())[-5:] == ("fip_fip_label", "fip_confidence", "label_red", "fip_label_green", "label_blue")
    for name, column in taken.items():
        same_bits(rows[name], column)
    np.testing.assert_array_equal(rows["fip_fip_label"], labels)


def test_an_answer_can_be_answered_again(save):
    labels, sure = guessed()
    data = encode("ply", cloud_of(), labels, sure, KITTI)
    again = encode("ply", read_cloud(save("a.ply", data)), labels[::-1], sure, KITTI)
    rows = columns_of(again)
    np.testing.assert_array_equal(rows["label"], labels)
    np.testing.assert_array_equal(rows["fip_label"], labels[::-1])


def test_names_that_a_header_cannot_hold():
    """Of an npz, say: there a name may be anything."""
    names = ["two words", "two\twords", "высота", "größe", "\t", "red", "X", "line\nend_header", "\x00"]
    cloud = cloud_of(**{name: np.full(N, i, np.float32) for i, name in enumerate(names)})
    data = answered("ply", file_of(cloud, ("r", "g", "b")), *guessed(), KITTI)
    header = data[: data.index(b"\nend_header\n")].decode("latin-1")
    written = [line.split()[2] for line in header.splitlines() if line.startswith("property")]
    assert written[:7] == ["x", "y", "z", "red", "green", "blue", "intensity"]
    assert written[7:-5] == ["two_words", "two_words_2", "______", "größe", "_", "red_2", "X", "line_end_header", "__2"]


def test_what_names_become_is_read_back(save):
    extra = {name: np.full(N, i, np.float32) for i, name in enumerate(("a b", "a_b", "red", "é"))}
    found = read_cloud(save("a.ply", answered("ply", file_of(cloud_of(**extra), ("r", "g", "b")), *guessed(), KITTI)))
    assert [found.extra[name][0] for name in ("a_b", "a_b_2", "red_2", "é")] == [0, 1, 2, 3]
    same_bits(found.xyz, cloud_of().xyz)
    same_bits(found.rgb, cloud_of().rgb)


@pytest.mark.parametrize("count", [244, 245])
def test_the_widest_ply_is_read_again_and_a_wider_one_refused(save, count):
    cloud = cloud_of(**{f"c{i}": np.zeros(N, np.uint8) for i in range(count)})
    if count == 245:
        with pytest.raises(BadOption, match="257 columns, and PLY answers hold 256"):
            encode("ply", cloud, *guessed(), KITTI)
        return
    assert len(read_cloud(save("a.ply", encode("ply", cloud, *guessed(), KITTI))).extra) == count + 5


@pytest.mark.parametrize("length", [60, 300])
def test_comments_give_way_to_names_and_too_many_letters_are_refused(save, length):
    cloud = cloud_of(**{f"{i:03}" + "x" * length: np.zeros(N, np.uint8) for i in range(230)})
    if length == 300:
        with pytest.raises(BadOption, match="the header has more than 64 kB"):
            encode("ply", cloud, *guessed(), many_classes(5000))
        return
    data = encode("ply", cloud, *guessed(), many_classes(5000))
    assert b" more classes\n" in data
    assert len(read_cloud(save("a.ply", data)).extra) == 235


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (np.arange(N) % 2 == 0, "u1"),
        (np.linspace(-1, 1, N).astype(np.float16), "f4"),
        (np.arange(N, dtype=np.int64) - (1 << 53), "f8"),
        (np.arange(N, dtype=np.uint64) + (1 << 50), "f8"),
        (np.arange(N, dtype=">i4") * 1000, "i4"),
    ],
)
def test_types_that_ply_lacks_are_widened_without_loss(column, kind):
    labels, sure = guessed()
    rows = columns_of(encode("ply", cloud_of(time=column), labels, sure, KITTI))
    assert rows["time"].dtype == np.dtype(f"<{kind}")
    assert rows["time"].astype(column.dtype).tolist() == column.tolist()


@pytest.mark.parametrize(
    "column",
    [
        np.full(N, (1 << 53) + 1, np.int64),
        np.full(N, -(1 << 62), np.int64),
        np.full(N, (1 << 64) - 1, np.uint64),
        np.zeros(N, np.complex64),
        np.full(N, "text"),
    ],
)
def test_a_column_that_ply_cannot_hold_is_named(column):
    labels, sure = guessed()
    with pytest.raises(BadOption, match="cannot hold the column 'gps_time'") as caught:
        encode("ply", cloud_of(gps_time=column), labels, sure, KITTI)
    assert caught.value.where == "format"
    for other in ("label", "npz", "raw"):
        assert encode(other, cloud_of(gps_time=column), labels, sure, KITTI)


def test_comments_list_the_classes():
    labels, sure = guessed()
    comments = PlyData.read(io.BytesIO(encode("ply", cloud_of(), labels, sure, KITTI))).comments
    assert comments == [f"label {i}: {each.name} (id {each.ids[0]})" for i, each in enumerate(KITTI.classes)]
    odd = LabelMap(classes=(LabelClass(name="Bäume\nend_header", colour=(0, 0, 0), ids=(1,)),))
    rows = PlyData.read(io.BytesIO(encode("ply", cloud_of(label=labels), np.zeros(N, int), sure, odd)))
    assert rows.comments == [r"fip_label 0: B\xe4ume\nend_header (id 1)"]


def test_thousands_of_classes_do_not_fill_the_header(save):
    labels, sure = guessed(classes=5000)
    data = encode("ply", cloud_of(), labels, sure, many_classes(5000))
    assert data.index(b"end_header") < COMMENT_BYTES + 1000 < HEADER_BYTES
    comments = PlyData.read(io.BytesIO(data)).comments
    assert comments[-1] == f"{5000 - len(comments) + 1} more classes"
    np.testing.assert_array_equal(read_cloud(save("a.ply", data)).extra["label"], labels)


@given(
    st.integers(1, 40),
    st.integers(1, 30),
    st.sampled_from([np.uint8, np.uint16, np.int64]),
    st.sampled_from(["f4", "f8"]),
    st.integers(0, 1 << 30),
)
def test_summary_of_every_class(n, classes, kind, xyz_kind, seed):
    rng = np.random.default_rng(seed)
    xyz, labels, sure = rng.normal(size=(n, 3)).astype(xyz_kind), rng.integers(0, classes, n).astype(kind), rng.random(n, np.float32)
    label_map = many_classes(classes)
    found = summary(xyz, labels, sure, label_map)
    assert [each.index for each in found] == sorted(set(labels.tolist()))
    assert sum(each.points for each in found) == n
    assert sum(each.share for each in found) == pytest.approx(1)
    for each in found:
        rows = labels == each.index
        described = label_map.classes[each.index]
        assert (each.name, each.id, each.colour) == (described.name, described.ids[0], described.colour)
        assert (each.points, each.share) == (rows.sum(), rows.sum() / n)
        assert each.bounds.min == tuple(xyz[rows].min(axis=0))
        assert each.bounds.max == tuple(xyz[rows].max(axis=0))
        assert each.confidence == pytest.approx(sure[rows].astype(np.float64).mean())
    plain = json.loads(json.dumps([dataclasses.asdict(each) for each in found], allow_nan=False))
    assert plain[0]["bounds"]["min"] == list(found[0].bounds.min)


def test_no_points():
    empty = PointCloud(np.empty((0, 3), np.float32), extra={"t": np.empty(0, np.int64)})
    labels, sure = np.empty(0, np.uint16), np.empty(0, np.float32)
    assert summary(empty.xyz, labels, sure, KITTI) == ()
    assert [len(encode(name, empty, labels, sure, KITTI)) for name in ("label", "raw")] == [0, 0]
    assert b"element vertex 0\n" in encode("ply", empty, labels, sure, KITTI)


def test_an_unknown_format_lists_the_known_ones():
    labels, sure = guessed()
    with pytest.raises(BadOption, match="did you mean 'label'") as caught:
        encode("labels", cloud_of(), labels, sure, KITTI)
    assert caught.value.known == (*ANSWERS, SAME)


@pytest.mark.parametrize("name", ["same", "npy"])
def test_a_refusal_lists_the_formats_that_can_hold_the_answer(tmp_path, name):
    path = tmp_path / "mesh.off"
    path.write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    with open_cloud(path) as file:
        with pytest.raises(BadOption, match="ask for") as caught:
            check_answer(name, file, KITTI)
        assert caught.value.known == tuple(each for each in ANSWERS if each != "npy")
        for each in caught.value.known:
            assert answered(each, file, *guessed(file.records.count), KITTI)
        many = many_classes(300)
        with pytest.raises(BadOption) as caught:
            check_answer(name, file, many)
        assert not {"las", "laz", "lidarseg", "npy"} & set(caught.value.known)
        assert "label" in caught.value.known


@pytest.mark.parametrize(
    ("labels", "sure", "message"),
    [
        (np.zeros(N - 1, int), np.zeros(N, np.float32), "labels must be"),
        (np.zeros(N), np.zeros(N, np.float32), "labels must be"),
        (np.zeros(N, bool), np.zeros(N, np.float32), "labels must be"),
        (np.full(N, 19), np.zeros(N, np.float32), r"0\.\.18"),
        (np.full(N, -1), np.zeros(N, np.float32), r"0\.\.18"),
        (np.zeros(N, int), np.zeros(N), "confidence must be"),
        (np.zeros(N, int), np.zeros((N, 1), np.float32), "confidence must be"),
    ],
)
def test_answers_that_do_not_fit_the_cloud(labels, sure, message):
    with pytest.raises(ValueError, match=message):
        Labelled(file_of(cloud_of()), cloud_of(), labels, sure, KITTI)
