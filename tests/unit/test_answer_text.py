"""Labelled text clouds: every line is the one that came, with the answer behind it; other files become XYZ or PTS."""

import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.answers.text_numbers import confidence_texts, number_texts
from models.io import open_cloud, read_cloud
from models.pointcloud import PointCloud
from tests.in_memory import answer_to, answered, cloud_of, encode, file_of, guessed, many_classes

NAMES = ("label", "confidence", "label_red", "label_green", "label_blue")
WORDS = r"\d+{s}[01]{p}\d{{6}}{s}\d+{s}\d+{s}\d+"


def without_added(answer: bytes, separator: str, point: str, end: str, header: str) -> bytes:
    """The answer without its words, taken off each line from behind; lines that are no rows end otherwise."""
    words = re.compile(("[" + separator + "]" + WORDS.format(s=f"[{separator}]", p=re.escape(point)) + r"$").encode())
    lines = [words.sub(b"", line) for line in answer.split(end.encode())]
    return end.encode().join(line.removesuffix(header.encode()) for line in lines)


ADDED_NAMES = " ".join(NAMES)
FILES = [  # name, text, separator, decimal point, line end, what is added to the names
    ("a.xyz", "1.50 2 -3\n4 5 6.000\n", " ", ".", "\n", ""),
    ("a.xyz", "1.50   2 -3 \n 4 5 6", " ", ".", "\n", ""),
    ("a.txt", "1.5\t2\t-3\r\n4\t5\t6\r\n", "\t", ".", "\r\n", ""),
    ("a.txt", "1.5 2 3\r4 5 6\r", " ", ".", "\r", ""),
    ("a.txt", "\ufeff# c\n\n1.5 2 -3\n\n  # d\n   \n4 5 6\n\n", " ", ".", "\n", ""),
    ("a.txt", "//X Y Z R G B\n1.5 2 -3 255 0 9\n4 5 6 7 8 9\n", " ", ".", "\n", " " + ADDED_NAMES),
    ("a.txt", "# x, y, z\n1.5 2 -3\n4 5 6\n", " ", ".", "\n", ", " + ADDED_NAMES.replace(" ", ", ")),
    ("a.asc", "2\n1.5 2 -3\n4 5 6\n", " ", ".", "\n", ""),
    ("a.pts", "1\r\n1.5 2 -3 -2048 7 8 9\r\n1\r\n4 5 6 7 8 9 10\r\n", " ", ".", "\r\n", ""),
    ("a.csv", "x,y,z\n1.5,2,-3\n4,5,6\n", ",", ".", "\n", "," + ADDED_NAMES.replace(" ", ",")),
    ("a.csv", '"x","y","z"\n"1.5","2","-3"\n"4","5","6"\n', ",", ".", "\n", ',"' + ADDED_NAMES.replace(" ", '","') + '"'),
    ("a.csv", 'x;y;name;z\r\n1,5;2;"a; b";-3\r\n4;5;chair;6\r\n', ";", ",", "\r\n", ";" + ADDED_NAMES.replace(" ", ";")),
    ("a.csv", "x,y,z,LABEL\n1.5,2,-3,7\n4,5,6,7\n", ",", ".", "\n", ",fip_" + ADDED_NAMES.replace(" ", ",")),
]


