"""Labelled PCD, read back by pypcd4 and value by value: what stood in the file stays as it was, to the bit."""

from pathlib import Path
from types import MappingProxyType

import lzf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pypcd4.pypcd4 import Encoding
from pypcd4.pypcd4 import PointCloud as Oracle

from models.answers import check_answer
from models.errors import BadOption
from models.io import open_cloud, read_cloud
from models.io.pcd_header import HEADER_BYTES
from models.io.records import BLOCK_ROWS
from models.labels import LabelClass, LabelMap, load_label_map
from models.pointcloud import PointCloud
from tests.in_memory import answer_to, answered, file_of, guessed
from tests.pcd_files import COLOURS, KINDS, NUMBERS, Fields, body_of, cube, header_of, names_of, pcd, random_values, table_of

KITTI = load_label_map("semantickitti19")
ADDED = ("label", "confidence", "label_red", "label_green", "label_blue")


def many_classes(count: int) -> LabelMap:
    classes = (LabelClass(name=f"class {i}", colour=(i % 256, i // 256 % 256, 7), ids=(i + 1000,)) for i in range(count))
    return LabelMap(classes=tuple(classes))


def rich(n: int = 8) -> Fields:
    """Fields of every type, padding, a packed colour, several values, and a name that an answer would take."""
    return [
        *((axis, "f4", random_values("f4", n, i)) for i, axis in enumerate("xyz")),
        ("_", "u1", np.full((n, 4), 7)),
        ("rgb", "f4", np.resize(COLOURS, n).view("f4")),
        ("histogram", "f4", random_values("f4", (n, 3))),
        *((f"c_{code}", code, random_values(code, n)) for code in NUMBERS),
        ("_", "u1", np.full(n, 9)),
        ("Label", "u2", np.arange(n) % 1000),
    ]


def labelled(save, data: bytes, label_map: LabelMap = KITTI) -> tuple[bytes, np.ndarray, np.ndarray]:
    return answer_to(save("cloud.pcd", data), "same", label_map)


def header_lines(data: bytes) -> dict[str, str]:
    """The lines of a header by their first words; comments under their whole text."""
    text = data[: data.index(b"\n", data.index(b"\nDATA ") + 1)].decode()
    return {line if line.startswith("#") else line.split()[0]: line.partition(" ")[2].strip() for line in text.splitlines() if line.strip()}


def check_added(rows: np.ndarray, names: tuple[str, ...], labels: np.ndarray, sure: np.ndarray, label_map: LabelMap = KITTI) -> None:
    assert names_of(rows)[-5:] == names
    np.testing.assert_array_equal(rows[names[0]], labels)
    six = np.array([f"{each:.6f}" for each in sure], np.float32)  # as text has them
    assert rows[names[1]].astype("f4").tobytes() in (sure.tobytes(), six.tobytes())
    for channel, name in enumerate(names[2:]):
        np.testing.assert_array_equal(rows[name], label_map.colours[labels, channel])


# --- a PCD file comes back


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 8, 300])
def test_every_column_stays_to_the_bit(save, kind, n):
    data = pcd(rich(n), kind)
    before = table_of(save("before.pcd", data))
    answer, labels, sure = labelled(save, data)
    rows = table_of(save("answer.pcd", answer))
    assert names_of(rows)[:-5] == names_of(before)
    for name in names_of(before):
        assert rows.dtype[name] == before.dtype[name]
        assert rows[name].tobytes() == before[name].tobytes(), name
    check_added(rows, ("fip_label", *ADDED[1:]), labels, sure)


@pytest.mark.parametrize("kind", KINDS)
def test_all_other_lines_of_the_header_stay(save, kind):
    data = pcd(rich(), kind, VERSION=".7", WIDTH="4", HEIGHT="2", VIEWPOINT="1.50 2 3e0 1 0 0 0").replace(
        b"WIDTH", b"# by hand\nMADE by me\nWIDTH"
    )
    answer, *_ = labelled(save, data)
    old, new = header_lines(data), header_lines(answer)
    for key, text in old.items():
        if key in ("FIELDS", "SIZE", "TYPE", "COUNT"):
            assert new[key].startswith(text + " ")
        else:
            assert new[key] == text
    assert new["FIELDS"].split()[-5:] == ["fip_label", *ADDED[1:]]
    assert [new[key].split()[-5:] for key in ("SIZE", "TYPE", "COUNT")] == [list("14111"), list("UFUUU"), list("11111")]
    comments = [key for key in new if key not in old]
    assert comments == [f"# fip_label {i}: {each.name} (id {each.ids[0]})" for i, each in enumerate(KITTI.classes)]


def test_rows_of_a_binary_file_keep_their_bytes_and_their_padding(save):
    data = pcd(rich(300)) + b"more \0\xff"
    answer, *_ = labelled(save, data)
    old = np.frombuffer(body_of(rich(300), "binary"), np.uint8).reshape(300, -1)
    assert answer.endswith(b"more \0\xff")
    new = np.frombuffer(answer[-7 - 300 * (old.shape[1] + 8) : -7], np.uint8).reshape(300, -1)
    np.testing.assert_array_equal(new[:, :-8], old)


@pytest.mark.parametrize("bare", [False, True])
def test_the_compressed_bytes_stay(save, bare):
    """What the file has compressed is found again, and another LZF decoder call takes the whole in one."""
    body = body_of(rich(300), "binary_compressed", bare)
    answer, labels, sure = labelled(save, header_of(rich(300), "binary_compressed", 300) + body + b"more")
    start = answer.index(b"binary_compressed\n") + 18
    packed, plain = np.frombuffer(answer[start : start + 8], "<u4").tolist()
    assert answer[start + 8 :].startswith(body[8:])
    assert answer[start + 8 + packed :] == b"more"
    values = lzf.decompress(answer[start + 8 : start + 8 + packed], plain)
    added = [labels.astype("u1"), sure, *KITTI.colours[labels].T]
    assert values == lzf.decompress(body[8:], 1 << 20) + b"".join(column.tobytes() for column in added)
    check_added(table_of(save("answer.pcd", answer)), ("fip_label", *ADDED[1:]), labels, sure)


def test_lines_of_text_stay_as_they_are(save):
    lines = [b"1.0 2.50 3e0", b"  -0 +1\t.5  ", b"", b" \t", b"nan NaN 1e-3\r", b"1 2 3"]
    data = header_of(cube(), "ascii", 4).replace(b"TYPE", b"  TYPE") + b"\n".join(lines) + b"\n\nno point\n"
    answer, labels, sure = labelled(save, data)
    new = answer[answer.index(b"ascii\n") + 6 :].split(b"\n")
    added = [b" %d %.6f %d %d %d" % (label, each, *KITTI.colours[label]) for label, each in zip(labels, sure, strict=True)]
    expected = [
        lines[0] + added[0],
        b"  -0 +1\t.5" + added[1] + b"  ",
        b"",
        b" \t",
        b"nan NaN 1e-3" + added[2] + b"\r",
        b"1 2 3" + added[3],
    ]
    assert new == [*expected, b"", b"no point", b""]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_the_last_line_may_lack_its_end(save, end):
    data = (header_of(cube(), "ascii", 2) + b"1 2 3\n4 5 6").replace(b"\n", end)
    answer, labels, sure = labelled(save, data)
    rows = table_of(save("answer.pcd", answer))
    np.testing.assert_array_equal(rows["z"], [3, 6])
    check_added(rows, ADDED, labels, sure)
    assert answer.count(b"\n") == answer.count(end)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "lines", [{"COUNT": ""}, {"SIZE": "", "TYPE": "", "COUNT": ""}, {"SIZE": ""}, {"POINTS": "", "VIEWPOINT": "", "VERSION": ".5"}]
)
def test_headers_without_some_lines(save, kind, lines):
    data = pcd(cube(), kind, **lines)
    answer, labels, sure = labelled(save, data)
    rows = table_of(save("answer.pcd", answer))
    for axis, _, values in cube():
        np.testing.assert_array_equal(rows[axis], values)
    check_added(rows, ADDED, labels, sure)
    assert not {key for key in lines if not lines[key]} & set(header_lines(answer)) - {"SIZE", "TYPE"}


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_can_be_labelled_again(save, kind):
    once, labels, sure = labelled(save, pcd(cube(), kind))
    twice, *_ = labelled(save, once)
    rows = table_of(save("answer.pcd", twice))
    assert names_of(rows)[-5:] == tuple(f"fip_{name}" for name in ADDED)
    check_added(rows[list(names_of(rows)[:-5])], ADDED, labels, sure)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [256, 257])