@pytest.mark.parametrize(("name", "text", "separator", "point", "end", "header"), FILES)
def test_without_what_was_added_it_is_the_file_that_came(save, name, text, separator, point, end, header):
    path = save(name, text.encode())
    answer, labels, confidence = answer_to(path, "same", many_classes(19))
    assert without_added(answer, separator, point, end, header) == text.encode()
    if header:
        assert header.encode() in answer
    path.write_bytes(answer)
    with open_cloud(path) as file:
        table = np.concatenate([each.copy() for each in file.records.read()])
        added = [table[each] for each in file.records.names[-5:]]
    np.testing.assert_array_equal(added[0], labels)
    np.testing.assert_allclose(added[1], confidence, rtol=0, atol=5.1e-7)
    np.testing.assert_array_equal(np.stack(added[2:], axis=1), [(label % 256, label // 256 % 256, 7) for label in labels.tolist()])


number = st.one_of(st.integers(-999, 999).map(str), st.floats(-1e6, 1e6).map(repr), st.decimals(-99, 99, places=3).map(str))
noise = st.sampled_from(["", "  ", "# comment", "// comment", "%"])


@given(
    st.lists(st.one_of(st.lists(number, min_size=5, max_size=5), noise), min_size=1, max_size=30),
    st.sampled_from([" ", ",", ";", "\t"]),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_any_file_comes_back(tmp_path_factory, lines, separator, end, ended):
    lines = [["1", "2.5", "3", "4.5", "5"], *lines]  # a first row that shows what the columns are
    text = end.join(line if isinstance(line, str) else separator.join(line) for line in lines) + (end if ended else "")
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(text.encode())
    answer, labels, _ = answer_to(path, "same", many_classes(300))
    assert len(labels) == sum(isinstance(line, list) for line in lines)
    assert without_added(answer, separator, ".", end, "") == text.encode()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", "1.5,2,-3,\n4,5,6,\n", "1.5,2,-3A,\n4,5,6B,\n"),
        ("a.csv", "1.5,2,-3,", "1.5,2,-3A,"),
        ("a.csv", "x,y,z\r\n1.5,2,-3,\r\n4,5,6,\r\n", "x,y,zN\r\n1.5,2,-3A,\r\n4,5,6B,\r\n"),
        ("a.csv", "x;y;z;\n1,5;2;-3;\n4;5;6; \n", "x;y;zN;\n1,5;2;-3A;\n4;5;6B; \n"),
        ("a.csv", "1.5\t2\t-3\t\n4\t5\t6\t\n", "1.5\t2\t-3A\t\n4\t5\t6B\t\n"),
        ("a.xyz", "1.5 2 -3 # note\n# all\n4 5 6\n", "1.5 2 -3A # note\n# all\n4 5 6B\n"),
        ("a.xyz", "1.5 2 -3\n4 5 6#x y\r\n", "1.5 2 -3A\n4 5 6B#x y\r\n"),
        ("a.xyz", "//X Y Z\n1.5 2 -3  // a # b\n4 5 6 % 7\n", "//X Y ZN\n1.5 2 -3A  // a # b\n4 5 6B % 7\n"),
        ("a.csv", "1.5,2,-3, # note\n4,5,6,\n", "1.5,2,-3A, # note\n4,5,6B,\n"),
        ("a.txt", "x y z c\n1.5 2 -3 #ff0000\n4 5 6 #a0b\n", "x y z cN\n1.5 2 -3 #ff0000A\n4 5 6 #a0bB\n"),
        ("a.csv", "x,y,z,c\n1.5,2,-3,C # 1\n4,5,6,C # 2\n", "x,y,z,cN\n1.5,2,-3,C # 1A\n4,5,6,C # 2B\n"),
    ],
)
def test_the_answer_stands_before_what_ends_a_row(save, name, text, expected):
    """A separator, a comment. N are the added names, A and B what is added to the two rows."""
    path = save(name, text.encode())
    answer, labels, confidence = answer_to(path, "same", many_classes(3))
    separator = next((each for each in ";,\t" if each in text), " ")
    point = "," if separator == ";" else "."
    for place, sign in enumerate("AB"[: len(labels)]):
        words = [str(labels[place]), f"{confidence[place]:.6f}".replace(".", point), str(labels[place]), "0", "7"]
        expected = expected.replace(sign, separator + separator.join(words))
    assert answer.decode() == expected.replace("N", separator + ADDED_NAMES.replace(" ", separator))
    path.write_bytes(answer)
    with open_cloud(path) as file:
        table = np.concatenate([each.copy() for each in file.records.read()])
    np.testing.assert_array_equal(table[file.records.names[0]], [1.5, 4][: len(table)])
    np.testing.assert_array_equal(table[file.records.names[-5]], labels)


def test_many_blocks_come_back(save):
    rng = np.random.default_rng(0)
    rows = [f"{x:.3f} {y:.2f} {z:g} {i}" for x, y, z, i in rng.normal(0, 100, (40_000, 4)).tolist()]
    rows[20_000:20_000] = ["", "# half way", ""]
    text = "\r\n".join(rows) + "\r\n"
    answer, labels, _ = answer_to(save("a.txt", text.encode()), "same", many_classes(3))
    assert without_added(answer, " ", ".", "\r\n", "") == text.encode()
    found = [int(line.split()[4]) for line in answer.decode().splitlines() if len(line.split()) == 9]
    assert found == labels.tolist()


@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize("fmt", ["xyz", "pts"])
def test_other_files_become_text(save, fmt, kind):
    cloud = cloud_of(300, kind, time=np.linspace(0, 1e9, 300), ring=np.arange(300, dtype=np.uint16))
    labels, confidence = guessed(300)
    answer = encode(fmt, cloud, labels, confidence, many_classes(19))
    path = save(f"a.{fmt}", answer)
    first = answer.splitlines()[0].decode()
    if fmt == "pts":
        assert first == "300"
        table = np.loadtxt(io.BytesIO(answer), skiprows=1)
        intensity, rgb = table[:, 3], table[:, 4:7]
    else:
        assert first == "//X Y Z R G B intensity time ring " + ADDED_NAMES
        table = np.loadtxt(path, skiprows=1)
        intensity, rgb = table[:, 6], table[:, 3:6]
        again = read_cloud(path)
        np.testing.assert_array_equal(again.rgb, cloud.rgb)
        np.testing.assert_array_equal(again.extra["ring"], cloud.extra["ring"])
        np.testing.assert_array_equal(again.extra["label"], labels)
    np.testing.assert_array_equal(table[:, :3].astype(kind), cloud.xyz)
    np.testing.assert_array_equal(intensity.astype(np.float32), cloud.intensity)
    np.testing.assert_array_equal(rgb, cloud.rgb)
    np.testing.assert_array_equal(table[:, 7], cloud.extra["time"])
    np.testing.assert_array_equal(table[:, 9], labels)
    np.testing.assert_allclose(table[:, 10], confidence, rtol=0, atol=5.1e-7)


def test_names_of_several_words_are_one_in_xyz():
    cloud = cloud_of(3, **{"GPS time": np.arange(3)})
    assert b" GPS_time label " in encode("xyz", cloud, *guessed(3, 2), many_classes(2)).splitlines()[0]


def test_a_cloud_without_colour_and_intensity_as_pts():
    answer = answered(
        "pts", file_of(PointCloud(np.arange(9.0).reshape(3, 3))), np.array([0, 1, 0]), np.ones(3, np.float32), many_classes(2)
    )
    assert answer == b"3\n0 1 2 0 1.000000 0 0 7\n3 4 5 1 1.000000 1 0 7\n6 7 8 0 1.000000 0 0 7\n"


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_float32_has_the_fewest_digits_that_bring_it_back(values):
    column = np.array(values, np.float32)
    texts = number_texts(column)
    np.testing.assert_array_equal(np.array(texts, np.float64).astype(np.float32).view(np.uint32), column.view(np.uint32))
    np.testing.assert_array_equal(np.array(texts, np.float64), [float(str(each)) for each in column])  # numpy's own shortest text


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_float64_comes_back(values):
    assert np.array(number_texts(np.array(values)), np.float64).tobytes() == np.array(values).tobytes()


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        (np.array([1, 255], np.uint8), [b"1", b"255"]),
        (np.array([-1, 1 << 62]), [b"-1", b"4611686018427387904"]),
        (np.array([(1 << 64) - 1], np.uint64), [b"18446744073709551615"]),
        (np.array([True, False]), [b"1", b"0"]),
        (np.array([1, 0.1, 1e-7, np.nan, np.inf, -np.inf], ">f4"), [b"1", b"0.1", b"1e-7", b"nan", b"inf", b"-inf"]),
        (np.array([0x7F800001], np.uint32).view(np.float32), [b"nan"]),  # a NaN that signals
        (np.array([0x7F800001], ">u4").view(">f4"), [b"nan"]),
        (np.array([0x7C01], np.uint16).view(np.float16), [b"nan"]),
        (np.array([-0.0, 10.0, 1.5]), [b"-0", b"10", b"1.5"]),
        (np.array([[1, 2], [3, 4]])[:, 0], [b"1", b"3"]),
        (np.array([3.0], np.longdouble), [b"3"]),
        (np.zeros(0), []),
        (np.array([0.1, 2049], np.float16), [b"0.099975586", b"2048"]),
        (np.array([5.0, 1e22], ">f8"), [b"5", b"1e+22"]),
    ],
)
def test_numbers_of_every_type(column, texts):
    assert number_texts(column) == texts


@given(st.lists(st.floats(0, 1, width=32), min_size=1))
def test_confidences_are_rounded_as_python_rounds_them(values):
    assert confidence_texts(np.array(values, np.float32)) == [b"%.6f" % value for value in values]
    assert confidence_texts(np.float32([0.5]), ",") == [b"0,500000"]