def test_more_points_than_a_block_and_many_classes(save, kind, classes):
    n, label_map = BLOCK_ROWS + 77, many_classes(classes)
    fields: Fields = [(axis, "i2", random_values("i2", n, i)) for i, axis in enumerate("xyz")]
    answer, labels, sure = labelled(save, pcd(fields, kind), label_map)
    rows = table_of(save("answer.pcd", answer))
    for axis, _, values in fields:
        np.testing.assert_array_equal(rows[axis], values)
    check_added(rows, ADDED, labels, sure, label_map)
    assert rows["label"].dtype == (np.uint8 if classes == 256 else np.uint16)


@pytest.mark.parametrize("kind", KINDS)
def test_pypcd4_reads_the_answer_to_its_own_file(tmp_path, kind):
    n = 5000
    columns = {axis: np.round(random_values("f4", n, i) % 100, 3).astype("f4") for i, axis in enumerate("xyz")}
    columns |= {"rgb": np.resize(COLOURS, n).view("f4"), "ring": (np.arange(n) // 100).astype("u2"), "t": np.arange(n) / 8}
    types = [column.dtype.type for column in columns.values()]
    if kind == "ascii":  # ten decimals of a denormal number are none
        columns["rgb"] = np.full(n, 4.2108e06, "f4")
    Oracle.from_points(tuple(columns.values()), tuple(columns), types).save(tmp_path / "a.pcd", Encoding(kind))
    before = Oracle.from_path(tmp_path / "a.pcd")
    assert before.metadata.data == kind
    answer, labels, sure = answer_to(tmp_path / "a.pcd", "pcd", KITTI)
    (tmp_path / "answer.pcd").write_bytes(answer)
    after = Oracle.from_path(tmp_path / "answer.pcd")
    assert after.metadata.data == kind
    for name in columns:
        assert after.pc_data.dtype[name] == before.pc_data.dtype[name]
        assert after.pc_data[name].tobytes() == before.pc_data[name].tobytes()
    check_added(after.pc_data, ADDED, labels, sure)


@pytest.mark.data
@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_scan(tmp_path, data_dir, kind):
    rows = np.fromfile(data_dir / "semantickitti" / "sequences" / "08" / "velodyne" / "000000.bin", "<f4").reshape(-1, 4)
    fields: Fields = [(name, "f4", column) for name, column in zip(("x", "y", "z", "intensity"), rows.T, strict=True)]
    (tmp_path / "a.pcd").write_bytes(pcd(fields, kind))
    answer, labels, sure = answer_to(tmp_path / "a.pcd", "same", KITTI)
    (tmp_path / "answer.pcd").write_bytes(answer)
    after = Oracle.from_path(tmp_path / "answer.pcd").pc_data
    for name, _, column in fields:
        assert after[name].tobytes() == column.tobytes()
    check_added(after, ADDED, labels, sure)


def test_a_compressed_file_that_would_become_too_large_is_written_as_a_binary_one(save, monkeypatch):
    body = body_of(rich(), "binary_compressed", bare=True)
    data = header_of(rich(), "Binary_Compressed", 8) + body + b"more"
    monkeypatch.setattr("models.answers.pcd_same.COMPRESSED_BYTES", 8 * 60)
    answer, labels, sure = labelled(save, data)
    assert header_lines(answer)["DATA"] == "binary"
    assert answer.endswith(b"more")
    before, rows = table_of(save("before.pcd", data)), table_of(save("answer.pcd", answer))
    for name in names_of(before):
        assert rows[name].tobytes() == before[name].tobytes()
    check_added(rows, ("fip_label", *ADDED[1:]), labels, sure)


# --- from files of other formats


def test_a_cloud_of_another_format(save):
    n = 500
    path = save("scan.npy", b"")
    np.save(path, np.column_stack([random_values("f8", (n, 3)), np.arange(n) % 7]))
    answer, labels, sure = answer_to(path, "pcd", KITTI)
    after = Oracle.from_path(save("answer.pcd", answer))
    assert after.metadata.version == "0.7"
    assert after.metadata.data == Encoding.BINARY
    assert (after.metadata.width, after.metadata.height) == (n, 1)
    rows = np.load(path)
    for i, name in enumerate(("x", "y", "z", "intensity")):
        assert after.pc_data[name].tobytes() == rows[:, i].tobytes()
    check_added(after.pc_data, ADDED, labels, sure)


def cloud_columns(n: int = 200, **extra: np.ndarray) -> PointCloud:
    rng = np.random.default_rng(0)
    return PointCloud(
        rng.normal(size=(n, 3)).astype("f4"),
        rgb=rng.integers(0, 256, (n, 3), np.uint8),
        intensity=rng.random(n).astype("f4"),
        extra=MappingProxyType(extra),
    )


def test_colours_are_packed_where_others_look_for_them(save):
    cloud = cloud_columns(ring=np.arange(200, dtype=">u2"))
    labels, sure = guessed(200, 19)
    answer = answered("pcd", file_of(cloud), labels, sure, KITTI)
    after = Oracle.from_path(save("a.pcd", answer))
    assert after.fields == ("x", "y", "z", "rgb", "intensity", "ring", *ADDED)
    assert after.types[3] == np.float32
    bits = after.pc_data["rgb"].view(np.uint32)
    assert cloud.rgb is not None
    np.testing.assert_array_equal(np.stack([bits >> 16, bits >> 8 & 255, bits & 255], axis=1), cloud.rgb)
    np.testing.assert_array_equal(after.pc_data["ring"], np.arange(200))
    check_added(after.pc_data, ADDED, labels, sure)
    again = read_cloud(save("a.pcd", answer))
    for mine, theirs in ((again.xyz, cloud.xyz), (again.rgb, cloud.rgb), (again.intensity, cloud.intensity)):
        np.testing.assert_array_equal(mine, theirs)


def test_every_type_and_awkward_names(save):
    extra = {f"c_{code}": random_values(code, 200) for code in NUMBERS}
    extra |= {"rgb": np.ones(200), "a b": np.ones(200, bool), "a_b": np.full(200, 0.5, "f2"), "_": np.arange(200)}
    extra |= {"Höhe [m]": np.arange(200), "x\ty\nz": np.arange(200), "confidence": np.arange(200), "\ud800": np.arange(200)}
    labels, sure = guessed(200, 19)
    answer = answered("pcd", file_of(cloud_columns(**extra)), labels, sure, KITTI)
    rows = table_of(save("a.pcd", answer))
    names = ("rgb_2", "a_b", "a_b_2", "column", "Höhe_[m]", "x_y_z", "confidence", "__2")
    assert names_of(rows)[7 + len(NUMBERS) : -5] == (*names[:-1], names_of(rows)[-6])
    for name, column in zip(names_of(rows)[7:-5], extra.values(), strict=True):
        np.testing.assert_array_equal(rows[name], column)
    assert rows["a_b"].dtype == np.uint8
    assert rows["a_b_2"].dtype == np.float32
    assert all(rows.dtype[f"c_{code}"] == code for code in NUMBERS)
    check_added(rows, ("label", "fip_confidence", *ADDED[2:]), labels, sure)


# --- what cannot be held


@pytest.mark.parametrize(
    "fields",
    [
        [*cube(), *((f"c{i}", "u1", np.arange(8)) for i in range(249))],
        [*cube(), ("h", "u1", np.zeros((8, 2041)))],
        [*cube(), ("_", "u1", np.zeros((8, 2041)))],
    ],
)
def test_files_that_cannot_grow_are_refused_beforehand(save, fields):
    path = save("a.pcd", pcd(fields))
    assert len(read_cloud(path)) == 8
    with open_cloud(path) as file, pytest.raises(BadOption, match="another format"):
        check_answer("pcd", file, KITTI)


def test_a_header_that_cannot_grow_is_refused_beforehand(save):
    data = pcd(cube())
    spare = HEADER_BYTES - len(header_of(cube(), "binary", 8)) - 50
    path = save("a.pcd", data.replace(b"VERSION", b"#" * (spare - 1) + b"\nVERSION"))
    assert len(read_cloud(path)) == 8
    with open_cloud(path) as file, pytest.raises(BadOption, match="64 kB; ask for another format"):
        check_answer("pcd", file, KITTI)


def test_files_that_can_just_grow(save):
    for fields in ([*cube(), *((f"c{i}", "u1", np.arange(8)) for i in range(248))], [*cube(), ("h", "u1", np.zeros((8, 2040)))]):
        answer, labels, sure = labelled(save, pcd(fields))
        check_added(table_of(save("b.pcd", answer)), ADDED, labels, sure)


def test_comments_leave_the_header_readable(save):
    """However many classes there are and however long the header is already."""
    label_map = many_classes(5000)
    for spare in (0, 20_000, HEADER_BYTES - 1000):
        data = pcd(cube()).replace(b"VERSION", b"#" * spare + b"\nVERSION")
        answer, labels, sure = labelled(save, data, label_map)
        check_added(table_of(save("b.pcd", answer)), ADDED, labels, sure, label_map)
        assert answer.index(b"DATA binary") < HEADER_BYTES
        assert b"more classes" in answer


def test_columns_of_other_files_that_pcd_does_not_hold():
    labels, sure = guessed(200, 19)
    with pytest.raises(BadOption, match="cannot hold the column 'when'"):
        answered("pcd", file_of(cloud_columns(when=np.zeros(200, "M8[s]"))), labels, sure, KITTI)
    with pytest.raises(BadOption, match="256 fields"):
        answered("pcd", file_of(cloud_columns(**{f"c{i}": np.zeros(200) for i in range(250)})), labels, sure, KITTI)


@given(
    kind=st.sampled_from(KINDS),
    n=st.integers(1, 30),
    extra=st.lists(st.tuples(st.sampled_from(("_", "rgb", "rgba", "label", "h")), st.sampled_from(NUMBERS), st.integers(1, 3)), max_size=5),
    seed=st.integers(0, 99),
)
def test_any_fields(tmp_path_factory, kind, n, extra, seed):
    folder: Path = tmp_path_factory.getbasetemp()
    fields: Fields = [(axis, "f4", random_values("f4", n, seed + i)) for i, axis in enumerate("xyz")]
    for name, code, count in extra:
        if name == "_" or all(name != each for each, _, _ in fields):
            fields.insert(seed % 4, (name, code, random_values(code, (n, count), seed)))
    (folder / "any.pcd").write_bytes(pcd(fields, kind))
    before = table_of(folder / "any.pcd")
    answer, labels, sure = answer_to(folder / "any.pcd", "same", KITTI)
    (folder / "any-answer.pcd").write_bytes(answer)
    rows = table_of(folder / "any-answer.pcd")
    assert names_of(rows)[:-5] == names_of(before)
    for name in names_of(before):
        assert rows[name].tobytes() == before[name].tobytes()
    check_added(rows, names_of(rows)[-5:], labels, sure)
